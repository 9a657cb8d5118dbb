"""The transformer: causality, the cache, initial weights, published sizes."""

import math

import pytest
import torch

from nextscale.families import family
from nextscale.families.var import VAR, VARConfig
from nextscale.nn import transformer
from nextscale.nn.transformer import no_decay
from toys import make_transformer, transformer_config

VARIANTS = [
    {},
    {"shared_adaln": True},
    {"qk_normalisation": False},
    {"adaln": False},
    {"scales": ((2, 2), (2, 4), (2, 4))},
    {"scales": ((3, 3),)},
    {"attention": "scale"},
]


def inputs(model: VAR, batch: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    length = model.schedule.length - model.schedule.lengths[0]
    latents = torch.randn(batch, length, model.config.latent_channels, generator=torch.Generator().manual_seed(1))
    return latents, torch.arange(batch) % (model.config.classes + 1)


@pytest.mark.parametrize("changes", VARIANTS)
def test_cached_steps_equal_the_masked_forward(changes: dict) -> None:
    model = make_transformer(**changes)
    latents, classes = inputs(model)
    with torch.no_grad():
        whole = model(latents, classes)
        condition, cache = model.condition(classes), model.new_cache(2)
        start = model.schedule.lengths[0]
        for scale in range(len(model.schedule)):
            span = model.schedule.slice(scale)
            known = None if scale == 0 else latents[:, span.start - start : span.stop - start]
            logits = model.classify(model.step(scale, known, condition, cache))
            torch.testing.assert_close(logits, whole[:, span], atol=2e-4, rtol=1e-4)


@pytest.mark.parametrize("changes", VARIANTS)
@pytest.mark.parametrize("gradients", [True, False])
def test_groups_and_checkpointing_change_nothing(
    monkeypatch: pytest.MonkeyPatch, changes: dict, gradients: bool
) -> None:
    model = make_transformer(**changes, drop_path=0.0).train()
    latents, classes = inputs(model)
    outcomes = []
    for smallest, checkpointing in ((10**9, False), (1, False), (5, False), (5, True)):
        monkeypatch.setattr(transformer, "ATTENTION_GROUP", smallest)
        model.checkpointing = checkpointing
        model.zero_grad()
        with torch.set_grad_enabled(gradients):
            logits = model(latents, classes)
        if gradients:
            logits.square().mean().backward()
        outcomes.append([logits.detach()] + [p.grad.clone() for p in model.parameters() if p.grad is not None])
    assert (len(outcomes[0]) > 1) == gradients
    for other in outcomes[1:]:
        for expected, found in zip(outcomes[0], other, strict=True):
            torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-3)


@pytest.mark.parametrize("changes", VARIANTS[:4])
def test_a_later_scale_never_changes_earlier_logits(changes: dict) -> None:
    model = make_transformer(**changes)
    latents, classes = inputs(model)
    with torch.no_grad():
        before = model(latents, classes)
        for scale in range(1, len(model.schedule)):
            span, start = model.schedule.slice(scale), model.schedule.lengths[0]
            changed = latents.clone()
            changed[:, span.start - start : span.stop - start] += 1
            after = model(changed, classes)
            assert torch.equal(after[:, : span.start], before[:, : span.start])
            assert not torch.allclose(after[:, span], before[:, span])


def test_a_scale_that_sees_itself_alone_reads_nothing_of_coarser_scales() -> None:
    model = make_transformer(attention="scale")
    latents, classes = inputs(model)
    start = model.schedule.lengths[0]
    with torch.no_grad():
        before = model(latents, classes)
        for scale in range(1, len(model.schedule)):
            span = model.schedule.slice(scale)
            changed = torch.randn_like(latents)
            own = slice(span.start - start, span.stop - start)
            changed[:, own] = latents[:, own]
            after = model(changed, classes)
            torch.testing.assert_close(after[:, span], before[:, span], atol=1e-5, rtol=1e-4)
            assert not torch.allclose(after[:, start:], before[:, start:])
    assert model.new_cache(2) is None
    assert family("var").cache_bytes(model.config, torch.float32) == 0
    assert family("var").cache_bytes(make_transformer().config, torch.float32) == 2 * 2 * 2 * 128 * 30 * 4


