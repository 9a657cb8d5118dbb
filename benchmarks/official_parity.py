"""Our implementation against the authors' code, in float32, on the same random weights.

    git clone https://github.com/FoundationVision/VAR
    python benchmarks/official_parity.py --reference VAR

Weights are drawn at random in the official layout and saved as .pth files, which both sides load; the head is
drawn wide, so that the best logit leads clearly. Compared are the tokens of encoded images, teacher-forcing
logits, greedy generation with guidance, decoded images, and the mixtures of the smooth mode.
"""

from __future__ import annotations

import contextlib
import io
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import cyclopts
import torch
from rich.table import Table
from torch import Tensor, nn

from nextscale import TokenPyramid, VARPipeline
from nextscale.cli.tables import print_table
from nextscale.families.config import SCALES_512
from nextscale.files import write_json
from nextscale.sampling.draw import guidance_ramp
from nextscale.sampling.next_scale import SamplingConfig, smooth_mixture

GUIDANCE = 1.5


@dataclass(frozen=True)
class Variant:
    """A model to compare, as the authors' builder takes it."""

    scales: tuple[int, ...] = (1, 2, 3, 4, 5, 6, 8, 10, 13, 16)
    shared: bool = False
    normalised: bool = True


VARIANTS = {
    "plain": Variant(),
    "shared-512": Variant(scales=tuple(side for side, _ in SCALES_512), shared=True),
    "no-qk-normalisation": Variant(normalised=False),
}


def main(
    *,
    reference: Annotated[Path, cyclopts.Parameter(help="Clone of the authors' repository.")],
    variants: Annotated[str, cyclopts.Parameter(help="Some of plain, shared-512, no-qk-normalisation.")] = ",".join(
        VARIANTS
    ),
    depth: int = 16,
    batch_size: int = 2,
    seed: int = 0,
    json: str = "",
) -> None:
    """Compare and print a table of differences."""
    sys.path.insert(0, str(reference))
    columns = ("tokens equal", "logits, relative", "greedy tokens equal", "image", "smooth mixture")
    table = Table("variant", *columns, title=f"depth {depth}, float32: ours against the authors' code")
    results = {}
    for name in variants.split(","):
        print(f"{name} ...", flush=True)
        results[name] = figures = compare(VARIANTS[name], depth, batch_size, seed)
        equal = [f"{figures[key]:.4%}" for key in ("encoded_equal", "greedy_equal")]
        differences = [f"{figures[key]:.1e}" for key in ("logits_relative", "image_difference", "smooth_difference")]
        table.add_row(name, equal[0], differences[0], equal[1], *differences[1:])
    print_table(table)
    if json:
        write_json(Path(json), {"depth": depth, "batch_size": batch_size, "variants": results})


@torch.no_grad()
def compare(variant: Variant, depth: int, batch: int, seed: int) -> dict[str, float]:
    """Differences of one variant."""
    vae, var = build_reference(variant, depth, seed)
    with tempfile.TemporaryDirectory() as folder:
        paths = {"vae": Path(folder) / "vae.pth", "var": Path(folder) / "var.pth"}
        torch.save(vae.state_dict(), paths["vae"])
        torch.save(var.state_dict(), paths["var"])
        ours = VARPipeline.from_official(**paths, device="cpu", dtype="fp32")
        return differences(ours, vae, var, batch, torch.Generator().manual_seed(seed))


def build_reference(variant: Variant, depth: int, seed: int) -> tuple[Any, Any]:
    """The authors' tokenizer and transformer with random weights."""
    from models import build_vae_var  # pyright: ignore[reportMissingImports]

    keep = {kind: kind.reset_parameters for kind in (nn.Linear, nn.LayerNorm, nn.Conv2d)}
    with contextlib.redirect_stdout(io.StringIO()):
        vae, var = build_vae_var(
            device="cpu", patch_nums=variant.scales, depth=depth, shared_aln=variant.shared,
            attn_l2_norm=variant.normalised,
        )  # fmt: skip
    for kind, method in keep.items():  # their builder replaces initialisers for everybody
        kind.reset_parameters = method
    generator = torch.Generator().manual_seed(seed)
    for model in (vae, var):
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(False).copy_(drawn(name, parameter, generator))
    side = 16 * variant.scales[-1]
    features = vae.quant_conv(vae.encoder(pictures(2, side, generator)))
    spread = features.std() * torch.randn(vae.quantize.embedding.weight.shape, generator=generator)
    vae.quantize.embedding.weight.copy_(features.mean() + spread)
    return vae.eval(), var.eval()


