"""Model folders: config.json and model.safetensors per part. Nothing here reads pickles.

folder/config.json                     kind, class names, generation defaults
folder/tokenizer/{config.json, model.safetensors}
folder/transformer/{config.json, model.safetensors}
"""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from nextscale.config import LEFT_OUT, from_dict, read_json, to_dict
from nextscale.families import family
from nextscale.families.config import ARCHITECTURES
from nextscale.files import complete_folder, write_json
from nextscale.int8_weights import expanded, in_int8, weights_of_products
from nextscale.tokenizer.vqvae import VQVAE, PixelTokenizer, VQVAEConfig

Module = TypeVar("Module", bound=nn.Module)
Config = TypeVar("Config")
WEIGHTS = "model.safetensors"
CONFIG = "config.json"
DECODER = ("decoder.", "post_quant_conv.")
"""Parts of a tokenizer that its tokens do not depend on."""
RUN = "run.json"
"""Names the command that began a run (see `nextscale.training.run`)."""


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """A model folder's own config.json."""

    kind: str = "var"
    "Family of the transformer; `tokenizer` where there is none."
    class_names: tuple[str, ...] = ()
    "Names of the classes in the order of their ids; empty where they have none."
    guidance: float = 1.5
    "Default guidance; it ramps from 0 at the first scale to this at the last."
    top_k: int = 900
    "Default number of likeliest tokens to draw from; 0 is off."
    top_p: float = 0.96
    "Default probability of the likeliest tokens to draw from, all together; 0 is off."
    steps: int = 0
    "Default steps of masked prediction and diffusion; 0 is the architecture's own number."
    refine_steps: int = 1
    "Default passes that draw the last map of a refinable model; 1 draws it at once."
    spatial_guidance: tuple[float, ...] = ()
    "Default strength of spatial guidance, or that of each scale; empty is off."
    truncation: float = 1.0
    "Default truncation of a model of one step; 1 is off."
    prompts: tuple[str, ...] | None = field(default=None, metadata={LEFT_OUT: True})
    "Prompts to try, of a model that reads them."
    trained_steps: int = 0
    "Training steps before the export; 0 where that is not known."

    def sampling(self) -> dict[str, Any]:
        """The defaults of the sampler, by their names in `SamplingConfig`."""
        names = ("guidance", "top_k", "top_p", "steps", "refine_steps", "spatial_guidance", "truncation")
        return {name: getattr(self, name) for name in names}


def save_part(folder: Path, config: Any, module: nn.Module, dtype: torch.dtype | None = None) -> None:
    """Write one part's config and weights (cast to `dtype` where given). Raises OSError when the disk is full.

    In int8 are the weights of products (`nextscale.int8_weights`), of a tokenizer those of the decoder alone: its
    tokens stay what they are in bf16.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    state = {name: tensor.detach().cpu() for name, tensor in module.state_dict().items()}
    if dtype == torch.int8:
        names = weights_of_products(without_weights(type(module), config))  # `module` may be packed for speed
        state = in_int8(state, [name for name in names if not isinstance(module, VQVAE) or name.startswith(DECODER)])
    else:
        state = {name: tensor.to(dtype if tensor.is_floating_point() else None) for name, tensor in state.items()}
    state = {name: tensor.contiguous() for name, tensor in state.items()}
    try:
        save_file(state, folder / WEIGHTS, metadata={"format": "pt"})
    except SafetensorError as error:
        raise OSError(str(error)) from error
    write_json(folder / CONFIG, config.stored() if isinstance(config, VQVAEConfig) else to_dict(config))
    (folder / WEIGHTS).chmod((folder / CONFIG).stat().st_mode)  # safetensors makes it readable for the owner alone


def save_torch(state: dict[str, Any], path: Path) -> None:
    """Write tensors and plain values in torch's format. Raises OSError when the disk is full."""
    try:
        torch.save(state, path)
    except RuntimeError as error:  # torch's error for a full disk
        raise OSError(str(error).splitlines()[0]) from error


def load_part(build: Callable[[Any], Module], config: Any, path: Path) -> Module:
    """A module with the weights of a safetensors file. Raises ValueError naming what does not fit."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        state = load_file(path)
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{path}: not a readable safetensors file ({error})") from error
    return module_from_state(build, config, expanded(state, str(path)), where=str(path))


def module_from_state(
    build: Callable[[Any], Module], config: Any, state: dict[str, Tensor], *, where: str = "weights"
) -> Module:
    """A module in evaluation mode with these tensors as its weights; no others are initialised.

    Transformers keep the tensors as they are, mapped from their file; tokenizers, a tenth of the size, get float32
    copies. Raises ValueError naming missing, extra or misshapen tensors.
    """
    module = without_weights(build, config)
    check_state(module, state, where)
    wanted = module.state_dict()
    if isinstance(module, VQVAE):
        state = {name: copied_like(tensor, wanted[name]) for name, tensor in state.items()}
    module.load_state_dict(state, assign=True)
    return module.eval()


def without_weights(build: Callable[[Any], Module], config: Any) -> Module:
    """A module whose tensors are on the meta device."""
    with torch.device("meta"), SkipNormal():
        return build(config)


class SkipNormal(TorchFunctionMode):
    """Makes `init.normal_`, with which embeddings start, do nothing: on the meta device it imports torch's compiler."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        return kwargs["tensor"] if func is nn.init.normal_ else func(*args, **kwargs)


