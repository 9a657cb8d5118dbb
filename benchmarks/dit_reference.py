"""The diffusion baseline beside the public DiT: the same function, and the time of a step at full size.

    git clone https://github.com/facebookresearch/DiT && pip install timm
    python benchmarks/dit_reference.py --reference DiT

Their model runs as shipped under bf16 autocast for the CPU; ours as `generate --precision bf16` runs it. A step is one
pass with guidance, two sequences, without the scheduler. Rounds take turns; medians. That both are one function is
shown at depth 2 with 18 heads in float32, random weights copied over (their XL has 16 heads of width 72, ours 18 of
width 64).
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import cyclopts
import torch
from torch import Tensor, nn

from nextscale.bench.full_size import entrants, random_pipeline
from nextscale.families.dit import DiT, DiTConfig
from nextscale.files import write_json
from nextscale.nn import HEAD_WIDTH
from nextscale.runtime import retain_freed_memory

CPU = torch.device("cpu")


@torch.no_grad()
def main(
    *,
    reference: Annotated[str, cyclopts.Parameter(help="Checkout of facebookresearch/DiT.")],
    size: Annotated[int, cyclopts.Parameter(help="Pixels, 256 or 512.")] = 256,
    rounds: Annotated[int, cyclopts.Parameter(help="Steps of each that are timed.")] = 7,
    json: str = "",
) -> None:
    """Compare and report; exit status 1 where the functions differ."""
    sys.path.insert(0, str(Path(reference).resolve()))
    import models  # pyright: ignore[reportMissingImports]

    retain_freed_memory()
    difference = largest_difference(models)
    side = size // 8
    theirs = models.DiT_models["DiT-XL/2"](input_size=side).eval()
    entrant = next(one for one in entrants(size) if one.kind == "dit")
    ours = random_pipeline(entrant, CPU, torch.bfloat16).transformer
    latents, times, classes = torch.randn(2, 4, side, side), torch.tensor([500, 500]), torch.tensor([1, 1000])

    def their_step() -> None:
        with torch.autocast("cpu", torch.bfloat16):
            theirs.forward_with_cfg(latents, times, classes, 1.5)

    taken: dict[str, list[float]] = {"theirs": [], "ours": []}
    for number in range(rounds + 1):
        for name, step in (("theirs", their_step), ("ours", lambda: ours(latents, times, classes))):
            began = time.perf_counter()
            step()
            if number:  # the first warms up
                taken[name].append(time.perf_counter() - began)
    seconds = {name: median(values) for name, values in taken.items()}
    results = {"size": size, "difference": difference, "step_seconds": seconds, "all": taken}
    for name, value in seconds.items():
        print(f"{name}: {value:.3f} s a step, {250 * value:.0f} s for 250 steps")
    print(f"largest difference in float32: {difference:.1e}; theirs / ours {seconds['theirs'] / seconds['ours']:.2f}")
    if json:
        write_json(Path(json), results)
    if difference > 1e-4:
        raise SystemExit(1)


def largest_difference(models: Any) -> float:
    """Of the noise that both predict, over its standard deviation."""
    torch.manual_seed(0)
    theirs = models.DiT(input_size=8, depth=2, hidden_size=1152, num_heads=18, patch_size=2).eval()
    for parameter in theirs.parameters():
        nn.init.normal_(parameter, std=0.03)
    config = DiTConfig(depth=2, heads=18, scales=((8, 8),), latent_channels=4, patch=2, drop_path=0.0)
    ours = DiT(config).eval()
    ours.load_state_dict(state_of(theirs, ours))
    latents, times, classes = torch.randn(3, 4, 8, 8), torch.tensor([0, 7, 999]), torch.tensor([0, 5, 1000])
    wanted = theirs(latents, times, classes)[:, :4]  # the rest is the variance that theirs learns
    return float((ours(latents, times, classes) - wanted).abs().max() / wanted.std())


def state_of(theirs: nn.Module, ours: DiT) -> dict[str, Tensor]:
    """Their weights by our names."""
    given, width = theirs.state_dict(), ours.config.width
    state = {
        "positions": given["pos_embed"][0],
        "class_embedding.weight": given["y_embedder.embedding_table.weight"],
        "word_embedding.weight": given["x_embedder.proj.weight"].flatten(1),
        "word_embedding.bias": given["x_embedder.proj.bias"],
        "head_modulation.weight": swapped(given["final_layer.adaLN_modulation.1.weight"], (1, 0)),
        "head_modulation.bias": swapped(given["final_layer.adaLN_modulation.1.bias"], (1, 0)),
    }
    for part in ("weight", "bias"):
        head = given[f"final_layer.linear.{part}"].unflatten(0, (4, 8))[:, :4]  # patch, channels
        state[f"head.{part}"] = head.transpose(0, 1).flatten(0, 1)
        for place in (0, 2):
            state[f"time_embedding.{place}.{part}"] = given[f"t_embedder.mlp.{place}.{part}"]
    for block in range(ours.config.depth):
        at = f"blocks.{block}."
        qkv, bias = given[f"{at}attn.qkv.weight"].clone(), given[f"{at}attn.qkv.bias"].clone()
        for tensor in (qkv, bias):
            tensor[:width] *= 4  # ours divides by 4 sqrt(width of a head)
        state |= {
            f"{at}attention.qkv.weight": qkv,
            f"{at}attention.query_bias": bias[:width],  # a bias of keys shifts all scores of a query alike
            f"{at}attention.value_bias": bias[2 * width :],
        }
        for part in ("weight", "bias"):
            state[f"{at}attention.proj.{part}"] = given[f"{at}attn.proj.{part}"]
            state[f"{at}feed_forward.0.{part}"] = given[f"{at}mlp.fc1.{part}"]
            state[f"{at}feed_forward.2.{part}"] = given[f"{at}mlp.fc2.{part}"]
            rows = given[f"{at}adaLN_modulation.1.{part}"]  # shift1, scale1, gamma1, shift2, scale2, gamma2
            state[f"{at}modulation.{part}"] = swapped(rows, (2, 5, 1, 4, 0, 3))
    assert HEAD_WIDTH * ours.config.heads == width
    return state


def swapped(rows: Tensor, order: tuple[int, ...]) -> Tensor:
    """Equal parts along the first dimension in another order."""
    return rows.unflatten(0, (len(order), -1))[list(order)].flatten(0, 1)


if __name__ == "__main__":
    cyclopts.run(main)
