"""`nextscale train tokenizer` and `nextscale train var`."""

from __future__ import annotations

from typing import Annotated, Any

from cyclopts import Parameter

from nextscale.cli.options import ConfigFile, accepts, settle
from nextscale.config import essential
from nextscale.data.source import open_source
from nextscale.data.tokens import is_token_cache, open_tokens
from nextscale.presets import (
    named,
    tokenizer_presets,
    tokenizer_recipes,
    transformer_presets,
    transformer_recipes,
)
from nextscale.runtime import launched_processes, retain_freed_memory
from nextscale.training.loop import LoopConfig
from nextscale.training.suggest import Suggestion, suggest_tokenizer, suggest_transformer
from nextscale.training.tokenizer import TokenizerTraining, train_tokenizer
from nextscale.training.transformer import TransformerTraining, train_transformer

DERIVED = ("scales", "codebook_size", "latent_channels", "classes", "tokenizer_fingerprint")
"Settings of a transformer that its tokenizer and data decide."
AUTO = "auto"
FITTED = "auto fits size and steps to the data and says how."
Resume = Annotated[bool, Parameter(help="Continue exactly where --out left off; start where it holds nothing.")]


@accepts(TokenizerTraining)
def train_tokenizer_command(
    *,
    preset: Annotated[str, Parameter(help=f"Architecture: {', '.join(tokenizer_presets())}; {FITTED}")] = AUTO,
    config: ConfigFile = "",
    resume: Resume = False,
    given: Any = None,
) -> None:
    """Stage 1: train the multi-scale VQVAE on images."""
    base: dict[str, Any] = {"out": "out/runs/tokenizer"}
    if preset == AUTO:
        known = settle(TokenizerTraining, given, file=config, base=base)
        require_index(known)
        base |= told(suggest_tokenizer(open_source(known.data)))
    else:
        base |= {"model": essential(named(tokenizer_presets(), preset))} | tokenizer_recipes().get(preset, {})
    settled = settle(TokenizerTraining, given, file=config, base=base)
    retain_freed_memory()
    print(train_tokenizer(settled, resume=resume))


@accepts(TransformerTraining, hidden=DERIVED)
def train_var_command(
    *,
    preset: Annotated[str, Parameter(help=f"Architecture: {', '.join(transformer_presets())}; {FITTED}")] = AUTO,
    config: ConfigFile = "",
    resume: Resume = False,
    given: Any = None,
) -> None:
    """Stage 2: train the next-scale transformer on tokens, or on images tokenised on the way."""
    base: dict[str, Any] = {"out": "out/runs/var"}
    if preset == AUTO:
        known = settle(TransformerTraining, given, file=config, base=base)
        require_index(known)
        base |= told(suggest_transformer(count_images(known.data)))
    else:
        base |= {"model": essential(named(transformer_presets(), preset))} | transformer_recipes().get(preset, {})
    settled = settle(TransformerTraining, given, file=config, base=base)
    retain_freed_memory()
    print(train_transformer(settled, resume=resume))


def require_index(config: LoopConfig) -> None:
    """Raises ValueError for a stream: what fits the data is seen by looking at all of it."""
    if config.stream:
        raise ValueError("a stream cannot be looked at beforehand: name a --preset")


def told(suggestion: Suggestion) -> dict[str, Any]:
    """The settings of a suggestion, after saying what was chosen and why."""
    if launched_processes().is_main:
        print(f"{suggestion.reason} (flags override)")
    return suggestion.settings


def count_images(data: str) -> int:
    """Images of a token cache or a set of images."""
    return len(open_tokens(data)) if is_token_cache(data) else len(open_source(data))
