"""Settings of edits; this module imports no torch, so that help is quick."""

from __future__ import annotations

from dataclasses import dataclass, fields

from nextscale.config import require_at_least

METHOD_NAMES = ("evidence", "blend", "embeddings")
"""How the rest of an image is kept: names of hooks of `editing.hooks`."""


@dataclass(frozen=True, kw_only=True)
class EditConfig:
    """How an image is edited."""

    method: str = "evidence"
    "What keeps the rest: evidence (codes weighed by how well they explain it), blend, embeddings (the authors' rule)."
    keep_scales: int = 0
    "First scales taken over from the original: more keep more of its composition."
    feather: int = 4
    "Pixels over which the step at the mask's edge fades into the hole; 0 leaves it."

    def __post_init__(self) -> None:
        if self.method not in METHOD_NAMES:
            raise ValueError(f"method {self.method!r} is not known; expected one of {', '.join(METHOD_NAMES)}")
        require_at_least(self, 0, "keep_scales", "feather")


EDIT_SETTINGS = tuple(field.name for field in fields(EditConfig))
"""Names of `EditConfig`'s fields."""
