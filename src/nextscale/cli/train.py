"""`nextscale train tokenizer`, `train KIND` for each kind of stage-2 model, `train neon`, and `distill decoder`."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

from cyclopts import Parameter

from nextscale.cli.following import tell_next
from nextscale.cli.options import PANELS, ConfigFile, Json, accepts, read_settings, settle
from nextscale.cli.outputs import write_results
from nextscale.cli.tables import figure_text, show_table
from nextscale.config import essential, named
from nextscale.families.config import ARCHITECTURES, OneStepConfig, family_presets, recipes
from nextscale.tokenizer.config import VQVAEConfig, tokenizer_presets, tokenizer_recipes
from nextscale.training.config import LoopConfig, TokenizerTraining, TransformerTraining, training_settings
from nextscale.training.neon_config import NeonTraining

if TYPE_CHECKING:
    from nextscale.training.suggest import Suggestion

DERIVED = (
    "scales",
    "codebook_size",
    "latent_channels",
    "classes",
    "tokenizer_fingerprint",
    "latent_scale",
    "refinable",
    "text",
    "grown_from",
)
"""Settings of a transformer that its tokenizer, its data and other settings decide."""
NOT_OF_ONE_STEP = (
    *("tokenizer", "guidance", "top_k", "top_p", "refine_steps", "label_smoothing", "scale_weights", "self_correct"),
    *("masked_last", "gamma", "compile", "checkpointing", "parallel", "ema", "clip", "weight_decay", "warmup", "flat"),
    *("weight_decay_end", "cosine", "condition", "text_encoder", "text_tokens", "word_dropout"),
    *("caption_column", "caption_template"),
)
"""Settings that models of one step have not, or that theirs leave as they are."""
AUTO = "auto"
MAIN = ("data", "tokenizer", "condition", "out", "heldout", "steps", "epochs", "batch_size", "seed", "init_from")
"""What the help shows first, as far as the command has it, after --preset and --resume."""
RESUME = "Continue where the run folder left off, as it recorded; start where it holds nothing. [default: false]"
Resume = Annotated[bool, Parameter(help=RESUME, show_default=False, group=PANELS["Main settings"])]
RUN = "Run folder; another way to give --out."
RunName = Annotated[str, Parameter(help=RUN, show_default=False, group=PANELS["Main settings"])]
Training = TypeVar("Training", bound=LoopConfig)
Settings = TypeVar("Settings", bound=LoopConfig | NeonTraining)


@dataclass(frozen=True)
class Start:
    """How a run is started: what was typed, and what an earlier start recorded where it is to be continued."""

    command: str
    out: str
    given: Any
    config: str
    preset: dict[str, Any] | None
    "Settings of the preset that was named, nested; None where none was."
    resume: bool
    recorded: dict[str, Any] | None

    @property
    def named(self) -> set[str]:
        """Settings that are named by the settings file or by flags."""
        flags = {name for name, value in vars(self.given).items() if value is not None} if self.given else set()
        return flags | (set(flat(read_settings(self.config))) if self.config else set())

    def settings(self, kind: type[Settings], suggested: dict[str, Any] | None = None) -> Settings:
        """All settings: recorded, suggested or of a preset, overridden by file and flags. Raises ValueError."""
        base = merged(merged({"out": self.out} | (self.recorded or {}), suggested or {}), self.preset or {})
        try:
            return replace(settle(kind, self.given, file=self.config, base=base), out=self.out)
        except ValueError as error:
            if self.resume and self.recorded is None and "is missing" in str(error):
                raise ValueError(f"{self.out}: holds no run to continue, and to start one {error}") from error
            raise


def find_start(
    command: str, run: str, given: Any, *, config: str, resume: bool, preset: str = AUTO,
    presets: dict[str, dict[str, Any]] | None = None, folder: str = "",
) -> Start:  # fmt: skip
    """The run folder of a command, and what it recorded if it is to be continued. Raises ValueError.

    `folder` is the run folder where none is named.
    """
    from nextscale.checkpoint import resume_hint
    from nextscale.training.run import read_record

    flagged = getattr(given, "out", None) or ""
    if run and flagged and Path(run) != Path(flagged):
        raise ValueError(f"two run folders are given: {run} and --out {flagged}")
    file = flat(read_settings(config)) if config else {}
    out = str(run or flagged or file.get("out") or folder or f"out/runs/{command}")
    record = read_record(Path(out)) if resume else None
    if record is not None and record.command not in ("", command):
        raise ValueError(f"{out}: is a run of train {record.command}; {resume_hint(Path(out))}")
    chosen = None if preset == AUTO else named(presets or {}, preset)
    if chosen is not None and isinstance(file.get("model"), dict):
        print(f"--preset {preset} gives way to the model of --config {config}", file=sys.stderr)
    return Start(command, out, given, config, chosen, resume, None if record is None else record.settings)


def merged(base: dict[str, Any], more: dict[str, Any]) -> dict[str, Any]:
    """Nested settings: those of `base`, overridden by those of `more`."""
    inner = {
        name: merged(base[name], value)
        for name, value in more.items()
        if isinstance(value, dict) and isinstance(base.get(name), dict)
    }
    return base | more | inner


def flat(values: dict[str, Any]) -> dict[str, Any]:
    """Names and values of settings, groups opened; a group counts as a setting too."""
    found = {}
    for name, value in values.items():
        found[name.replace("-", "_")] = value
        found |= flat(value) if isinstance(value, dict) else {}
    return found


def training_command(
    kind: str, config_class: type[Training], models: dict[str, Any], published: dict[str, Any], hidden: tuple[str, ...]
) -> Callable[..., None]:
    """The command that trains a tokenizer, or one kind of model on tokens or images."""
    text = f"Architecture: {', '.join(models)}; auto fits size and steps to the data and an evening's computing."
    flag = Parameter(help=text, group=PANELS["Main settings"], metavar="NAME")

    @accepts(config_class, first=MAIN, hidden=hidden, defaults={"out": f"out/runs/{kind}"})
    def command(
        run: RunName = "", /, *, preset: Any = AUTO, config: ConfigFile = "", resume: Resume = False, given: Any = None
    ) -> None:
        presets = {name: {"model": essential(model)} | published.get(name, {}) for name, model in models.items()}
        start = find_start(kind, run, given, config=config, resume=resume, preset=preset, presets=presets)
        settings = choose_settings(start, config_class)
        run_training(start, settings)
        following = ["generate", "--model", settings.out]
        if isinstance(settings, TokenizerTraining):
            following = ["tokenize", "--tokenizer", settings.out, "--data", settings.data]
            following += ["--out", f"{settings.out.rstrip('/')}-tokens"]
        print_result(settings.out, *following)

    # Annotations are looked up by name in the module, which does not know the local flag.
    named_types = {"run": RunName, "preset": Annotated[str, flag], "config": ConfigFile, "resume": Resume}
    command.__annotations__ |= named_types
    return command


def transformer_command(kind: str) -> Callable[..., None]:
    """The command of a kind of stage-2 model."""
    hidden = (*DERIVED, *NOT_OF_ONE_STEP) if issubclass(ARCHITECTURES[kind], OneStepConfig) else DERIVED
    return training_command(kind, training_settings(kind), family_presets(kind), recipes(kind), hidden)


train_tokenizer_command = training_command(
    "tokenizer", TokenizerTraining, tokenizer_presets(), tokenizer_recipes(), hidden=()
)
train_var_command, train_raster_command, train_rq_command, train_maskgit_command, train_dit_command = map(
    transformer_command, ("var", "raster", "rq", "maskgit", "dit")
)
train_r3gan_command, train_stylegan_xl_command = map(transformer_command, ("r3gan", "stylegan-xl"))


def suggest(kind: str, known: LoopConfig) -> Suggestion:
    """Settings that fit the data."""
    from nextscale.catalogue import find_tokenizer
    from nextscale.data.source import open_source
    from nextscale.runtime import resolve_device
    from nextscale.training.images import open_indexed
    from nextscale.training.suggest import suggest_one_step, suggest_tokenizer, suggest_transformer

    device = resolve_device(known.device).type
    if isinstance(known, TokenizerTraining):
        return suggest_tokenizer(open_source(known.data, **known.columns), device, known.model.architecture)
    assert isinstance(known, TransformerTraining)
    if issubclass(ARCHITECTURES[kind], OneStepConfig):
        return suggest_one_step(open_source(known.data, **known.columns), kind, device)
    tokenizer = find_tokenizer(known.tokenizer).config
    return suggest_transformer(len(open_indexed(known.data, known)), kind, tokenizer, device)


def choose_settings(start: Start, kind: type[Training]) -> Training:
    """The settings of a run: as recorded, of a preset, or suggested from the data where they are not named.

    Raises ValueError for a stream without a preset: a suggestion needs all of the data.
    """
    from nextscale.runtime import launched_processes

    known = start.settings(kind)
    require_used(start, known)
    everything = {"model", "batch_size", "steps"} <= start.named
    if start.recorded is not None or start.preset is not None or everything:
        return known
    if known.stream:
        raise ValueError("a stream cannot be looked at beforehand: name a --preset")
    suggestion = suggest(start.command, known).without(start.named)
    if suggestion.flags and launched_processes().is_main:
        print(f"{suggestion.reason} (flags override)")
    return start.settings(kind, suggestion.settings)


def require_used(start: Start, known: LoopConfig) -> None:
    """Raises ValueError for a flag that the tokenizer's architecture does not have."""
    if isinstance(known, TokenizerTraining) and start.given is not None:
        for name in known.model.unused:
            if getattr(start.given, name) is not None:
                raise ValueError(f"--{name.replace('_', '-')} is no setting of architecture {known.model.architecture}")


