"""`nextscale train tokenizer`, and `nextscale train KIND` for each kind of stage-2 model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

from cyclopts import Parameter

from nextscale.cli.options import ConfigFile, accepts, settle
from nextscale.config import essential
from nextscale.data.source import open_source
from nextscale.data.tokens import is_token_cache, open_tokens
from nextscale.models.families import FAMILIES
from nextscale.presets import (
    family_presets,
    named,
    tokenizer_presets,
    tokenizer_recipes,
    transformer_recipes,
)
from nextscale.runtime import launched_processes, retain_freed_memory
from nextscale.training.families import TRAININGS
from nextscale.training.images import columns
from nextscale.training.loop import LoopConfig
from nextscale.training.suggest import Suggestion, suggest_tokenizer, suggest_transformer
from nextscale.training.tokenizer import TokenizerTraining, train_tokenizer
from nextscale.training.transformer import train_transformer

DERIVED = ("scales", "codebook_size", "latent_channels", "classes", "tokenizer_fingerprint", "latent_scale")
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
        base |= told(suggest_tokenizer(open_source(known.data, **columns(known))))
    else:
        base |= {"model": essential(named(tokenizer_presets(), preset))} | tokenizer_recipes().get(preset, {})
    settled = settle(TokenizerTraining, given, file=config, base=base)
    retain_freed_memory()
    print(train_tokenizer(settled, resume=resume))


def transformer_command(kind: str) -> Callable[..., None]:
    """The command that trains one kind of model on tokens, or on images tokenised on the way."""
    settings, presets, title = TRAININGS[kind], family_presets(kind), FAMILIES[kind].title
    recipes = transformer_recipes() if kind == "var" else {}
    names = f"Architecture: {', '.join(presets)}; {FITTED}"

    @accepts(settings, hidden=DERIVED)
    def command(
        *,
        preset: Annotated[str, Parameter(help=names)] = AUTO,
        config: ConfigFile = "",
        resume: Resume = False,
        given: Any = None,
    ) -> None:
        base: dict[str, Any] = {"out": f"out/runs/{kind}"}
        if preset == AUTO:
            known = settle(settings, given, file=config, base=base)
            require_index(known)
            base |= told(suggest_transformer(count_images(known)))
        else:
            base |= {"model": essential(named(presets, preset))} | recipes.get(preset, {})
        settled = settle(settings, given, file=config, base=base)
        retain_freed_memory()
        print(train_transformer(settled, resume=resume))

    command.__doc__ = f"Stage 2: train a model of {title} on tokens, or on images tokenised on the way."
    # Annotations are looked up by name where the command is defined; these are local.
    command.__annotations__ |= {"preset": Annotated[str, Parameter(help=names)], "config": ConfigFile, "resume": Resume}
    return command


train_var_command, train_raster_command, train_rq_command, train_maskgit_command, train_dit_command = (
    transformer_command(kind) for kind in ("var", "raster", "rq", "maskgit", "dit")
)


def require_index(config: LoopConfig) -> None:
    """Raises ValueError for a stream: what fits the data is seen by looking at all of it."""
    if config.stream:
        raise ValueError("a stream cannot be looked at beforehand: name a --preset")


def told(suggestion: Suggestion) -> dict[str, Any]:
    """The settings of a suggestion, after saying what was chosen and why."""
    if launched_processes().is_main:
        print(f"{suggestion.reason} (flags override)")
    return suggestion.settings


def count_images(config: LoopConfig) -> int:
    """Images of a token cache or a set of images."""
    if is_token_cache(config.data):
        return len(open_tokens(config.data))
    return len(open_source(config.data, **columns(config)))
