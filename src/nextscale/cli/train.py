"""`nextscale train tokenizer` and `nextscale train var`."""

from __future__ import annotations

from typing import Annotated, Any

from cyclopts import Parameter

from nextscale.cli.options import ConfigFile, accepts, settle
from nextscale.config import essential
from nextscale.presets import (
    named,
    tokenizer_presets,
    tokenizer_recipes,
    transformer_presets,
    transformer_recipes,
)
from nextscale.runtime import retain_freed_memory
from nextscale.training.tokenizer import TokenizerTraining, train_tokenizer
from nextscale.training.transformer import TransformerTraining, train_transformer

DERIVED = ("scales", "codebook_size", "latent_channels", "classes", "tokenizer_fingerprint")
"Settings of a transformer that its tokenizer and data decide."
Resume = Annotated[bool, Parameter(help="Continue exactly where --out left off; start where it holds nothing.")]


@accepts(TokenizerTraining)
def train_tokenizer_command(
    *,
    preset: Annotated[str, Parameter(help=f"Architecture: {', '.join(tokenizer_presets())}.")] = "small-64",
    config: ConfigFile = "",
    resume: Resume = False,
    given: Any = None,
) -> None:
    """Stage 1: train the multi-scale VQVAE on images."""
    base = {"model": essential(named(tokenizer_presets(), preset)), "out": "out/runs/tokenizer"}
    base |= tokenizer_recipes().get(preset, {})
    settled = settle(TokenizerTraining, given, file=config, base=base)
    retain_freed_memory()
    print(train_tokenizer(settled, resume=resume))


@accepts(TransformerTraining, hidden=DERIVED)
def train_var_command(
    *,
    preset: Annotated[str, Parameter(help=f"Architecture: {', '.join(transformer_presets())}.")] = "small",
    config: ConfigFile = "",
    resume: Resume = False,
    given: Any = None,
) -> None:
    """Stage 2: train the next-scale transformer on tokens, or on images tokenised on the way."""
    base = {"model": essential(named(transformer_presets(), preset)), "out": "out/runs/var"}
    base |= transformer_recipes().get(preset, {})
    settled = settle(TransformerTraining, given, file=config, base=base)
    retain_freed_memory()
    print(train_transformer(settled, resume=resume))
