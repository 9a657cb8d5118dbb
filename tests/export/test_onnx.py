"""Exported graphs compute what the model does, and a sampler that knows nothing but the folder draws its tokens."""

import ast
import copy
import json
from collections.abc import Iterator
from dataclasses import replace
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from nextscale.cli import main
from nextscale.export import export_onnx
from nextscale.export.config import OnnxConfig
from nextscale.export.graphs import EncoderGraph, TransformerGraph
from nextscale.export.narrow import last_product
from nextscale.export.tables import phi_numbers, quantizer_tables
from nextscale.pipeline import VARPipeline
from nextscale.pyramid import TokenPyramid
from nextscale.sampling.likelihood import teacher_inputs
from toys import make_baseline, make_pipeline, make_tokenizer, make_transformer, pixels, toy_image

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxscript")
onnxruntime = pytest.importorskip("onnxruntime")

from nextscale.export import onnx as exporting  # noqa: E402

EXAMPLE = Path(__file__).parents[2] / "examples" / "onnx_sample.py"
GRAPHS = ("encoder.onnx", "transformer.onnx", "decoder.onnx")


def sampler() -> ModuleType:
    """The reference sampler."""
    spec = spec_from_file_location("onnx_sample", EXAMPLE)
    assert spec is not None and spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Exported:
    """A toy model, its folder, and the reference sampler on it."""

    def __init__(self, pipeline: VARPipeline, folder: Path) -> None:
        self.pipeline, self.folder = pipeline, folder
        self.model = sampler().OnnxModel(folder)

    def parts(self, graph: Any, tokens: Any, classes: list[int]) -> np.ndarray:
        """Logits (B, L, V) of known tokens, part by part with the cache."""
        known = teacher_inputs(self.pipeline.transformer, self.pipeline.tokenizer.quantizer, tokens).numpy()
        about = self.model.about
        first = about["parts"][0]
        latents = np.concatenate([np.full_like(known[:, :first], 9.0), known], axis=1)  # at the first it does not count
        cache = np.zeros((len(classes), *about["cache"]), np.float32)
        found, end = [], 0
        for length in about["parts"]:
            inputs = {"classes": np.array(classes, np.int32), "latents": latents[:, end : end + length], "cache": cache}
            logits, cache = graph.run(None, inputs)
            found.append(logits)
            end += length
        return np.concatenate(found, axis=1)


