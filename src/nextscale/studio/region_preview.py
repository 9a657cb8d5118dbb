"""An edit as it goes on: the region around the mask, small enough to be shown after every scale.

Shapes: B variations, C latent channels, (h, w) latent grid.
"""

from __future__ import annotations

import torch
from PIL import Image
from torch import Tensor

from nextscale.editing.apply import RegionEditor
from nextscale.editing.composite import composite
from nextscale.editing.regions import covered, resized
from nextscale.pictures import to_images
from nextscale.studio.pictures import PREVIEW


class RegionPreview:
    """An edited region of an image at `most` pixels; the rest of the image is neither looked at nor shown."""

    @torch.no_grad()
    def __init__(self, editor: RegionEditor, most: int = PREVIEW) -> None:
        region, (height, width) = editor.region, editor.image.shape[-2:]
        self.editor = editor
        self.share = min(1.0, most / max(region.height, region.width))
        self.size = max(1, round(region.height * self.share)), max(1, round(region.width * self.share))
        self._before = resized(region.cut(editor.image), self.size)
        self._hole = covered(region.cut(editor.mask, fill=1.0), self.size)[None, None]
        # The region may reach beyond the image's edges, where there is nothing to show.
        top, bottom = (min(max(0, edge - region.top), region.height) for edge in (0, height))
        left, right = (min(max(0, edge - region.left), region.width) for edge in (0, width))
        self._rows = slice(round(top * self.share), max(1, round(bottom * self.share)))
        self._columns = slice(round(left * self.share), max(1, round(right * self.share)))

    def before(self) -> Image.Image:
        """The region as it was."""
        return self._shown(self._before)[0]

    @torch.no_grad()
    def after(self, accumulated: Tensor) -> list[Image.Image]:
        """The region as it is with what was accumulated, (B, C, h, w)."""
        generated = resized(self.editor.tokenizer.decode_each(accumulated.to(self._before.device)), self.size)
        feather = round(self.editor.config.feather * self.share)
        before = self._before[: len(generated)]  # one for all, or one for each
        return self._shown(composite(before, generated, self._hole, feather=feather))

    def _shown(self, images: Tensor) -> list[Image.Image]:
        return to_images(images[..., self._rows, self._columns])
