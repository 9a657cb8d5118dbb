"""`nextscale info`: what a model is made of."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from nextscale.files import write_json


def info(model: str = "demo", *, json: Annotated[str, Parameter(help="File for the results.")] = "") -> None:
    """Say what a model is made of.

    Parameters
    ----------
    model
        demo, a model, run or tokenizer folder, or a hub id.
    """
    values = describe(model)
    if json:
        write_json(Path(json), values)
    from rich.console import Console
    from rich.table import Table

    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in values.items():
        text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
        table.add_row(name.replace("_", " "), text)
    Console().print(table)


def describe(model: str) -> dict[str, Any]:
    """Facts of a model folder, JSON-ready. Raises ValueError when it cannot be loaded."""
    from nextscale.checkpoint import fingerprint, load_config, load_tokenizer, load_transformer
    from nextscale.pipeline import locate

    folder = locate(model)
    config = load_config(folder)
    tokenizer = load_tokenizer(folder)
    values: dict[str, Any] = {
        "folder": str(folder),
        "kind": config.kind,
        "image_size": list(tokenizer.config.image_size),
        "scales": [f"{height}x{width}" for height, width in tokenizer.schedule],
        "tokens": tokenizer.schedule.length,
        "codebook": f"{tokenizer.config.codebook_size} x {tokenizer.config.latent_channels}",
        "tokenizer_parameters": count_parameters(tokenizer),
        "tokenizer_fingerprint": fingerprint(tokenizer),
    }
    if config.kind != "tokenizer":
        transformer = load_transformer(folder)
        values |= {
            "transformer_parameters": count_parameters(transformer),
            "depth": transformer.config.depth,
            "width": transformer.config.width,
            "heads": transformer.config.heads,
            "classes": list(config.class_names) or transformer.config.classes,
            "guidance": config.guidance,
            "top_k": config.top_k,
            "top_p": config.top_p,
        }
    return values


def count_parameters(module: Any) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
