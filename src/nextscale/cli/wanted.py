"""What a command's images are to show: classes or prompts, as flags say it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nextscale.pipeline import VARPipeline
    from nextscale.results import Generation


@dataclass(frozen=True, kw_only=True)
class PromptFlags:
    """Prompts for models that read them."""

    prompt: tuple[str, ...] = ()
    "Prompt of a model that reads prompts; several times for several. Image i has prompt i mod n."
    prompts: str = ""
    "File with a prompt a line."
    negative_prompt: str = ""
    "Prompt that guidance leads away from."

    def given(self) -> list[str]:
        """Prompts of the flags, then those of the file. Raises ValueError for a file that is no text or has none."""
        if not self.prompts:
            return list(self.prompt)
        try:
            lines = Path(self.prompts).read_text(encoding="utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise ValueError(f"--prompts {self.prompts}: cannot be read ({error})") from error
        found = [line.strip() for line in lines if line.strip()]
        if not found:
            raise ValueError(f"--prompts {self.prompts}: holds no prompts; expected one a line")
        return [*self.prompt, *found]


def wanted(pipeline: VARPipeline, flags: PromptFlags, classes: str, default: str) -> list[Any]:
    """Class ids or prompts, None for neither; `classes` is what `--classes` says. Raises ValueError.

    A model of prompts without any takes those that it brings along. A model of classes takes prompts as their names.
    """
    prompts = flags.given()
    if not pipeline.reads_prompts:
        if prompts and classes != default:
            raise ValueError("--classes and --prompt say the same of this model: give one of them")
        return chosen_classes(pipeline, classes) if not prompts else named_classes(pipeline, prompts)
    if classes not in (default, "none"):
        raise ValueError(f"--classes {classes}: this model draws from prompts; say --prompt 'a red heart'")
    if classes == "none":
        if prompts:
            raise ValueError("--classes none and --prompt contradict each other: give one of them")
        return [None]
    return prompts or list(pipeline.config.prompts or [None])


def named_classes(pipeline: VARPipeline, prompts: list[str]) -> list[int | None]:
    """Ids of classes that are named by prompts. Raises ValueError for others."""
    try:
        return [pipeline.class_or_none(label) for label in pipeline.class_ids(prompts)]
    except ValueError as error:
        raise ValueError(f"--prompt: this model draws classes, which prompts may name; {error}") from error


def chosen_classes(pipeline: VARPipeline, text: str) -> list[int | None]:
    """Class ids, None for no class, from text: all, none, or names and ids with commas. Raises ValueError."""
    count = pipeline.transformer.config.classes
    if text == "all":
        return list(range(count)) or [None]
    if text == "none" and "none" not in pipeline.class_names:
        return [None]
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not parts:
        raise ValueError("--classes is empty; expected names or ids with commas, all, or none")
    return [pipeline.class_or_none(label) for label in pipeline.class_ids(parts)]


def told(pipeline: VARPipeline, result: Generation) -> list[dict[str, Any]]:
    """What a manifest says of each image's class or prompt; both are None where an image has neither."""
    names = pipeline.names_of(result)
    if result.prompts is not None:
        return [{"prompt": name} for name in names]
    pairs = zip(names, result.classes, strict=True)
    return [{"class": name, "class_id": None if name is None else label} for name, label in pairs]
