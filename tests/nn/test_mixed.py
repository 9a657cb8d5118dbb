"""Matrices in 16 bits and everything else in float32, as on CUDA; and the same computed by kernels."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from nextscale.nn import attention, block, cuda
from nextscale.nn.block import AdaLNBlock
from nextscale.nn.linear import Linear
from nextscale.nn.packed import narrow_matrices
from nextscale.nn.transformer import Transformer
from nextscale.text import text_prompts
from toys import FAMILY_SCALES, TEXT, make_baseline, make_pipeline, make_transformer, transformer_config

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
VARIANTS = [{}, {"shared_adaln": True}, {"adaln": False}, {"qk_normalisation": False}, {"text": TEXT}]


@contextmanager
def kernels(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Kernels do what they can, on the CPU in Triton's interpreter."""
    pytest.importorskip("triton")
    with monkeypatch.context() as patched:
        for module in (attention, block):
            patched.setattr(module, "uses_kernels", lambda x: True)
        yield


def mixed(model: Any, dtype: torch.dtype) -> Any:
    narrow_matrices(model, DEVICE, dtype)
    return model


def differ(found: Tensor, expected: Tensor) -> float:
    found, expected = found.detach().double(), expected.detach().double()
    return float((found - expected).norm() / expected.norm())


def conditions(model: Transformer, *numbers: int) -> Any:
    """Classes, or prompts for a model of these; 3 is none."""
    if model.config.text is None:
        return torch.tensor(numbers, device=DEVICE)
    names = "red", "a blue heart", "cat", ""
    return text_prompts(model.config.text, [names[number] for number in numbers]).to(DEVICE)


@torch.no_grad()
def steps(model: Transformer) -> list[Tensor]:
    """What the head reads at every scale, for three images and arbitrary latents."""
    condition, cache = model.condition(conditions(model, 0, 1, 3)), model.new_cache(3)
    generator = torch.Generator().manual_seed(0)
    read = []
    for part, length in enumerate(model.sequence.lengths):
        latents = torch.randn(3, length, model.config.latent_channels, generator=generator).to(DEVICE)
        read.append(model.step(part, latents if part else None, condition, cache))
    assert cache.keys[0].dtype == model.dtype and cache.end == model.sequence.length
    return read


@pytest.mark.parametrize("changes", VARIANTS)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.bfloat16, 2e-2)])
def test_steps_by_kernels_are_those_by_expressions(
    monkeypatch: pytest.MonkeyPatch, changes: dict, dtype: torch.dtype, tolerance: float
) -> None:
    model = mixed(make_transformer(**changes, scales=((1, 1), (2, 2))), dtype)
    with cuda.plain_expressions():
        plain = steps(model)
    with kernels(monkeypatch):
        ours = steps(model)
    for found, expected in zip(ours, plain, strict=True):
        assert found.dtype == torch.float32
        assert differ(found, expected) < tolerance


@pytest.mark.gpu
@torch.no_grad()
@pytest.mark.parametrize("changes", [{}, {"text": TEXT}])
def test_steps_are_captured_in_a_graph_and_never_wait_for_the_device(changes: dict) -> None:
    model = mixed(make_transformer(**changes), torch.bfloat16)
    wanted, latents = conditions(model, 0, 1), torch.randn(2, 4, 8, device=DEVICE)

    def both() -> Tensor:
        condition, cache = model.condition(wanted), model.new_cache(2)
        model.step(0, None, condition, cache)
        return model.classify(model.step(1, latents, condition, cache))

    expected = both()
    torch.cuda.set_sync_debug_mode("error")
    try:
        both()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = both()
    found.fill_(torch.nan)
    graph.replay()
    torch.testing.assert_close(found, expected, atol=0, rtol=0)


class Shifted(AdaLNBlock):
    """A block of one's own, which adds to what the plain one gives."""

    def forward(self, x_BLC: Tensor, rows_B6C: Tensor, **others: Any) -> Tensor:
        return super().forward(x_BLC, rows_B6C, **others) + 1


