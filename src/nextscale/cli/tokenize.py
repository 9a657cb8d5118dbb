"""`nextscale tokenize`: images to a token cache."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from nextscale.cli.following import tell_next
from nextscale.cli.options import ConfigFile, ResultsFile, accepts, settle
from nextscale.cli.outputs import write_results
from nextscale.config import require_at_least, require_seed
from nextscale.settings import CaptionColumns, Computing, DataColumns


@dataclass(frozen=True, kw_only=True)
class TokenizeOptions(CaptionColumns, DataColumns, Computing, ResultsFile):
    """Settings of `nextscale tokenize`."""

    data: str
    "Images: folder, parquet, WebDataset or hub id."
    tokenizer: str = "demo"
    "Tokenizer: demo, or a model, run or tokenizer folder."
    out: str = "out/tokens"
    "Folder for the tokens."
    views: int = 1
    "Augmentations kept of each image; the first is the centre crop."
    enlarge: float = 1.125
    "Resize before the random crop of further views, as a multiple of the crop."
    flip: bool = False
    "Mirror half of the further views."
    seed: int = 0
    "Seed of the further views."
    precision: str = "auto"
    "Precision of the encoder: auto (bf16 where the processor multiplies it), fp32, bf16. Codes are found in fp32."
    batch_size: int = 64
    "Images at once."
    limit: int = 100
    "Unreadable images tolerated."
    resume: bool = False
    "Continue an interrupted run; does nothing where it is complete."

    def __post_init__(self) -> None:
        require_at_least(self, 1, "views", "batch_size", "enlarge")
        require_at_least(self, 0, "limit")
        require_seed(self.seed)


@accepts(TokenizeOptions, first=("data", "tokenizer", "out", "resume"))
def tokenize(*, config: ConfigFile = "", given: Any = None) -> None:
    """Write a token cache to train transformers from."""
    options = settle(TokenizeOptions, given, file=config)
    from nextscale.catalogue import find_tokenizer
    from nextscale.config import to_dict
    from nextscale.data.source import describe, open_source
    from nextscale.data.tokens import TokenCacheConfig, open_tokens, recorded_precision
    from nextscale.progress import Progress
    from nextscale.runtime import resolve_device, resolve_training_dtype, retain_freed_memory
    from nextscale.training.parallel import launched
    from nextscale.training.tokens import write_tokens

    retain_freed_memory()
    processes, out = launched(), Path(options.out)
    device = resolve_device(options.device)
    noted = recorded_precision(out) if options.resume and options.precision == "auto" else ""
    dtype = resolve_training_dtype(noted or options.precision, device)
    tokenizer = find_tokenizer(options.tokenizer).to(device)
    source = open_source(options.data, **options.columns, **options.captions)
    if processes.is_main:
        print(f"{options.data}: {describe(source)}")
    progress = Progress(len(source), title="tokenised", line_seconds=15, enabled=processes.is_main)
    shared = {name: getattr(options, name) for name in ("data", "views", "enlarge", "flip", "seed")}
    about = TokenCacheConfig(scales=tokenizer.config.scales, codebook_size=tokenizer.config.codebook_size, **shared)
    how: dict[str, Any] = {name: getattr(options, name) for name in ("resume", "batch_size", "limit")}
    how |= {"dtype": dtype, "advance": progress.advance, "processes": processes}
    try:
        folder = write_tokens(tokenizer, source, out, about, **how)
    except KeyboardInterrupt:
        if out.is_dir():
            tell_next("tokenize", *flags_of(replace(options, resume=True)), word="continue with")
        raise
    finally:
        progress.close()
    made = open_tokens(folder).config
    if not processes.is_main:
        return
    write_results(options.json, {"out": str(folder), **to_dict(made)})
    views = f"{made.views} view(s) of {tokenizer.schedule.length} tokens"
    print(f"{made.images} images, {views}{', in ' + made.precision if made.precision else ''}: {folder}")
    sizes = set(made.scales)
    kind = "raster" if len(made.scales) == 1 else "rq" if len(sizes) == 1 else "var"
    tell_next("train", kind, "--tokenizer", options.tokenizer, "--data", folder)
    print(folder)


def flags_of(options: TokenizeOptions) -> list[str]:
    """The flags that give these settings."""
    given: list[str] = []
    for setting in fields(options):
        value = getattr(options, setting.name)
        if value != setting.default:
            name = f"--{setting.name.replace('_', '-')}"
            given += [name] if value is True else [name, str(value)]
    return given
