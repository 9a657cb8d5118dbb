"""Attention against the definition, and the cache as a plain value."""

import math
from typing import Any

import pytest
import torch
from functorch.compile import make_boxed_func
from torch._dynamo.backends.common import aot_autograd

from nextscale.nn import HEAD_WIDTH, attention
from nextscale.nn.attention import KeyValueCache, SelfAttention, attend, attend_in_groups, unit_heads
from nextscale.nn.cpu import grouped_attention, unit_heads_and_values


def reference(module: SelfAttention, x: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """Attention by the book, one head at a time, float64."""
    x = x.double()
    weight = module.qkv.weight.double()
    width = x.shape[-1]
    q = x @ weight[:width].t() + module.query_bias.double()
    k = x @ weight[width : 2 * width].t()
    v = x @ weight[2 * width :].t() + module.value_bias.double()
    heads = []
    for head in range(module.heads):
        part = slice(head * HEAD_WIDTH, (head + 1) * HEAD_WIDTH)
        qh, kh, vh = q[..., part], k[..., part], v[..., part]
        if module.log_scale is not None:
            qh = qh / qh.norm(dim=-1, keepdim=True) * min(math.exp(module.log_scale[head].item()), 100)
            kh = kh / kh.norm(dim=-1, keepdim=True)
        else:
            qh = qh * 0.25 / math.sqrt(HEAD_WIDTH)
        scores = qh @ kh.transpose(-2, -1)
        if mask is not None:
            scores = scores.masked_fill(~mask, -math.inf)
        heads.append(scores.softmax(dim=-1) @ vh)
    return torch.cat(heads, dim=-1) @ module.proj.weight.double().t() + module.proj.bias.double()


def make(normalise: bool) -> SelfAttention:
    torch.manual_seed(0)
    module = SelfAttention(2, normalise=normalise)
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    if module.log_scale is not None:
        torch.nn.init.constant_(module.log_scale, 6.0)  # above the clamp of ln 100
        with torch.no_grad():
            module.log_scale[0] = 1.0
    return module


@pytest.mark.parametrize("normalise", [True, False])
@pytest.mark.parametrize("gradients", [True, False])
def test_equals_the_definition(normalise: bool, gradients: bool) -> None:
    module = make(normalise)
    x, mask = torch.randn(2, 7, 128), torch.ones(7, 7).tril().bool()
    with torch.set_grad_enabled(gradients):
        found = module(x, groups=[(slice(0, 7), slice(0, 7), mask)]).double()
        torch.testing.assert_close(found, reference(module, x, mask), atol=1e-4, rtol=1e-4)


GROUPS = [
    (slice(0, 3), slice(0, 3), torch.tensor([[1, 0, 0], [1, 1, 1], [1, 1, 1]]).bool()),
    (slice(3, 5), slice(0, 5), None),
    (slice(5, 7), slice(4, 7), None),
]


def test_gradients_of_grouped_attention_are_those_of_the_fused_kernel() -> None:
    q, k, v = (torch.randn(2, 2, 7, 64, dtype=torch.float64, requires_grad=True) for _ in range(3))
    mask = torch.ones(7, 7).bool()
    for span, seen, part in GROUPS:
        mask[span] = False
        mask[span, seen] = True if part is None else part
    weights = torch.randn(2, 2, 7, 64, dtype=torch.float64)
    ours = attend_in_groups(q, k, v, GROUPS, 0.1)
    fused = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=0.1)
    torch.testing.assert_close(ours, fused)
    gradients = [torch.autograd.grad((out * weights).sum(), [q, k, v]) for out in (ours, fused)]
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b)


def test_our_own_gradients_are_the_derivatives() -> None:
    q, k, v = (torch.randn(1, 2, 7, 3, dtype=torch.float64, requires_grad=True) for _ in range(3))
    assert torch.autograd.gradcheck(lambda q, k, v: grouped_attention(q, k, v, GROUPS), (q, k, v))
    qkv = torch.randn(2, 3, 3, 2, 4, dtype=torch.float64, requires_grad=True)
    factor = torch.tensor([1.5, 7.0], dtype=torch.float64).view(2, 1, 1).requires_grad_()
    assert torch.autograd.gradcheck(unit_heads_and_values, (qkv, factor))