@torch.no_grad()
@pytest.mark.parametrize("options", [{}, {"head": False}, {"block": Shifted}])
def test_whole_sequences_by_kernels_are_those_by_expressions(monkeypatch: pytest.MonkeyPatch, options: dict) -> None:
    torch.manual_seed(0)
    model = Transformer(transformer_config(scales=((1, 1), (2, 2))), **options).eval()
    model.initialise(gamma=1.0)
    mixed(model, torch.float32)
    latents, condition = torch.randn(2, 4, 8, device=DEVICE), model.condition(torch.tensor([0, 2], device=DEVICE))
    with cuda.plain_expressions():
        plain = model.hidden(latents, condition)
    with kernels(monkeypatch):
        torch.testing.assert_close(model.hidden(latents, condition), plain, atol=1e-4, rtol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("changes", VARIANTS)
def test_narrow_matrices_change_little(changes: dict) -> None:
    """The inputs of products are rounded, sums are not."""
    model = make_transformer(**changes).to(DEVICE)
    latents, classes = torch.randn(2, 29, 8, device=DEVICE), conditions(model, 0, 2)
    narrow, rounded = mixed(copy.deepcopy(model), torch.bfloat16), copy.deepcopy(model).bfloat16()
    exact = model(latents, classes)
    assert 0 < differ(narrow(latents, classes), exact) < 0.9 * differ(rounded(latents, classes), exact)


def test_only_matrices_and_biases_of_branches_are_narrow() -> None:
    model = mixed(make_transformer(shared_adaln=True, depth=1), torch.float16)
    narrow = {name for name, parameter in model.named_parameters() if parameter.dtype == torch.float16}
    branches = {"attention.proj", "feed_forward.0", "feed_forward.2"}
    assert narrow == {"shared_modulation.weight", "head_modulation.weight", "head.weight"} | {
        f"blocks.0.{name}" for name in ["attention.qkv.weight", *(f"{b}.{part}" for b in branches for part in
        ("weight", "bias"))]
    }  # fmt: skip
    assert model.dtype == torch.float16


@pytest.mark.parametrize("kind", FAMILY_SCALES)
def test_every_family_generates(kind: str) -> None:
    """The stream is in float32 and branches read the matrices' type, in every family."""
    if kind == "dit":
        pytest.importorskip("diffusers")
    pipeline = make_pipeline() if kind == "var" else make_baseline(kind)
    pipeline.tokenizer.to(DEVICE)
    model = mixed(pipeline.transformer, torch.bfloat16)
    seen: set[tuple[str, torch.dtype]] = set()

    def see(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        seen.add((type(module).__name__, inputs[0].dtype))

    for one in model.blocks:
        for module in (one, one.attention, one.feed_forward):
            module.register_forward_pre_hook(see)
    settings: dict[str, Any] = {"steps": 2} if kind in ("dit", "maskgit") else {}
    images = pipeline.generate([0, 1], seeds=[0, 1], **settings).images
    assert len(images) == 2 and pipeline.precision == "bf16"
    assert seen == {
        ("AdaLNBlock", torch.float32), ("SelfAttention", torch.bfloat16), ("FeedForward", torch.bfloat16),
    }  # fmt: skip


@torch.no_grad()
@pytest.mark.parametrize("shape", [(64,), (3, 64), (2, 5, 64)])
def test_sums_are_not_rounded_where_the_bias_is_in_float32(shape: tuple[int, ...]) -> None:
    layer = Linear(64, 48).to(DEVICE)
    layer.weight.data = layer.weight.bfloat16()
    x = torch.randn(shape, device=DEVICE)
    exact = x.bfloat16().double() @ layer.weight.double().t() + layer.bias.double()
    found = layer(x)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), exact, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 1e-2)])
def test_gelu_is_the_tanh_form_whoever_computes_it(dtype: torch.dtype, tolerance: float) -> None:
    layer, x = Linear(64, 48, gelu=True).to(DEVICE, dtype), torch.randn(2, 5, 64).to(DEVICE, dtype)
    exact = torch.nn.functional.gelu(torch.nn.functional.linear(*(t.double() for t in (x, layer.weight, layer.bias))),
                                     approximate="tanh")  # fmt: skip
    for gradients in (False, True):
        with torch.set_grad_enabled(gradients):
            assert differ(layer(x), exact) < tolerance