@pytest.fixture(scope="module")
def var(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """Written by the command line."""
    folder, pipeline = tmp_path_factory.mktemp("var"), make_pipeline(depth=1, heads=2)
    pipeline.save_pretrained(folder / "model")
    words = ["--model", str(folder / "model"), "--out", str(folder / "onnx"), "--json", str(folder / "results.json")]
    assert main(["export", "onnx", *words, "--licence", "ours"]) == 0
    return Exported(pipeline, folder / "onnx")


@pytest.fixture(scope="module")
def raster(var: Exported, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """Its transformer alone is traced: encoder and decoder are those of the other model."""
    pipeline, ours = make_baseline("raster"), var.pipeline.tokenizer.state_dict()
    for parameter in pipeline.transformer.parameters():
        torch.nn.init.normal_(parameter, std=0.25 if parameter.ndim > 1 else 0.1)
    pipeline.config = replace(pipeline.config, guidance=1.5, top_k=6)
    for name, tensor in pipeline.tokenizer.state_dict().items():
        assert name.startswith("quantizer") or torch.equal(tensor, ours[name])
    with pytest.MonkeyPatch.context() as patch:
        traced, known = exporting.traced, known_graphs(var.folder)

        def trace(module: torch.nn.Module, *given: Any) -> Any:
            return traced(module, *given) if isinstance(module, TransformerGraph) else known(module)

        patch.setattr(exporting, "traced", trace)
        folder = tmp_path_factory.mktemp("raster") / "onnx"
        export_onnx(pipeline, folder, source="a toy")
    return Exported(pipeline, folder)


def known_graphs(folder: Path) -> Any:
    """In the place of `traced`: what was traced before."""

    def load(module: torch.nn.Module, *_: Any) -> Any:
        kinds = {EncoderGraph: "encoder", TransformerGraph: "transformer"}
        return onnx.load(folder / f"{kinds.get(type(module), 'decoder')}.onnx")

    return load


@pytest.fixture(params=["var", "raster"])
def exported(request: pytest.FixtureRequest) -> Exported:
    return request.getfixturevalue(request.param)


def test_the_likeliest_tokens_are_ours(exported: Exported) -> None:
    pipeline = exported.pipeline
    for label in range(3):
        result = pipeline.generate([label], seeds=[0], top_k=1)
        tokens, image = exported.model.sample(label, None)
        assert np.concatenate(tokens, axis=1).tolist() == result.tokens.packed.tolist()
        assert np.abs(image - pipeline.tokenizer.decode(result.tokens).numpy()).max() < 1e-4


@pytest.mark.parametrize(
    "settings",
    [{}, {"guidance": 0.0}, {"top_k": 0, "top_p": 0.0}, {"top_k": 5, "top_p": 0.7, "temperature": 0.8}],
    ids=["defaults", "unguided", "unfiltered", "filtered"],
)
def test_seeds_draw_our_tokens(exported: Exported, settings: dict[str, float]) -> None:
    for label, seed in ((0, 0), (2, 2**40)):
        result = exported.pipeline.generate([label], seeds=[seed], **settings)
        tokens, _ = exported.model.sample(label, seed, **settings)
        assert np.concatenate(tokens, axis=1).tolist() == result.tokens.packed.tolist()


def test_spatial_guidance_is_ours(var: Exported) -> None:
    result = var.pipeline.generate([1], seeds=[3], spatial_guidance=(0.8, 0.5, 0.2))
    tokens, _ = var.model.sample(1, 3, spatial_guidance=[0.0, 0.8, 0.5, 0.2])
    assert np.concatenate(tokens, axis=1).tolist() == result.tokens.packed.tolist()


def test_images_become_our_tokens(exported: Exported) -> None:
    images = torch.cat([pixels(toy_image(label, 0)) for label in range(3)])
    found = np.concatenate(exported.model.tokenise(images.numpy()), axis=1)
    assert found.tolist() == exported.pipeline.tokenizer.encode(images).packed.tolist()
    (features,) = exported.model.run("encoder", images=images.numpy())
    with torch.no_grad():
        ours = exported.pipeline.tokenizer.features(images).flatten(2).transpose(1, 2).numpy()
    assert np.abs(features - ours).max() < 1e-4 * np.abs(ours).max()


@pytest.mark.parametrize(
    "changes", [{}, {"scales": ((4, 4),), "phi_map": (-1,)}, {"scales": ((2, 2), (4, 4)), "phi_map": (0, 0)}]
)
@torch.no_grad()
def test_tables_of_normalised_codes_add_up_as_the_quantiser_does(changes: dict[str, Any]) -> None:
    """Codes at length 1, and scales without phi, as ViT-VQGAN has them."""
    quantizer = make_tokenizer(normalised_codes=True, **changes).quantizer
    quantizer.codebook.normal_(std=3)
    model = object.__new__(sampler().OnnxModel)
    model.tables = {name: table.numpy() for name, table in quantizer_tables(quantizer).items()}
    model.about = {"phi": phi_numbers(quantizer), "scales": quantizer.schedule.to_list()}
    packed = torch.randint(32, (2, quantizer.schedule.length))
    found = np.zeros((2, 16, 8), np.float32)
    for scale, tokens in enumerate(packed.split([h * w for h, w in quantizer.schedule], dim=1)):
        found = model.add(found, tokens.numpy(), scale)
    ours = quantizer.decode(TokenPyramid(packed, quantizer.schedule))
    assert np.abs(found - ours.flatten(2).transpose(1, 2).numpy()).max() < 1e-5


def test_parts_with_a_cache_equal_the_whole_sequence(exported: Exported) -> None:
    """At any batch size, the unconditional class included."""
    images, classes = torch.cat([pixels(toy_image(label, 1)) for label in range(3)]), [2, 0, 3]
    tokens = exported.pipeline.tokenizer.encode(images)
    known = teacher_inputs(exported.pipeline.transformer, exported.pipeline.tokenizer.quantizer, tokens)
    ours = exported.pipeline.transformer(known, torch.tensor(classes)).detach().numpy()
    found = exported.parts(exported.model.graphs["transformer"], tokens, classes)
    assert np.abs(found - ours).max() < 1e-4 * np.abs(ours).max()


def test_the_description_tells_what_the_files_hold(exported: Exported) -> None:
    about = exported.model.about
    assert about["tokenizer"] == exporting.describe(exported.pipeline, OnnxConfig(), {}, source="")["tokenizer"]
    assert about["class_names"] == ["blue", "green", "red"] and about["unconditional"] == 3
    assert sorted(about["files"]) == sorted([*GRAPHS, "quantizer.safetensors"])
    for name, file in about["files"].items():
        assert file["bytes"] == (exported.folder / name).stat().st_size
    for name in GRAPHS:
        graph = exported.model.graphs[name.removesuffix(".onnx")]
        for told, values in (("inputs", graph.get_inputs()), ("outputs", graph.get_outputs())):
            told = about["files"][name][told]
            assert {value.name: value.shape for value in values} == {key: one["shape"] for key, one in told.items()}
            assert all(value.shape[0] == "batch" for value in values)


def test_the_command_says_what_it_wrote(var: Exported) -> None:
    results = json.loads((var.folder.parent / "results.json").read_text())
    assert results == {"out": str(var.folder), **var.model.about}
    assert results["licence"] == "ours" and results["source"].endswith("model")
    assert results["sampling"]["guidance"] == 2.0 and results["sampling"]["ramp"] == pytest.approx([0, 1 / 3, 2 / 3, 1])


@torch.no_grad()
def test_attention_can_be_watched() -> None:
    """It is that of the queries and keys, and logits are what they were."""
    model = make_transformer()
    plain, watched = TransformerGraph(model), TransformerGraph(copy.deepcopy(model), watched=True)
    classes, cache = torch.tensor([1, 3], dtype=torch.int32), torch.zeros(2, 4, 2, 0, 64)
    _, cache = plain(classes, torch.zeros(2, 1, 8), cache)
    latents = torch.randn(2, model.sequence.lengths[1], 8)
    logits, _ = plain(classes, latents, cache)
    found, grown, attention = watched(classes, latents, cache)
    assert torch.allclose(found, logits, atol=1e-5)
    assert attention.shape == (2, 2, 4, 5)
    first = watched.model.blocks[0]
    rows = watched.condition(classes).rows[0]
    x_BLC = model.word_embedding(latents) + watched.places[1:5]
    read = F.layer_norm(x_BLC, x_BLC.shape[-1:], eps=1e-6) * (1 + rows[:, 2:3]) + rows[:, 4:5]
    query, _, _ = first.attention.project(read)
    scores = query @ grown[:, 0].transpose(-2, -1) * first.attention.softmax_scale
    assert torch.allclose(attention[:, 0], scores.softmax(dim=-1).mean(dim=1), atol=1e-5)


def test_files_tell_nothing_of_the_machine(var: Exported) -> None:
    for name in GRAPHS:
        assert str(Path(exporting.__file__).parent).encode() not in (var.folder / name).read_bytes()


def test_the_sampler_needs_neither_torch_nor_us() -> None:
    nodes = list(ast.walk(ast.parse(EXAMPLE.read_text())))
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module for node in nodes if isinstance(node, ast.ImportFrom)}
    assert names == {"argparse", "json", "numpy", "onnxruntime", "pathlib", "PIL"}


@pytest.fixture(params=["fp16", "int8"])
def narrow(request: pytest.FixtureRequest, var: Exported, tmp_path: Path, monkeypatch) -> Exported:
    monkeypatch.setattr(exporting, "traced", known_graphs(var.folder))
    export_onnx(var.pipeline, tmp_path / "onnx", config=OnnxConfig(dtype=request.param))
    return Exported(var.pipeline, tmp_path / "onnx")


def test_fewer_bits_are_smaller_and_nearly_as_good(narrow: Exported, var: Exported) -> None:
    kind = narrow.model.about["dtype"]
    share, error = {"fp16": (0.62, 1e-2), "int8": (0.45, 5e-2)}[kind]
    ours, theirs = (one.model.about["files"]["transformer.onnx"]["bytes"] for one in (narrow, var))
    assert ours < share * theirs
    images = torch.cat([pixels(toy_image(label, 1)) for label in range(2)])
    tokens = var.pipeline.tokenizer.encode(images)
    exact, found = (one.parts(one.model.graphs["transformer"], tokens, [0, 1]) for one in (var, narrow))
    assert 0 < np.abs(found - exact).max() < error * np.abs(exact).max()
    for name, inputs in (("encoder", images.numpy()), ("decoder", np.ones((2, 16, 8), np.float32))):
        (exact,), (found,) = (one.model.graphs[name].run(None, feed(one, name, inputs)) for one in (var, narrow))
        assert found.dtype == np.float32 and np.abs(found - exact).max() < error * np.abs(exact).max()
    tokens, image = narrow.model.sample(1, 5)
    assert sum(part.size for part in tokens) == 30 and np.isfinite(image).all()


def feed(one: Exported, graph: str, values: np.ndarray) -> dict[str, np.ndarray]:
    return {one.model.graphs[graph].get_inputs()[0].name: values}


def test_norms_softmax_and_logits_stay_in_float32(var: Exported, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(exporting, "traced", known_graphs(var.folder))
    export_onnx(var.pipeline, tmp_path / "onnx", config=OnnxConfig(dtype="fp16"))
    graph = onnx.shape_inference.infer_shapes(onnx.load(tmp_path / "onnx" / "transformer.onnx")).graph
    types = {value.name: value.type.tensor_type.elem_type for value in [*graph.value_info, *graph.output]}
    types |= {tensor.name: tensor.data_type for tensor in graph.initializer}
    outputs = [(node.op_type, types[node.output[0]]) for node in graph.node if node.output[0] in types]
    in_float32 = {kind for kind, elements in outputs if elements == onnx.TensorProto.FLOAT}
    in_half = {kind for kind, elements in outputs if elements == onnx.TensorProto.FLOAT16}
    assert {"LayerNormalization", "Softmax", "ReduceL2"} <= in_float32 - in_half
    assert {"MatMul", "Gelu"} <= in_half
    head = next(node for node in graph.node if node.name == last_product(graph)[-1])
    assert head.op_type == "MatMul" and types[head.output[0]] == onnx.TensorProto.FLOAT


@pytest.mark.parametrize(
    "changes",
    [{"classes": 40}, {"classes": 40, "shared_adaln": True}, {"adaln": False}, {"qk_normalisation": False}],
    ids=["many classes", "shared", "plain", "without QK normalisation"],
)
@torch.no_grad()
def test_a_part_after_the_other_is_the_sequence(changes: dict[str, Any]) -> None:
    """Whether the condition is computed or looked up."""
    model = make_transformer(**changes)
    graph, classes = TransformerGraph(model), torch.tensor([1, model.config.unconditional], dtype=torch.int32)
    assert (graph.table is None) == (model.config.classes == 40)
    latents = torch.randn(2, model.sequence.length, 8)
    cache, found = torch.zeros(2, 4, 2, 0, 64), []
    for span in model.sequence.slices:
        logits, cache = graph(classes, latents[:, span], cache)
        found.append(logits)
    ours = model(latents[:, 1:], classes.long())
    assert torch.allclose(torch.cat(found, dim=1), ours, atol=1e-4 * float(ours.abs().max()))


@pytest.mark.parametrize(
    ("kind", "line"),
    [
        ("maskgit", "only next-scale prediction and raster order are exported to ONNX; this is masked prediction"),
        ("scale", "scales see themselves alone"),
        ("refined", "draws its last map in several passes"),
    ],
)
def test_what_is_not_exported_is_told(kind: str, line: str, tmp_path: Path, capsys) -> None:
    pipeline = make_baseline("maskgit") if kind == "maskgit" else make_pipeline()
    if kind == "scale":
        pipeline = make_pipeline(attention="scale")
    if kind == "refined":
        pipeline = make_pipeline(refinable=True)
        pipeline.config = replace(pipeline.config, refine_steps=3)
    pipeline.save_pretrained(tmp_path / "model")
    assert main(["export", "onnx", "--model", str(tmp_path / "model"), "--out", str(tmp_path / "onnx")]) == 2
    error = capsys.readouterr().err
    assert line in error and error.count("\n") == 1
    assert not (tmp_path / "onnx").exists()


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--dtype", "bf16"], "dtype 'bf16' is not known; expected one of fp32, fp16, int8"),
        (["--opset", "9"], "opset must be 18 to 23, got 9"),
        ([], "is not empty; choose another folder"),
    ],
)
def test_bad_input_is_one_line(words: list[str], line: str, model_folder: Path, tmp_path: Path, capsys) -> None:
    (tmp_path / "onnx").mkdir()
    (tmp_path / "onnx" / "mine.txt").write_text("")
    command = ["export", "onnx", "--model", str(model_folder), "--out", str(tmp_path / "onnx"), *words]
    assert main(command) == 2
    error = capsys.readouterr().err
    assert line in error and error.count("\n") == 1
    assert [path.name for path in (tmp_path / "onnx").iterdir()] == ["mine.txt"]


def test_weights_are_those_that_are_stored(model_folder: Path, pipeline: VARPipeline) -> None:
    """Whatever form a pipeline has brought them into for its own speed."""
    loaded = VARPipeline.from_pretrained(model_folder, device="cpu", dtype="fp32")
    for part, stored in ((loaded.transformer, pipeline.transformer), (loaded.tokenizer, pipeline.tokenizer)):
        for name, tensor in exporting.plain(part).state_dict().items():
            assert torch.equal(tensor, stored.state_dict()[name]), name


def test_nothing_is_left_of_an_export_that_fails(var: Exported, tmp_path: Path, monkeypatch) -> None:
    def fails(*_: Any, **__: Any) -> Iterator[None]:
        raise ValueError("the description")

    monkeypatch.setattr(exporting, "traced", known_graphs(var.folder))
    monkeypatch.setattr(exporting, "describe", fails)
    with pytest.raises(ValueError, match="the description"):
        export_onnx(var.pipeline, tmp_path / "onnx")
    assert list(tmp_path.iterdir()) == []