def run_training(start: Start, config: LoopConfig, *command: str) -> None:
    """Train; says how the run continues where it is stopped, with a `command` of its own if there is one."""
    from nextscale.runtime import retain_freed_memory
    from nextscale.training.run import read_record
    from nextscale.training.stage1 import train_tokenizer
    from nextscale.training.stage2 import train_transformer

    retain_freed_memory()
    train: Callable[..., Path] = train_tokenizer if start.command == "tokenizer" else train_transformer
    try:
        train(config, resume=start.resume)
    except KeyboardInterrupt:
        if read_record(Path(config.out)) is not None:
            words = command or ("train", start.command)
            tell_next(*words, "--resume", "--out", config.out, word="continue with")
        raise


FORMER = "Model, run or tokenizer folder whose decoder is to be narrower; its tokens stay as they are."
Teacher = Annotated[str, Parameter(help=FORMER, show_default=False, group=PANELS["Main settings"], metavar="TEXT")]
DECIDED = ("init_from", "init_scales", "decoder_only", "restart_every", "restart_below")
"""Settings of the training of tokenizers that the command decides, or that frozen codes have not."""
FROZEN = (*DECIDED, *(field.name for field in fields(VQVAEConfig) if field.name != "decoder_channels"))
DECODER_MAIN = ("data", "out", "decoder_channels", "teacher", "heldout", "steps", "epochs", "batch_size", "seed")
DISTILLED = {"out": "out/runs/decoder", "teacher": 1.0}


