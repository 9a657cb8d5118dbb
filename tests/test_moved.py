"""Names that have moved are the same objects under their old paths."""

from importlib import import_module

import pytest

from nextscale.moved import MOVED, MovedModules

OLD = {
    "nextscale.models.config": ("TransformerConfig", "VARConfig", "RasterConfig", "RQConfig", "MaskGITConfig"),
    "nextscale.models.var": ("VAR", "VARConfig"),
    "nextscale.models.transformer": ("Condition", "Transformer"),
    "nextscale.evaluation.cost": ("generation_flops", "training_flops"),
    "nextscale.evaluation.frechet": ("FeatureStatistics", "frechet_distance"),
    "nextscale.evaluation.judges": ("load_rejection", "ClassifierJudge"),
    "nextscale.evaluation.plots": ("plot_codebook", "require_plots"),
    "nextscale.scaling.report": ("fit_family", "read_results"),
    "nextscale.tokenizer.usage": ("CodebookUsage",),
    "nextscale.training.distributed": ("launched", "wait_for_all"),
    "nextscale.training.perceptual": ("PerceptualDistance",),
    "nextscale.training.record": ("read_record",),
    "nextscale.training.tokenizer": ("train_tokenizer", "TokenizerTraining"),
    "nextscale.training.transformer": ("train_transformer", "TransformerTraining"),
}


@pytest.mark.parametrize("old", OLD)
def test_old_paths_give_the_same_objects(old: str) -> None:
    for name in OLD[old]:
        assert getattr(import_module(old), name) is getattr(import_module(MOVED[old][0]), name)


@pytest.mark.parametrize("old", MOVED)
def test_every_old_module_can_be_imported_and_refuses_what_it_never_had(old: str) -> None:
    module = import_module(old)
    assert isinstance(module.__loader__, MovedModules), "a module of that name exists: the row is never read"
    for home in MOVED[old]:
        import_module(home)
    with pytest.raises(AttributeError, match=old):
        _ = module.never
