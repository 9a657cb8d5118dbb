"""`nextscale train tokenizer`, and `nextscale train KIND` for each kind of stage-2 model."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from nextscale.cli.options import PANELS, ConfigFile, accepts, settle
from nextscale.config import essential
from nextscale.models.config import TITLES
from nextscale.presets import (
    family_presets,
    named,
    tokenizer_presets,
    tokenizer_recipes,
    transformer_recipes,
)
from nextscale.training.config import LoopConfig, TokenizerTraining
from nextscale.training.families import TRAININGS

if TYPE_CHECKING:
    from nextscale.training.suggest import Suggestion

DERIVED = ("scales", "codebook_size", "latent_channels", "classes", "tokenizer_fingerprint", "latent_scale")
"Settings of a transformer that its tokenizer and data decide."
AUTO = "auto"
MAIN = ("data", "tokenizer", "out", "heldout", "steps", "epochs", "batch_size", "seed", "init_from")
"""What the help shows first, as far as the command has it, after --preset and --resume."""
RESUME = "Continue exactly where --out left off; start where it holds nothing. [default: false]"
Resume = Annotated[bool, Parameter(help=RESUME, show_default=False, group=PANELS["Main settings"])]


def preset_flag(presets: Iterable[str]) -> Parameter:
    """How --preset is shown."""
    text = f"Architecture: {', '.join(presets)}; auto fits size and steps to the data and says how."
    return Parameter(help=text, group=PANELS["Main settings"], metavar="NAME")


@accepts(TokenizerTraining, first=MAIN, defaults={"out": "out/runs/tokenizer"})
def train_tokenizer_command(
    *,
    preset: Annotated[str, preset_flag(tokenizer_presets())] = AUTO,
    config: ConfigFile = "",
    resume: Resume = False,
    given: Any = None,
) -> None:
    """Stage 1: train the multi-scale VQVAE on images."""
    from nextscale.data.source import open_source
    from nextscale.runtime import retain_freed_memory
    from nextscale.training.images import columns
    from nextscale.training.suggest import suggest_tokenizer
    from nextscale.training.tokenizer import train_tokenizer

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
    settings, presets, title = TRAININGS[kind], family_presets(kind), TITLES[kind]
    recipes = transformer_recipes() if kind == "var" else {}
    flag = preset_flag(presets)

    @accepts(settings, first=MAIN, hidden=DERIVED, defaults={"out": f"out/runs/{kind}"})
    def command(
        *,
        preset: Any = AUTO,
        config: ConfigFile = "",
        resume: Resume = False,
        given: Any = None,
    ) -> None:
        from nextscale.runtime import retain_freed_memory
        from nextscale.training.suggest import suggest_transformer
        from nextscale.training.transformer import train_transformer

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
    command.__annotations__ |= {"preset": Annotated[str, flag], "config": ConfigFile, "resume": Resume}
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
    from nextscale.runtime import launched_processes

    if launched_processes().is_main:
        print(f"{suggestion.reason} (flags override)")
    return suggestion.settings


def count_images(config: LoopConfig) -> int:
    """Images of a token cache or a set of images."""
    from nextscale.data.source import open_source
    from nextscale.data.tokens import is_token_cache, open_tokens
    from nextscale.training.images import columns

    if is_token_cache(config.data):
        return len(open_tokens(config.data))
    return len(open_source(config.data, **columns(config)))