@accepts(TokenizerTraining, first=DECODER_MAIN, hidden=FROZEN, defaults=DISTILLED)
def distill_decoder(
    run: RunName = "", /, *, model: Teacher = "", config: ConfigFile = "", resume: Resume = False, given: Any = None
) -> None:
    """Train a narrower decoder on a model's frozen tokens, against the images and what its own decoder makes of them.

    It is a run of `train tokenizer` with --decoder-only; without --decoder-channels the decoder is half as wide.
    """
    start = find_start("tokenizer", run, given, config=config, resume=resume, folder=str(DISTILLED["out"]))
    chosen: dict[str, Any] = {"init_from": model} if model else {}
    if start.recorded is None:
        chosen |= {"decoder_only": True, "teacher": DISTILLED["teacher"]}
    if not (model or start.recorded):
        raise ValueError("--model is missing; the model whose decoder is to be narrower")
    settings = replace(start, preset=chosen).settings(TokenizerTraining)
    if not settings.model.decoder_channels and start.recorded is None:
        settings = replace(settings, model=replace(settings.model, decoder_channels=half_as_wide(settings.init_from)))
    run_training(start, settings, "distill", "decoder")
    print_result(settings.out, "reconstruct", settings.data, "--model", settings.out)


def half_as_wide(model: str) -> int:
    """Half the channels of a model's decoder. Raises ValueError for a ViT's."""
    from nextscale.catalogue import find_tokenizer

    known = find_tokenizer(model).config
    if known.architecture != "cnn":
        raise ValueError(f"model {model}: its decoder is a ViT; only those of CNNs are distilled")
    return max(1, (known.decoder_channels or known.channels) // 2)


NEON_MAIN = ("model", "data", "out", "samples", "steps", "weights", "guidances", "tuning_count", "features", "seed")


@accepts(NeonTraining, first=NEON_MAIN, defaults={"out": "out/runs/neon"})
def neon(
    run: RunName = "", /, *, config: ConfigFile = "", json: Json = "", resume: Resume = False, given: Any = None
) -> None:
    """Improve a finished model by its own samples: tune a copy on them, extrapolate the weights away."""
    start = find_start("neon", run, given, config=config, resume=resume)
    settings = start.settings(NeonTraining)
    from nextscale.runtime import retain_freed_memory
    from nextscale.training.neon import train_neon
    from nextscale.training.run import read_record

    retain_freed_memory()
    try:
        report = train_neon(settings, resume=resume)
    except KeyboardInterrupt:
        if read_record(Path(settings.out)) is not None:
            tell_next("train", "neon", "--resume", "--out", settings.out, word="continue with")
        raise
    write_results(json, report)
    show_neon(report)
    print_result(settings.out, "evaluate", "generation", "--model", settings.out, "--data", settings.data)


def show_neon(report: dict[str, Any]) -> None:
    """Frechet distances of all candidates, a column per guidance, and what was chosen."""
    table = report["table"]
    guidances = sorted({point["guidance"] for point in table})
    rows: dict[tuple[int, float], dict[float, str]] = {}
    for point in table:
        rows.setdefault((point["steps"], point["weight"]), {})[point["guidance"]] = figure_text(
            "frechet", point["frechet"]
        )
    shown = [(str(steps), f"{weight:g}", *found.values()) for (steps, weight), found in rows.items()]
    title = f"Frechet distance of {report['count']} images, {report['features']['name']} features"
    show_table(title, ("steps", "w", *(f"guidance {guidance:g}" for guidance in guidances)), shown)
    best, before, own = report["best"], report["best_unchanged"], report["unchanged"]
    was = f"{before['frechet']:.2f} at its best guidance {before['guidance']:g}, {own['frechet']:.2f} at its own"
    if best["weight"] == 0:
        print(f"no weight improves on the model itself ({was}): it is exported, with guidance {best['guidance']:g}")
        return
    which = f"w {best['weight']:g} after {best['steps']} steps at guidance {best['guidance']:g}"
    print(f"best: {which}, {best['frechet']:.2f}; the model itself: {was}")


def print_result(out: str, *following: str) -> None:
    """Print what to run next, and the model's folder."""
    from nextscale.runtime import launched_processes

    if launched_processes().is_main:
        tell_next(*following)
        print(Path(out) / "model")
