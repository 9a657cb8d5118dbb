"""What lower precisions change: logits and images against float32, on the same tokens.

    python benchmarks/precision.py --model demo
    python benchmarks/precision.py --model random:var-d16

The tokens are those that the float32 model draws; every precision then takes the steps of a generation (cached keys
and values) with these tokens forced. Random models get weights at which activations keep their size and logits
spread over tens. Top-1 agreement is the share of positions whose likeliest code is float32's; KL is that of the
precision's distribution from float32's.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import cyclopts
import torch
from rich.table import Table
from torch import Tensor

from nextscale import TokenPyramid, VARPipeline
from nextscale.catalogue import RANDOM, find_model
from nextscale.cli.tables import print_table
from nextscale.evaluation.reconstruction import psnr
from nextscale.files import write_json
from nextscale.runtime import resolve_generation_dtype, retain_freed_memory
from nextscale.sampling.next_scale import SamplingHook

CPU = torch.device("cpu")


class Forced(SamplingHook):
    """Puts known tokens in the place of the drawn ones and keeps the logits."""

    def __init__(self, pyramid: TokenPyramid) -> None:
        self.pyramid = pyramid
        self.seen: list[Tensor] = []

    def logits(self, scale: int, logits: Tensor, accumulated: Tensor) -> Tensor:
        self.seen.append(logits)
        return logits

    def tokens(self, scale: int, tokens: Tensor) -> Tensor:
        return self.pyramid[scale]


def main(
    *,
    model: Annotated[str, cyclopts.Parameter(help="demo, random:var-d16, a folder ...")] = "demo",
    precisions: str = "bf16,int8",
    count: int = 16,
    batch_size: int = 4,
    guidance: Annotated[float, cyclopts.Parameter(help="0 compares conditional logits alone.")] = 0.0,
    seed: int = 0,
    json: str = "",
) -> None:
    """Compare precisions on `count` images and print a table."""
    retain_freed_memory()
    exact = load(model, "fp32", seed)
    classes = [i % max(1, exact.transformer.config.classes) for i in range(count)]
    parts = [range(start, min(start + batch_size, count)) for start in range(0, count, batch_size)]
    pyramids = [exact.generate([classes[i] for i in part], seeds=part, batch_size=batch_size).tokens for part in parts]
    labels = [[classes[i] for i in part] for part in parts]
    expected = [outcome(exact, p, some, guidance) for p, some in zip(pyramids, labels, strict=True)]
    del exact
    columns = ("top-1 agreement", "KL, nats", "image, largest", "image, mean", "image, PSNR dB")
    table = Table("precision", *columns, title=f"{model} against float32, guidance {guidance:g}, {count} images")
    results: dict[str, Any] = {}
    for precision in precisions.split(","):
        pipeline = load(model, precision, seed)
        found = [
            compare(outcome(pipeline, pyramid, some, guidance), reference)
            for pyramid, some, reference in zip(pyramids, labels, expected, strict=True)
        ]
        shares = torch.tensor([len(part) / count for part in parts])
        figures = {name: float(shares @ torch.tensor([batch[name] for batch in found])) for name in found[0]}
        figures["largest"] = max(batch["largest"] for batch in found)
        results[precision] = figures
        table.add_row(
            precision, f"{figures['agreement']:.2%}", f"{figures['kl']:.2e}", f"{figures['largest']:.3f}",
            f"{figures['mean']:.1e}", f"{figures['psnr']:.1f}",
        )  # fmt: skip
    print_table(table)
    if json:
        write_json(Path(json), {"model": model, "guidance": guidance, "count": count, "precisions": results})


def load(model: str, precision: str, seed: int) -> VARPipeline:
    """The pipeline in one precision; random models with weights that matter, the same for all."""
    stored = find_model(model)
    pipeline = VARPipeline(stored.tokenizer(), stored.transformer(), stored.config())
    if model.startswith(RANDOM):
        spread(pipeline, torch.Generator().manual_seed(seed))
    return pipeline.to(CPU, resolve_generation_dtype(precision, CPU))


@torch.no_grad()
def spread(pipeline: VARPipeline, generator: torch.Generator) -> None:
    """Draw weights at which activations keep their size and logits spread over tens."""
    for part in (pipeline.tokenizer, pipeline.transformer):
        for name, parameter in part.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            fan_in = parameter[0].numel() if parameter.ndim in (2, 4) else 1
            if name.endswith("log_scale"):
                noise = 1.4 + 0.2 * noise
            elif parameter.ndim == 1:
                noise = (1.0 if "norm" in name and name.endswith("weight") else 0.0) + 0.1 * noise
            elif name == "head.weight":
                noise = 0.2 * noise
            elif "codebook" not in name and "embedding" not in name:
                noise = noise * fan_in**-0.5
            parameter.copy_(noise)


def outcome(pipeline: VARPipeline, pyramid: TokenPyramid, classes: list[int], guidance: float) -> tuple[Tensor, Tensor]:
    """Logits (B, L, V) on forced tokens, and images (B, 3, H, W)."""
    hook = Forced(pyramid)
    wanted = classes if pipeline.transformer.config.classes else None
    *_, last = pipeline.generate_steps(wanted, seeds=range(len(classes)), hook=hook, guidance=guidance)
    return torch.cat(hook.seen, dim=1), pipeline.tokenizer.decode_features(last.accumulated)


def compare(found: tuple[Tensor, Tensor], expected: tuple[Tensor, Tensor]) -> dict[str, float]:
    """Differences of one batch."""
    (logits, images), (true_logits, true_images) = found, expected
    truth, other = true_logits.log_softmax(dim=-1), logits.log_softmax(dim=-1)
    difference = (images - true_images).abs()
    return {
        "agreement": float((logits.argmax(dim=-1) == true_logits.argmax(dim=-1)).float().mean()),
        "kl": float((truth.exp() * (truth - other)).sum(dim=-1).mean()),
        "largest": float(difference.max()),
        "mean": float(difference.mean()),
        "psnr": float(psnr(true_images, images).mean()),
    }


if __name__ == "__main__":
    cyclopts.run(main)
