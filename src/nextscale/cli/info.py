"""`nextscale info`: what a model is made of."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from nextscale.cli.options import Json
from nextscale.cli.outputs import write_results
from nextscale.cli.tables import print_table

if TYPE_CHECKING:
    from nextscale.checkpoint import ModelConfig

MANY = 64
"""Lists longer than this are not printed whole; --json holds them all."""


def info(model: str = "demo", *, json: Json = "") -> None:
    """Say what a model is made of.

    Parameters
    ----------
    model
        demo, demo-raster, a published name such as var-d16, a model, run or tokenizer folder, or a hub id.
    """
    values = describe(model)
    write_results(json, values)
    from rich.table import Table

    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(no_wrap=True)
    table.add_column()
    for name, value in values.items():
        table.add_row(name.replace("_", " "), listed(value) if isinstance(value, list) else str(value))
    print_table(table)


def describe(model: str) -> dict[str, Any]:
    """Facts of a model folder, JSON-ready. Raises ValueError when it cannot be loaded."""
    from nextscale.bench.cost import sampling_steps
    from nextscale.catalogue import TERMS, find_model
    from nextscale.checkpoint import fingerprint
    from nextscale.families import family
    from nextscale.nn.packed import count_parameters
    from nextscale.published import PUBLISHED
    from nextscale.sampling.step import SamplingConfig
    from nextscale.tokenizer.vqvae import VQVAE

    stored = find_model(model)
    config, tokenizer = stored.config(), stored.tokenizer()
    image_size = list(tokenizer.config.image_size)
    values: dict[str, Any] = {"place": stored.place, "kind": config.kind, "image_size": image_size}
    if model in PUBLISHED:
        values |= {"about": PUBLISHED[model].about, "licence": PUBLISHED[model].licence}
    elif model in TERMS:
        values["licence"] = TERMS[model]
    if isinstance(tokenizer, VQVAE):
        values |= {
            "scales": [f"{height}x{width}" for height, width in tokenizer.schedule],
            "tokens": tokenizer.schedule.length,
            "codebook": f"{tokenizer.config.codebook_size} x {tokenizer.config.latent_channels}",
            "tokenizer_parameters": count_parameters(tokenizer),
            "tokenizer_fingerprint": fingerprint(tokenizer),
        }
    if config.trained_steps:
        values["trained_steps"] = config.trained_steps
    if config.kind != "tokenizer":
        transformer = stored.transformer()
        values["transformer_parameters"] = made = family(config.kind).parameters(transformer)
        if others := count_parameters(transformer) - made:
            values["discriminator_parameters"] = others
        sampling = SamplingConfig(steps=config.steps, refine_steps=config.refine_steps)
        sizes = ("depth", "width", "heads")
        values |= {name: getattr(transformer.config, name) for name in sizes if hasattr(transformer.config, name)}
        values |= takes(config, transformer.config)
        values |= {
            "guidance": config.guidance,
            "top_k": config.top_k,
            "top_p": config.top_p,
            "steps": sampling_steps(transformer.config, family(config.kind).steps_of(sampling)),
        }
        if config.truncation != 1:
            values["truncation"] = config.truncation
        if config.spatial_guidance:
            values["spatial_guidance"] = list(config.spatial_guidance)
    return values


def takes(config: ModelConfig, architecture: Any) -> dict[str, Any]:
    """What a model's images are drawn from."""
    from nextscale.conditions import reads_prompts

    if not reads_prompts(architecture):
        return {"classes": list(config.class_names) or architecture.classes}
    text = architecture.text
    reads = f"{text.tokens} tokens of {text.encoder}" if text.encoder else f"{text.tokens} words"
    return {"takes": f"prompts, of which it reads {reads}", "examples": list(config.prompts or ())}


def listed(values: list[Any]) -> str:
    """All of a few values; of many the number and some."""
    if len(values) <= MANY:
        return ", ".join(map(str, values))
    return f"{len(values)}: {'; '.join(map(str, values[:3]))}; ..."
