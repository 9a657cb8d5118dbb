"""Packed layers equal plain ones, and give their weights back."""

import copy
import os
import subprocess
import sys
from collections.abc import Iterator

import pytest
import torch

from nextscale.nn.linear import Linear
from nextscale.nn.packed import (
    PackedLinear,
    QuantizedLinear,
    can_pack,
    count_parameters,
    int8_range,
    pack_linears,
    packing_is_right,
    unpack_linears,
)
from toys import make_pipeline, make_transformer

CPU = torch.device("cpu")
TYPES = [dtype for dtype in (torch.float32, torch.bfloat16) if can_pack(CPU, dtype)]


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("gelu", [True, False])
@pytest.mark.parametrize("shape", [(24,), (3, 24), (2, 5, 24), (0, 24)])
def test_packed_layers_equal_plain_ones(dtype: torch.dtype, bias: bool, gelu: bool, shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    plain = torch.nn.Sequential(Linear(24, 40, bias=bias, gelu=gelu)).to(dtype).requires_grad_(False)
    packed = copy.deepcopy(plain)
    pack_linears(packed)
    x = torch.randn(shape, dtype=dtype)
    tolerance = 1e-6 if dtype == torch.float32 else 2e-2
    torch.testing.assert_close(packed(x), plain(x), atol=tolerance, rtol=tolerance)
    other = torch.randn(40, dtype=dtype)
    torch.testing.assert_close(packed[0](x, other), plain[0](x, other), atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("dtype", TYPES)
def test_packing_keeps_the_state_dict_and_can_be_undone(dtype: torch.dtype) -> None:
    model = make_transformer(shared_adaln=True).to(dtype)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    parameters = count_parameters(model)
    assert parameters == sum(parameter.numel() for parameter in model.parameters())
    pack_linears(model)
    assert count_parameters(model) == parameters
    assert not any(isinstance(module, Linear) for module in model.modules())
    for state in (model.state_dict(), (unpack_linears(model), model.state_dict())[1]):
        assert set(state) == set(before)
        assert all(torch.equal(state[name], before[name]) for name in before)
    assert sum(isinstance(module, Linear) for module in model.modules()) == 11


def test_pipelines_change_type_and_back() -> None:
    pipeline = make_pipeline().to(CPU, torch.float32)
    tokens = pipeline.generate([0, 1], seeds=[0, 1]).tokens.packed
    pipeline.to(CPU, torch.bfloat16)
    assert pipeline.precision == "bf16"
    assert pipeline.to(CPU, torch.float32).generate([0, 1], seeds=[0, 1]).tokens.packed.shape == tokens.shape


def test_saving_a_packed_pipeline_keeps_its_weights(tmp_path) -> None:
    pipeline = make_pipeline().to(CPU, torch.float32)
    pipeline.save_pretrained(tmp_path / "model")
    again = type(pipeline).from_pretrained(tmp_path / "model", device="cpu", dtype="fp32")
    classes, seeds = [0, 1, 2], [5, 6, 7]
    tokens = [p.generate(classes, seeds=seeds).tokens.packed for p in (pipeline, again)]
    assert torch.equal(*tokens)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("gelu", [True, False])
@pytest.mark.parametrize("offset", [-20.0, 0.0, 20.0])
def test_int8_layers_are_close_to_plain_ones(dtype: torch.dtype, gelu: bool, offset: float) -> None:
    torch.manual_seed(0)
    plain = Linear(64, 48, gelu=gelu).requires_grad_(False)
    layer = QuantizedLinear(plain)
    x = torch.randn(3, 5, 64) + offset  # one-sided inputs too: 0 lies outside their range
    expected, output = plain(x), layer(x.to(dtype))
    assert output.dtype == dtype
    error, size = (output.float() - expected).square().mean().sqrt(), expected.square().mean().sqrt()
    assert error < 0.03 * size + 0.01 * abs(offset)
    other = torch.randn(48)
    assert torch.allclose(layer(x.to(dtype), other.to(dtype)).float(), plain(x, other), atol=0.1 + 0.02 * abs(offset))


def test_int8_layers_take_constant_inputs() -> None:
    plain = Linear(8, 4).requires_grad_(False)
    for value in (0.0, 1.0, -3.0):
        x = torch.full((2, 8), value)
        torch.testing.assert_close(QuantizedLinear(plain)(x), plain(x), atol=0.05, rtol=0.05)


def test_int8_pipelines_generate_and_refuse_what_they_cannot(tmp_path) -> None:
    make_pipeline().save_pretrained(tmp_path / "model")
    pipeline = type(make_pipeline()).from_pretrained(tmp_path / "model", device="cpu", dtype="int8")
    assert pipeline.precision == "int8"
    images = pipeline.generate([0, 1], seeds=[0, 1]).images
    assert [image.size for image in images] == [(16, 16)] * 2
    with pytest.raises(ValueError, match="cannot be saved"):
        pipeline.save_pretrained(tmp_path / "other")
    assert not (tmp_path / "other").exists()
    with pytest.raises(ValueError, match="load it again"):
        pipeline.to(CPU, torch.float32)


def saturating_products(numbers, scale, zero, packed, scales, zeros, bias, *rest) -> torch.Tensor:
    """What processors without VNNI do: two neighbouring products are added in 16 bits, which end at 32,767."""
    pairs = (numbers.long()[:, None] * packed.long()[None]).unflatten(-1, (-1, 2)).sum(dim=-1)
    sums = pairs.clamp(-(2**15), 2**15 - 1).sum(dim=-1) - zero * packed.long().sum(dim=1)
    return (sums * scale * scales).to(torch.float32) + (0 if bias is None else bias)


@pytest.fixture
def fresh_range() -> Iterator[None]:
    """Without what was found out about the real processor."""
    int8_range.cache_clear()
    yield
    int8_range.cache_clear()


def relative_error(layer: QuantizedLinear, plain: Linear) -> float:
    x = torch.rand(64, 128)  # one-sided: sums of neighbours are large
    return float((layer(x) - plain(x)).norm() / plain(x).norm())


def one_sided_layer() -> Linear:
    """Large weights of one sign, as far from 16 bits as they get."""
    torch.manual_seed(0)
    plain = Linear(128, 32).requires_grad_(False)
    plain.weight.copy_(torch.rand_like(plain.weight) + 0.5)
    return plain


def test_int8_products_that_saturate_are_given_smaller_numbers(
    fresh_range: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(torch.ops.onednn, "qlinear_prepack", lambda weight, shape: weight)
    monkeypatch.setattr(torch.ops.onednn, "qlinear_pointwise", saturating_products)
    plain = one_sided_layer()
    assert relative_error(QuantizedLinear(plain), plain) < 0.01
    assert int8_range() == (90, 181)
    assert caplog.text.count("adds int8 products in 16 bits") == 1


def test_int8_is_refused_where_its_products_are_wrong(fresh_range: None, monkeypatch: pytest.MonkeyPatch) -> None:
    real = torch.ops.onednn.qlinear_pointwise
    monkeypatch.setattr(torch.ops.onednn, "qlinear_pointwise", lambda *arguments: real(*arguments) + 1)
    with pytest.raises(ValueError, match="use --precision auto"):
        QuantizedLinear(one_sided_layer())


@pytest.mark.parametrize("isa", ["AVX2", "AVX512_CORE", "DEFAULT"])
def test_int8_is_right_whatever_the_instruction_set(isa: str) -> None:
    script = (
        "from nn.test_packed import *; plain = one_sided_layer(); print(relative_error(QuantizedLinear(plain), plain))"
    )
    environment = os.environ | {"ONEDNN_MAX_CPU_ISA": isa, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    assert float(done.stdout) < 0.01


def test_packed_products_that_are_wrong_are_not_used(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    right = torch.ops.mkldnn._linear_pointwise
    packing_is_right.cache_clear()
    monkeypatch.setattr(torch.ops.mkldnn, "_linear_pointwise", lambda *arguments: right(*arguments) * 1.1)
    assert not can_pack(CPU, torch.float32)
    assert "plain, slower ones are used" in caplog.text
    packing_is_right.cache_clear()


@torch.no_grad()
@pytest.mark.parametrize("kind", [PackedLinear, QuantizedLinear])
def test_a_single_row_needs_no_batch(kind: type) -> None:
    torch.manual_seed(0)
    packed, rows = kind(Linear(64, 32).requires_grad_(False)), torch.randn(1, 64)
    torch.testing.assert_close(packed(rows[0]), packed(rows)[0])