def test_explicit_gradients_of_unit_heads_are_those_of_autograd() -> None:
    qkv = torch.randn(2, 5, 3, 2, 64, requires_grad=True)
    factor = (torch.rand(2, 1, 1) * 20).requires_grad_()
    weights = torch.randn(3, 2, 2, 5, 64)
    found = []
    for heads in (unit_heads_and_values(qkv, factor), (*unit_heads(qkv, factor), qkv[:, :, 2].transpose(1, 2))):
        loss = sum(((head * weight).sum() for head, weight in zip(heads, weights, strict=True)), torch.zeros(()))
        found.append((*heads, *torch.autograd.grad(loss, [qkv, factor])))
    for ours, plain in zip(*found, strict=True):
        torch.testing.assert_close(ours, plain, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("scale", [1.0, 0.1])
def test_attention_in_bf16_without_gradients_is_that_of_the_fused_kernel(scale: float) -> None:
    q, k, v = (torch.randn(2, 2, length, 64).bfloat16() for length in (3, 7, 7))
    exact = torch.nn.functional.scaled_dot_product_attention(q.float(), k.float(), v.float(), scale=scale)
    for gradients in (True, False):
        with torch.set_grad_enabled(gradients):
            found = attend(q, k, v, None, scale)
        assert found.dtype == torch.bfloat16
        assert (found.float() - exact).norm() < 0.02 * exact.norm()


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_single_key_has_all_the_weight(dtype: torch.dtype) -> None:
    query, key, value = torch.randn(3, 2, 2, 1, 64).to(dtype)
    with torch.enable_grad():
        expected = attend(query, key, value, None, 0.1)
    assert torch.equal(attend(query, key, value, None, 0.1), expected)


def test_unit_heads_in_bf16_round_what_float32_gives() -> None:
    qkv, factor = torch.randn(2, 5, 3, 2, 64).bfloat16(), torch.rand(2, 1, 1) * 20
    *ours_both, value = unit_heads_and_values(qkv, factor)
    assert torch.equal(value, qkv[:, :, 2].transpose(1, 2))
    for ours, exact in zip(ours_both, unit_heads(qkv, factor), strict=True):
        assert ours.dtype == torch.bfloat16
        torch.testing.assert_close(ours.float(), exact.bfloat16().float(), atol=1e-6, rtol=2**-7)


@pytest.mark.parametrize("normalise", [True, False])
def test_bf16_gradients_are_as_near_to_float32_as_those_of_autograd(
    monkeypatch: pytest.MonkeyPatch, normalise: bool
) -> None:
    module, x = make(normalise), torch.randn(4, 7, 128)

    def gradients(dtype: torch.dtype) -> torch.Tensor:
        module.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
            module(x, groups=GROUPS).float().square().sum().backward()
        return torch.cat([p.grad.flatten() / p.grad.norm() for p in module.parameters() if p.grad is not None])

    exact, ours = gradients(torch.float32), gradients(torch.bfloat16)
    monkeypatch.setattr(attention, "use_cpu_backward", lambda tensor: False)
    torch.testing.assert_close(gradients(torch.float32), exact, atol=1e-6, rtol=1e-4)
    theirs = gradients(torch.bfloat16)
    assert 0 < (ours - exact).norm() < 1.25 * (theirs - exact).norm()


@pytest.mark.parametrize("normalise", [True, False])
def test_compiled_gradients_are_those_of_this_file_too(normalise: bool) -> None:
    """In one graph, without torch's fused kernel, which is slow backwards."""
    traced: list[str] = []

    def look(graph: torch.fx.GraphModule, examples: list[torch.Tensor]) -> Any:
        traced.extend(str(node.target) for node in graph.graph.nodes)
        return make_boxed_func(graph)

    module, x = make(normalise), torch.randn(4, 7, 128)
    module(x, groups=GROUPS).square().sum().backward()
    exact = [p.grad.clone() for p in module.parameters() if p.grad is not None]
    module.zero_grad()
    torch._dynamo.reset()
    backend = aot_autograd(fw_compiler=look, bw_compiler=look)
    torch.compile(module, backend=backend, fullgraph=True)(x, groups=GROUPS).square().sum().backward()
    found = [p.grad for p in module.parameters() if p.grad is not None]
    torch.testing.assert_close(found, exact, atol=1e-5, rtol=1e-4)
    assert "aten._softmax.default" in traced and "aten._softmax_backward_data.default" in traced
    assert not any("scaled_dot_product" in name for name in traced)


def test_cached_pieces_equal_one_causal_pass() -> None:
    module = make(True)
    x = torch.randn(2, 6, 128)
    blocks = [slice(0, 1), slice(1, 3), slice(3, 6)]
    level = torch.tensor([0, 1, 1, 2, 2, 2])
    cache = KeyValueCache(layers=1, batch=2, heads=2, length=6, device=torch.device("cpu"), dtype=torch.float32)
    with torch.no_grad():
        whole = module(x, groups=[(slice(0, len(level)), slice(0, len(level)), level[:, None] >= level[None, :])])
        for block in blocks:
            piece = module(x[:, block], cache=cache)
            cache.advance(piece.shape[1])
            torch.testing.assert_close(
                piece, whole[:, block], atol=5e-5, rtol=1e-4
            )  # products differ in the order of sums


def new_cache(*, batch: int, device: str = "cpu") -> KeyValueCache:
    return KeyValueCache(
        layers=2, batch=batch, heads=2, length=6, device=torch.device(device), dtype=torch.float32
    )  # fmt: skip


def test_layers_of_a_cache_share_nothing_and_selected_images_write_into_it() -> None:
    cache, new = new_cache(batch=3), torch.randn(2, 3, 2, 4, HEAD_WIDTH)
    for layer in (0, 1):
        known = cache.append(layer, new[0] + layer, new[1] + layer)
        assert all(torch.equal(found, given + layer) for found, given in zip(known, new, strict=True))
    cache.advance(4)
    assert torch.equal(cache.known(0, 0)[0], new[0])
    last = torch.randn(2, 1, 2, 2, HEAD_WIDTH)
    keys, values = cache.select(slice(1, 2)).append(1, *last)
    assert torch.equal(keys, torch.cat([new[0, 1:2] + 1, last[0]], dim=2))
    assert torch.equal(values, torch.cat([new[1, 1:2] + 1, last[1]], dim=2))
    assert torch.equal(cache.known(1, 2)[0][1:2], keys) and cache.end == 4 and cache.parts == 1
    assert torch.equal(cache.known(0, 0)[0], new[0])


@pytest.mark.gpu
def test_attention_on_cuda_leaves_heads_in_place() -> None:
    """Tokens come before heads in memory, so that the projection reads what attention wrote."""
    cache = new_cache(batch=2, device="cuda")
    query, key, value = torch.randn(3, 2, 3, 2, HEAD_WIDTH, device="cuda").transpose(2, 3)
    keys, values = cache.append(0, key, value)
    for tensor in (keys, values, attend(query, keys, values, None, 1.0)):
        assert tensor.transpose(1, 2).flatten(2).data_ptr() == tensor.data_ptr()