def copied_like(tensor: Tensor, wanted: Tensor) -> Tensor:
    """A float32 copy in the layout of the module's tensor; without a copy, one tensor keeps a whole file in memory."""
    layout = torch.preserve_format
    if tensor.ndim == 4 and wanted.is_contiguous(memory_format=torch.channels_last):
        layout = torch.channels_last
    return tensor.to(torch.float32, memory_format=layout, copy=True)


def check_state(module: nn.Module, state: dict[str, Tensor], where: str) -> None:
    """Raise ValueError for a state dict that does not fit, naming the first tensors that differ."""
    wanted = module.state_dict()
    problems = [f"missing {name}" for name in wanted if name not in state]
    problems += [f"unexpected {name}" for name in state if name not in wanted]
    problems += [
        f"{name} is {tuple(state[name].shape)}, expected {tuple(tensor.shape)}"
        for name, tensor in wanted.items()
        if name in state and state[name].shape != tensor.shape
    ]
    if problems:
        more = f" and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise ValueError(f"{where}: the weights do not fit config.json: {'; '.join(problems[:3])}{more}")


def load_tokenizer(folder: Path) -> Any:
    """The tokenizer of a model folder, run folder or tokenizer folder; a PixelTokenizer for a model of pixels."""
    root = model_folder(folder)
    part = root / "tokenizer" if (root / "tokenizer").is_dir() else root
    if part == root and (root / "transformer").is_dir():
        if family(load_config(root).kind).reads_tokens:
            raise ValueError(f"{folder}: its tokenizer is missing; expected the folder {root / 'tokenizer'}")
        return PixelTokenizer(load_transformer_config(root).image_size)
    config = read_config(VQVAEConfig, part)
    return load_part(VQVAE, config, part / WEIGHTS)


def load_transformer(folder: Path) -> Any:
    """The network of a model folder or run folder, in the type it is stored in (float32, where that is int8)."""
    part = model_folder(folder) / "transformer"
    if not part.is_dir():
        raise ValueError(f"{folder}: holds a tokenizer but no transformer; train one with nextscale train var")
    return load_part(family(load_config(folder).kind).network, load_transformer_config(folder), part / WEIGHTS)


def load_transformer_config(folder: Path) -> Any:
    """The architecture of a model folder's transformer."""
    return read_config(family(load_config(folder).kind).config, model_folder(folder) / "transformer")


def load_config(folder: Path) -> ModelConfig:
    """The config.json of a model folder or run folder."""
    return read_config(ModelConfig, model_folder(folder))


def read_config(kind: type[Config], folder: Path) -> Config:
    """The config.json of a folder as a dataclass. Raises ValueError."""
    return from_dict(kind, read_json(folder / CONFIG), where=str(folder / CONFIG))


def model_folder(folder: Path) -> Path:
    """The model folder in or at `folder`: a run folder keeps its model in `model/`."""
    if (folder / "model" / CONFIG).is_file():
        return folder / "model"
    if is_run(folder):
        raise ValueError(f"model {folder}: is a run that has exported no model yet; {resume_hint(folder)}")
    if (folder / CONFIG).is_file():
        return folder
    if not folder.exists():
        raise ValueError(f"model {folder}: there is no such folder")
    files = sorted(path for path in folder.glob("*.pth") if not path.name.startswith("vae"))
    hint = f"; the authors' files are named themselves: --model {files[0]}" if files else ""
    raise ValueError(f"model {folder}: holds no config.json; expected a model folder or a run folder{hint}")


def is_run(folder: Path) -> bool:
    """Whether a folder holds a training run, finished or not."""
    return (folder / "checkpoints").is_dir() and (folder / CONFIG).is_file()


def resume_hint(run: Path) -> str:
    """A sentence on how to continue a run."""
    about = read_json(run / RUN) if (run / RUN).is_file() else {}
    if about.get("command") not in ("tokenizer", *ARCHITECTURES):
        return "continue it with the command that began it and --resume"
    command = shlex.join(["nextscale", "train", about["command"], "--resume", "--out", str(run)])
    return f"continue it with {command}"


def unfinished(folder: Path) -> str:
    """A warning for a run whose exported model is not that of its last step; empty for others, and where unknown."""
    if not is_run(folder) or not (folder / "model" / CONFIG).is_file():
        return ""
    done, steps = load_config(folder).trained_steps, read_json(folder / CONFIG).get("steps", 0)
    return f"{folder}: its model is that of step {done} of {steps}; {resume_hint(folder)}" if 0 < done < steps else ""


def save_model(
    folder: Path, config: ModelConfig, *, tokenizer: Any, transformer: Any = None, dtype: torch.dtype | None = None
) -> None:
    """Write a model folder; it appears only when complete."""
    with complete_folder(folder) as partial:
        write_json(partial / CONFIG, to_dict(config))
        if isinstance(tokenizer, VQVAE):
            save_part(partial / "tokenizer", tokenizer.config, tokenizer, dtype)
        if transformer is not None:
            save_part(partial / "transformer", transformer.config, transformer, dtype)


def fingerprint(tokenizer: VQVAE) -> str:
    """Identity of a tokenizer: SHA-256 over the names and values of its weights.

    The decoder's are left out, because the same tokens and transformers serve any decoder.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(tokenizer.state_dict().items()):
        if name.startswith(DECODER):
            continue
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().float().numpy().tobytes())
    return digest.hexdigest()
