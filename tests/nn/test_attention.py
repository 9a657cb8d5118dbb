"""Attention against the definition, and the cache as a plain value."""

import math

import pytest
import torch

from nextscale.nn.attention import HEAD_WIDTH, KeyValueCache, SelfAttention, attend


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
        torch.testing.assert_close(
            module(x, groups=[(slice(0, 7), mask)]).double(), reference(module, x, mask), atol=1e-4, rtol=1e-4
        )


def test_training_path_and_fused_kernel_have_the_same_gradients() -> None:
    q, k, v = (torch.randn(2, 2, 6, 64, dtype=torch.float64, requires_grad=True) for _ in range(3))
    mask = torch.ones(6, 6).tril().bool()
    ours = torch.autograd.grad(attend(q, k, v, mask, 0.1).float().square().sum(), [q, k, v])
    fused = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=0.1)
    theirs = torch.autograd.grad(fused.float().square().sum(), [q, k, v])
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-4)


def test_cached_pieces_equal_one_causal_pass() -> None:
    module = make(True)
    x = torch.randn(2, 6, 128)
    blocks = [slice(0, 1), slice(1, 3), slice(3, 6)]
    level = torch.tensor([0, 1, 1, 2, 2, 2])
    cache = KeyValueCache(layers=1, batch=2, heads=2, length=6, device=torch.device("cpu"), dtype=torch.float32)
    with torch.no_grad():
        whole = module(x, groups=[(slice(0, len(level)), level[:, None] >= level[None, :])])
        for block in blocks:
            piece = module(x[:, block], cache=cache)
            cache.advance(piece.shape[1])
            torch.testing.assert_close(piece, whole[:, block], atol=1e-5, rtol=1e-5)