def test_the_class_changes_every_position() -> None:
    model = make_transformer()
    latents, _ = inputs(model, batch=1)
    with torch.no_grad():
        a, b = (model(latents, torch.tensor([label])) for label in (0, 3))
    assert ((a - b).abs().amax(dim=-1) > 1e-4).all()


def test_steps_out_of_order_are_an_error_of_ours() -> None:
    model = make_transformer()
    with pytest.raises(AssertionError, match="in order"):
        model.step(1, torch.zeros(1, 4, 8), model.condition(torch.tensor([0])), model.new_cache(1))


@pytest.mark.parametrize(("depth", "parameters"), [(16, 310_283_520)])
def test_published_parameter_count(depth: int, parameters: int) -> None:
    with torch.device("meta"):
        model = VAR(VARConfig(depth=depth))
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters


def test_initial_weights_follow_the_published_rule() -> None:
    torch.manual_seed(0)
    config = transformer_config(depth=4)
    model = VAR(config)
    model.initialise()
    std = math.sqrt(1 / (3 * config.width))
    block = model.blocks[0]
    shrink = math.sqrt(2 * config.depth)

    def spread(weight: torch.Tensor) -> float:
        return weight.std().item()

    # trunc_normal_ cuts at +-2, far beyond these spreads
    assert spread(block.attention.qkv.weight) == pytest.approx(std, rel=0.05)
    assert spread(block.attention.proj.weight) == pytest.approx(std / shrink, rel=0.05)
    assert spread(model.head.weight) == pytest.approx(0.02 * std, rel=0.05)
    assert block.modulation is not None
    rows = block.modulation.weight.unflatten(0, (6, -1))
    assert spread(rows[:2]) == pytest.approx(1e-3 * std, rel=0.05)
    assert spread(rows[2:]) == pytest.approx(0.5 * std, rel=0.05)
    latents, classes = inputs(model)
    entropy = torch.distributions.Categorical(logits=model(latents, classes)).entropy()
    assert entropy.mean().item() == pytest.approx(math.log(32), abs=1e-2)


def test_weight_decay_skips_vectors_positions_and_scales() -> None:
    model = make_transformer(shared_adaln=True)
    skipped = {name for name, parameter in model.named_parameters() if no_decay(name, parameter)}
    assert {"positions", "start_position", "level_embedding.weight", "blocks.0.offset"} <= skipped
    assert "blocks.0.attention.log_scale" in skipped
    assert not {"class_embedding.weight", "head.weight", "blocks.0.attention.qkv.weight"} & skipped
    assert all(no_decay(name, p) for name, p in model.named_parameters() if name.endswith("bias"))


def test_without_adaln_the_class_is_the_start_token_alone() -> None:
    """Half as deep again, such a model has as many parameters in its blocks, within its few vectors."""
    model, modulated = make_transformer(adaln=False, depth=3, heads=2), make_transformer(depth=2, heads=2)
    weights = [
        sum(p.numel() for block in one.blocks for name, p in block.named_parameters() if name.endswith("weight"))
        for one in (model, modulated)
    ]  # fmt: skip
    assert weights[0] == weights[1]
    assert all(no_decay(name, p) for name, p in model.named_parameters() if name.endswith("offset"))
    fresh = VAR(model.config)
    fresh.initialise()
    for row in fresh.condition(torch.arange(3)).rows:
        assert torch.equal(row, torch.tensor([1.0, 1, 0, 0, 0, 0])[:, None].expand(3, 6, model.config.width))
    latents, _ = inputs(model)
    with torch.no_grad():
        first, second = model(latents, torch.tensor([0, 1]))
    assert not torch.equal(first, second)
    with pytest.raises(ValueError, match="choose one"):
        transformer_config(adaln=False, shared_adaln=True)


def test_drop_path_only_acts_in_training() -> None:
    model = make_transformer(drop_path=0.9)
    latents, classes = inputs(model, batch=8)
    with torch.no_grad():
        assert torch.equal(model(latents, classes), model(latents, classes))
        model.train()
        torch.manual_seed(0)
        first = model(latents, classes)
        assert not torch.equal(first, model(latents, classes))


@pytest.mark.parametrize(
    "changes", [{"depth": 0}, {"classes": -1}, {"drop_path": 1.0}, {"scales": ()}, {"attention": "row"}]
)
def test_bad_configs_are_refused(changes: dict) -> None:
    with pytest.raises(ValueError, match=r"must be|needs at least|expected causal or scale"):
        transformer_config(**changes)
