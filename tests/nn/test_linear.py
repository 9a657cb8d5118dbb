"""Packed layers equal plain ones, and give their weights back."""

import copy

import pytest
import torch

from nextscale.nn.linear import Linear, can_pack, pack_linears, unpack_linears
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
    pack_linears(model)
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