def drawn(name: str, parameter: Tensor, generator: torch.Generator) -> Tensor:
    """Random weights at which activations keep their size and every tensor matters."""
    noise = torch.randn(parameter.shape, generator=generator)
    if name.endswith("scale_mul_1H11"):
        return 1.4 + 0.2 * noise
    if parameter.ndim == 1:
        return (1.0 if "norm" in name and name.endswith("weight") else 0.0) + 0.1 * noise
    if name == "head.weight":
        return 0.2 * noise  # wide: logits spread over tens
    fan_in = parameter[0].numel() if parameter.ndim in (2, 4) else parameter.shape[-1]
    return noise * fan_in**-0.5


def pictures(count: int, side: int, generator: torch.Generator) -> Tensor:
    """Smooth random images in [-1, 1], (count, 3, side, side)."""
    coarse = torch.rand(count, 3, 16, 16, generator=generator) * 2 - 1
    return nn.functional.interpolate(coarse, size=(side, side), mode="bicubic").clamp(-1, 1)


def differences(ours: VARPipeline, vae: Any, var: Any, batch: int, generator: torch.Generator) -> dict[str, float]:
    """What differs between both sides on the same inputs."""
    height, _ = ours.tokenizer.config.image_size
    images = pictures(batch, height, generator)
    their_tokens = torch.cat(vae.img_to_idxBl(images), dim=1)
    our_tokens = ours.tokenizer.encode(images).packed

    tokens = TokenPyramid(their_tokens, ours.schedule)
    classes = torch.randint(ours.transformer.config.classes, (batch,), generator=generator)
    var.cond_drop_rate = 0.0  # their forward drops classes in evaluation mode too
    maps = [level.flatten(1) for level in tokens]
    their_logits = var(classes, vae.quantize.idxBl_to_var_input(maps))
    our_logits = ours.logits(tokens, classes.tolist())

    their_greedy, their_image = reference_greedy(var, classes)
    greedy = ours.generate_steps(classes.tolist(), seeds=range(batch), guidance=GUIDANCE, top_k=1, top_p=0)
    steps = list(greedy)
    our_greedy = torch.cat([step.tokens.flatten(1) for step in steps], dim=1)
    their_decoded = vae.idxBl_to_img([level.flatten(1) for level in tokens], same_shape=True, last_one=True)
    our_decoded = ours.tokenizer.decode(tokens)
    final = ours.tokenizer.decode(TokenPyramid(our_greedy, ours.schedule))
    return {
        "encoded_equal": float((our_tokens == their_tokens).float().mean()),
        "logits_relative": float((our_logits - their_logits).abs().max() / their_logits.abs().max()),
        "greedy_equal": float((our_greedy == their_greedy).float().mean()),
        "image_difference": max(
            float((our_decoded - their_decoded).abs().max()), float((final - (2 * their_image - 1)).abs().max())
        ),
        "smooth_difference": smooth_difference(ours, their_logits),
    }


def reference_greedy(var: Any, classes: Tensor) -> tuple[Tensor, Tensor]:
    """The authors' greedy tokens (B, L) with guidance, and their images in [0, 1]."""
    from models import var as module  # pyright: ignore[reportMissingImports]

    original, drawn_maps = module.sample_with_top_k_top_p_, []

    def recording(*arguments: Any, **options: Any) -> Tensor:
        drawn_maps.append(original(*arguments, **options))
        return drawn_maps[-1]

    module.sample_with_top_k_top_p_ = recording
    try:
        image = var.autoregressive_infer_cfg(B=len(classes), label_B=classes, g_seed=0, cfg=GUIDANCE, top_k=1, top_p=0)
    finally:
        module.sample_with_top_k_top_p_ = original
    return torch.cat([level[:, :, 0] for level in drawn_maps], dim=1), image


def smooth_difference(ours: VARPipeline, logits: Tensor) -> float:
    """Largest difference of the smooth mode's mixtures over all scales, on the same noise and filters."""
    from models import helpers  # pyright: ignore[reportMissingImports]

    worst = 0.0
    settings = SamplingConfig(guidance=0, top_k=900, top_p=0.95, smooth=True)
    for scale in range(len(ours.schedule)):
        part = logits[:1, ours.schedule.slice(scale)]
        ratio = guidance_ramp(scale, len(ours.schedule))
        filtered = part.clone()
        helpers.sample_with_top_k_top_p_(filtered, top_k=settings.top_k, top_p=settings.top_p)  # filters in place
        theirs = helpers.gumbel_softmax_with_rng(
            filtered.mul(1 + ratio), tau=max(0.27 * (1 - ratio * 0.95), 0.005), rng=torch.Generator().manual_seed(1)
        )
        noise = torch.empty_like(part).exponential_(generator=torch.Generator().manual_seed(1)).log().neg()
        worst = max(worst, float((smooth_mixture(part, noise, settings, ratio=ratio) - theirs).abs().max()))
    return worst


if __name__ == "__main__":
    cyclopts.run(main)
