"""What users import: classes by name, settings, steps, reconstruction."""

import pytest
import torch

from nextscale import VARPipeline
from nextscale.families import base, family
from nextscale.families.config import SCALES_512
from nextscale.families.dit import DiTConfig
from nextscale.families.var import VAR, VARConfig
from nextscale.nn.packed import PackedLinear, QuantizedLinear, pack_linears
from nextscale.sampling.next_scale import SamplingConfig
from toys import CLASS_NAMES, make_pipeline

CPU = torch.device("cpu")


def test_classes_by_name_id_and_none(pipeline: VARPipeline) -> None:
    assert pipeline.class_ids(["green", 2, "0", None, " RED "]) == [1, 2, 0, 3, 2]
    assert pipeline.class_ids("blue") == [0]
    assert pipeline.class_names == CLASS_NAMES


@pytest.mark.parametrize(
    ("name", "message"),
    [("gren", "did you mean green"), (7, "ids go from 0 to 2"), ("-1", "ids go from 0 to 2"), ("zzzz", "known are")],
)
def test_unknown_classes_list_near_matches(pipeline: VARPipeline, name: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        pipeline.class_ids([name])  # pyright: ignore[reportArgumentType]


def test_image_i_has_class_i_mod_n_and_its_own_seed(pipeline: VARPipeline) -> None:
    result = pipeline.generate(["blue", "red"], seeds=range(5), batch_size=2)
    assert result.classes == [0, 2, 0, 2, 0]
    assert result.seeds == list(range(5))
    assert len(result.images) == 5
    assert result.images[0].size == (16, 16)
    assert result.tokens.packed.shape == (5, 30)
    again = pipeline.generate(["red"], seeds=[3])
    assert torch.equal(again.tokens.packed[0], result.tokens.packed[3])
    assert again.images[0].tobytes() == result.images[3].tobytes()


def test_without_seeds_one_image_per_class(pipeline: VARPipeline) -> None:
    result = pipeline.generate(["blue", "red"])
    assert result.classes == [0, 2]
    assert result.seeds == [0, 1]
    assert len(result.images) == 2


@pytest.mark.parametrize("batch_size", [1, 3, 16])
def test_images_do_not_depend_on_the_batch_size(pipeline: VARPipeline, batch_size: int) -> None:
    expected = pipeline.generate([0, 1, 2, None], seeds=range(12), batch_size=12)
    result = pipeline.generate([0, 1, 2, None], seeds=range(12), batch_size=batch_size)
    assert torch.equal(result.tokens.packed, expected.tokens.packed)
    assert [i.tobytes() for i in result.images] == [i.tobytes() for i in expected.images]


def test_defaults_live_in_the_model(pipeline: VARPipeline) -> None:
    assert pipeline.sampling() == SamplingConfig(guidance=2.0, top_k=8, top_p=0.9)
    assert pipeline.sampling(top_k=0, guidance=None) == SamplingConfig(guidance=2.0, top_k=0, top_p=0.9)


def test_steps_preview_every_scale(pipeline: VARPipeline) -> None:
    steps = list(pipeline.generate_steps([1], seeds=[4, 5]))
    assert [step.scale for step in steps] == [0, 1, 2, 3]
    assert [tuple(step.tokens.shape) for step in steps] == [(2, 1, 1), (2, 2, 2), (2, 3, 3), (2, 4, 4)]
    whole = pipeline.generate([1], seeds=[4, 5])
    assert [i.tobytes() for i in steps[-1].preview()] == [i.tobytes() for i in whole.images]
    assert len(steps[0].preview()) == 2


def test_reconstruction_is_encode_and_decode(pipeline: VARPipeline) -> None:
    images = torch.rand(2, 3, 16, 16) * 2 - 1
    expected = pipeline.tokenizer.decode(pipeline.tokenizer.encode(images))
    torch.testing.assert_close(pipeline.reconstruct(images), expected)


def test_logits_are_those_of_teacher_forcing(pipeline: VARPipeline) -> None:
    pyramid = pipeline.tokenizer.encode(torch.rand(2, 3, 16, 16) * 2 - 1)
    logits = pipeline.logits(pyramid, ["red"])
    assert logits.shape == (2, 30, 32)
    assert logits.dtype == torch.float32
    changed = pyramid.packed.clone()
    changed[:, -1] = (changed[:, -1] + 1) % 32
    from nextscale import TokenPyramid

    assert torch.equal(pipeline.logits(TokenPyramid(changed, pyramid.schedule), ["red"]), logits)


def test_an_unconditional_model(pipeline: VARPipeline) -> None:
    model = make_pipeline(classes=0)
    assert model.generate(None, seeds=[0]).classes == [0]
    with pytest.raises(ValueError, match="does not exist"):
        model.class_ids([0])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"seeds": []}, "no seeds"),
        ({"seeds": [0], "batch_size": -1}, "batch_size"),
        ({"seeds": [0], "top_p": 2}, "top_p"),
    ],
)
def test_wrong_calls_are_explained(pipeline: VARPipeline, arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        pipeline.generate([0], **arguments)
    with pytest.raises(ValueError, match="no classes given"):
        pipeline.generate([], seeds=[0])


def test_bf16_pipeline_runs(model_folder) -> None:
    pipeline = VARPipeline.from_pretrained(model_folder, device="cpu", dtype="bf16")
    assert pipeline.precision == "bf16"
    assert pipeline.tokenizer.quantizer.codebook.dtype == torch.float32
    assert len(pipeline.generate("red", seeds=[0, 1]).images) == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [({"device": "toaster"}, "device 'toaster' is not known"), ({"dtype": "fp7"}, "precision 'fp7' is not known"),
     ({"dtype": torch.float64}, "not supported")],
)  # fmt: skip
def test_unknown_devices_and_precisions(model_folder, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        VARPipeline.from_pretrained(model_folder, **options)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_compiled_pipelines_give_the_same_tokens(dtype: torch.dtype) -> None:
    """Graphs are captured whole and run as they are: what they compile to is torch's business."""
    plain, compiled = make_pipeline().to(CPU, dtype), make_pipeline().to(CPU, dtype)
    compiled.compile(backend="aot_eager", fullgraph=True)
    for seeds in ([0, 1], [2, 3, 4]):
        expected = plain.generate([0, 1], seeds=seeds)
        found = compiled.generate([0, 1], seeds=seeds)
        assert torch.equal(found.tokens.packed, expected.tokens.packed)
        assert [image.tobytes() for image in found.images] == [image.tobytes() for image in expected.images]


def test_no_packed_weights_reach_the_compiler() -> None:
    """It refuses them, as they are no constants of its graph; int8 layers hold nothing else."""
    pipeline = make_pipeline().to(CPU, torch.float32)
    pipeline.compile(backend="eager")
    assert not any(isinstance(module, PackedLinear) for module in pipeline.transformer.modules())
    pack_linears(pipeline.transformer.blocks, QuantizedLinear)
    with pytest.raises(ValueError, match="int8 has kernels of its own, which are not compiled"):
        pipeline.compile(backend="eager")


def test_the_default_batch_bounds_keys_and_values() -> None:
    assert make_pipeline().default_batch_size == 16
    with torch.device("meta"):
        large = VAR(VARConfig(depth=16))
    pipeline = make_pipeline()
    pipeline.transformer = large
    assert pipeline.default_batch_size == 1  # 178 MB an image in float32
    pipeline.transformer = large.to(torch.bfloat16)
    assert pipeline.default_batch_size == 3
    with torch.device("meta"):
        pipeline.transformer = VAR(VARConfig(depth=36, scales=SCALES_512))
    assert pipeline.default_batch_size == 1


@pytest.mark.parametrize(("free", "images"), [(0, 1), (3 * 2**28, 2), (8 * 2**30, 16), (78 * 2**30, 64)])
def test_on_cuda_batches_fill_the_memory(monkeypatch: pytest.MonkeyPatch, free: int, images: int) -> None:
    monkeypatch.setattr(base, "free_memory", lambda device: free)
    config = VARConfig(depth=16)
    assert family("var").batch_size(config, torch.bfloat16, torch.device("cuda")) == images
    assert family("dit").batch_size(DiTConfig(), torch.bfloat16, torch.device("cuda")) >= images


def test_graphs_are_for_cuda(pipeline: VARPipeline) -> None:
    assert pipeline.to(CPU, torch.float32).graphs
    assert pipeline.transformer.graphs is None and pipeline.tokenizer.graphs is None
    assert not pipeline.use_graphs(False).to(CPU, torch.float32).graphs
