"""`nextscale convert`: the authors' files to our folder, and back."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from nextscale.cli.following import tell_next
from nextscale.cli.options import ConfigFile, ResultsFile, accepts, settle
from nextscale.cli.outputs import write_results
from nextscale.config import STORED
from nextscale.files import complete_folder
from nextscale.settings import SetsSampling

FORMATS = ("folder", "official")


@dataclass(frozen=True, kw_only=True)
class ConvertOptions(SetsSampling, ResultsFile):
    """Settings of `nextscale convert`."""

    out: str
    "Folder to write; it appears only when complete."
    to: str = "folder"
    "folder: config.json and safetensors; official: the authors' .pth files."
    export: str = "fp32"
    "Type the weights are stored in: fp32, bf16 (half the size), fp16, int8 (a quarter)."
    guidance: float | None = None
    "Generation default to write: guidance [default: the model's]"
    top_k: int | None = None
    "Generation default to write: top-k, 0 is off [default: the model's]"
    top_p: float | None = None
    "Generation default to write: top-p, 0 is off [default: the model's]"
    steps: int | None = None
    "Generation default to write: steps of masked prediction and diffusion, 0 is the model's own [default: the model's]"
    refine_steps: int | None = None
    "Generation default to write: passes that draw the last map, 1 draws it at once [default: the model's]"
    spatial_guidance: tuple[float, ...] | None = None
    "Generation default to write: spatial guidance, 0 is off [default: the model's]"
    truncation: float | None = None
    "Generation default to write: truncation of a model of one step, 1 is off [default: the model's]"

    def __post_init__(self) -> None:
        if self.to not in FORMATS:
            raise ValueError(f"to {self.to!r} is not known; expected one of {', '.join(FORMATS)}")
        if self.export not in STORED:
            raise ValueError(f"export {self.export!r} is not known; expected one of {', '.join(STORED)}")
        if self.to == "official":
            if self.export == "int8":
                raise ValueError("the authors' format holds no int8; use --export fp32, bf16 or fp16")
            for name in self.sampling():
                raise ValueError(f"the authors' format holds no {name}; write --to folder")
        self.sampling()  # raises


@accepts(ConvertOptions, first=("out", "to", "export"))
def convert(model: str, *, config: ConfigFile = "", given: Any = None) -> None:
    """Write a model in our format or in the authors'.

    Parameters
    ----------
    model
        The authors' .pth file (a transformer with its tokenizer beside it, or a tokenizer), var-d16 ... var-d36,
        or any model of ours.
    """
    options = settle(ConvertOptions, given, file=config)
    from nextscale.catalogue import find_model
    from nextscale.checkpoint import save_model
    from nextscale.families.var import VAR
    from nextscale.official import save_official
    from nextscale.runtime import STORED_DTYPES

    stored, dtype = find_model(model), STORED_DTYPES[options.export]
    described = replace(stored.config(), **options.sampling())
    transformer = None if described.kind == "tokenizer" else stored.transformer()
    tokenizer = stored.tokenizer()
    out = Path(options.out)
    if options.to == "folder":
        save_model(out, described, tokenizer=tokenizer, transformer=transformer, dtype=dtype)
    else:
        with complete_folder(out) as partial:
            if not (transformer is None or type(transformer) is VAR):
                raise ValueError(f"model {model}: the authors' format holds next-scale models only")
            save_official(partial, tokenizer, transformer, dtype)
    files = {str(path.relative_to(out)): path.stat().st_size for path in sorted(out.rglob("*")) if path.is_file()}
    write_results(options.json, {"out": options.out, "files": files})
    for name, size in files.items():
        print(f"{out / name}  {size / 1e6:.1f} MB" if size >= 1e5 else f"{out / name}  {size / 1e3:.1f} kB")
    written = out if options.to == "folder" else next((out / name for name in files if name.startswith("var")), None)
    if transformer is not None and written is not None:
        tell_next("generate", "--model", written)
