"""Masks in every form."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from nextscale.editing.masks import mask_of_boxes, read_mask


def test_masks_of_every_form(tmp_path: Path) -> None:
    wanted = torch.zeros(6, 8)
    wanted[2:4, 1:5] = 1
    pixels = (wanted * 255).byte().numpy()
    grey = Image.fromarray(pixels)
    clear = Image.new("RGBA", (8, 6), (10, 20, 30, 255))
    clear.putalpha(Image.fromarray(255 - pixels))
    grey.save(tmp_path / "mask.png")
    for mask in (
        grey, grey.convert("1"), grey.convert("RGB"), grey.convert("P"), clear, tmp_path / "mask.png",
        str(tmp_path / "mask.png"), pixels, wanted.bool(), wanted.numpy(), wanted.double(),
    ):  # fmt: skip
        assert torch.equal(read_mask(mask, (6, 8)), wanted)
    assert torch.equal(mask_of_boxes([(1, 2, 5, 4)], (6, 8)), wanted)
    opaque = Image.new("RGBA", (8, 6), (255, 255, 255, 255))
    assert read_mask(opaque, (6, 8)).min() == 1, "no transparency anywhere: brightness counts"
    soft = read_mask(Image.new("L", (8, 6), 51), (6, 8))
    assert torch.allclose(soft, torch.full((6, 8), 0.2))
    assert read_mask(grey, (12, 16)).sum() == 4 * wanted.sum(), "the same aspect is stretched"


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (np.zeros((6, 9)), "the mask is 9 x 6 pixels, the image 8 x 6"),
        (np.full((6, 8), 2.0), "must lie between 0"),
        (np.full((6, 8), np.nan), "must lie between 0"),
        (np.zeros((6, 8, 3)), r"a mask must be \(height, width\)"),
        ("nowhere.png", "mask nowhere.png: there is no such file"),
    ],
)
def test_masks_that_do_not_fit_are_refused(mask: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_mask(mask, (6, 8))  # pyright: ignore[reportArgumentType]


HOLE = np.zeros((64, 64), np.uint8)
HOLE[13:45, 19:50] = 1


def with_palette(indices: np.ndarray, *colours: tuple[int, int, int]) -> Image.Image:
    image = Image.fromarray(indices)
    image.putpalette([channel for colour in colours for channel in colour])
    return image


def layers(grey: np.ndarray, alpha: np.ndarray) -> Image.Image:
    return Image.fromarray(np.dstack([grey, grey, grey, alpha]).astype(np.uint8))


@pytest.mark.parametrize(
    "mask",
    [
        *(HOLE.astype(kind) for kind in (bool, np.uint8, np.uint16, np.int64, np.float32, np.float64)),
        *((HOLE * 255.0).astype(kind) for kind in (np.uint8, np.int32, np.float32)),
        np.where(HOLE, 255, 4).astype(np.uint8), np.where(HOLE, 200, 90).astype(np.uint8),
        np.where(HOLE, 65_535, 1000).astype(np.uint16), np.where(HOLE, 9, 0), HOLE / np.float32(255),
        np.where(HOLE, 1, 0) + np.where(np.indices((64, 64)).sum(0) % 2, HOLE, 0),
        HOLE[None], HOLE[..., None], torch.from_numpy(HOLE)[None], torch.from_numpy(HOLE).to(torch.bfloat16),
        Image.fromarray(HOLE), Image.fromarray(HOLE * np.uint8(255)), Image.fromarray(HOLE.astype(bool)),
        Image.fromarray(HOLE.astype(np.int32)), Image.fromarray(HOLE.astype(np.uint16) * 300),
        Image.fromarray(HOLE.astype(np.float32)), Image.fromarray(HOLE * np.float32(255)),
        Image.fromarray(np.where(HOLE, 255, 4).astype(np.uint8)).convert("RGB"),
        with_palette(HOLE, (0, 0, 0), (128, 0, 0)), with_palette(HOLE, (255, 255, 255), (0, 128, 0)),
        with_palette(HOLE * 3, *[(0, 0, 0)] * 4), with_palette(1 - HOLE, (255, 255, 255), (0, 0, 0)),
        with_palette(HOLE * (1 + HOLE.cumsum(1, dtype=np.uint8) // 9), *((9 * i, 200 - 9 * i, 0) for i in range(9))),
        layers(HOLE * 255, HOLE * 255), layers(HOLE * 0 + 255, HOLE * 255), layers(HOLE * 0, 255 - HOLE * 255),
        layers(HOLE * 90, 255 - HOLE * 255), layers(HOLE * 255, HOLE * 0 + 255), layers(HOLE * 255, HOLE * 0 + 250),
        layers(HOLE * 255, HOLE * 255).convert("LA"),
    ],
    ids=lambda mask: f"{type(mask).__name__}-{getattr(mask, 'mode', getattr(mask, 'dtype', ''))}",
)  # fmt: skip
def test_two_values_are_kept_and_regenerated_whatever_they_are(mask: Image.Image | np.ndarray | torch.Tensor) -> None:
    assert torch.equal(read_mask(mask, (64, 64)), torch.from_numpy(HOLE).float())


@pytest.mark.parametrize("quality", [40, 50, 75, 95])
def test_what_jpeg_leaves_around_an_edge_is_no_context_lost_and_no_ghost(quality: int) -> None:
    file = io.BytesIO()
    Image.fromarray(HOLE * np.uint8(255)).save(file, "JPEG", quality=quality)
    read = read_mask(file.getvalue(), (64, 64)).numpy()
    edge = (np.roll(HOLE, 1, 0) != HOLE) | (np.roll(HOLE, 1, 1) != HOLE)
    edge |= np.roll(edge, -1, 0) | np.roll(edge, -1, 1)
    assert np.array_equal(read[~edge], HOLE[~edge])


def test_soft_masks_stay_soft_between_their_ends() -> None:
    ramp = np.linspace(0, 255, 64).astype(np.uint8)[None].repeat(64, 0)
    for mask in (ramp, ramp / np.float32(255), Image.fromarray(ramp), layers(ramp * 0, 255 - ramp)):
        read = read_mask(mask, (64, 64)).numpy()
        assert (read[ramp <= 40] == 0).all() and (read[ramp >= 215] == 1).all()
        between = (ramp > 40) & (ramp < 215)
        assert np.allclose(read[between], ramp[between] / 255)
        assert torch.equal(read_mask(torch.from_numpy(read), (64, 64)), torch.from_numpy(read)), "read once or twice"
    half = read_mask(HOLE * 0.5, (64, 64))
    assert torch.equal(half.unique(), torch.tensor([0, 0.5])), "floats mean their numbers"
    assert torch.equal(read_mask(half, (64, 64)), half)


@pytest.mark.parametrize("turn", [3, 6, 8])
def test_masks_are_turned_as_their_exif_says(turn: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = turn
    file = io.BytesIO()
    Image.fromarray(HOLE[:40] * np.uint8(255)).save(file, "PNG", exif=exif)
    wanted = np.rot90(HOLE[:40], {3: 2, 6: -1, 8: 1}[turn])
    shape = (wanted.shape[0], wanted.shape[1])
    assert np.array_equal(read_mask(file.getvalue(), shape).numpy(), wanted)
    alpha = io.BytesIO()
    layers(HOLE * 0, 255 - HOLE * 255).crop((0, 0, 64, 40)).save(alpha, "PNG", exif=exif)
    assert np.array_equal(read_mask(alpha.getvalue(), shape).numpy(), wanted)


@pytest.mark.parametrize(
    ("mask", "said"),
    [
        (np.zeros((4, 4)), "keeps everything, so that nothing will change"),
        (np.full((4, 4), 30, np.uint8), "keeps everything"),
        (np.ones((4, 4), np.uint8), "covers the whole image, so that everything will change"),
        (np.full((4, 4), 255, np.uint8), "covers the whole image"),
        (np.full((4, 4), [255, 254, 250, 253], np.uint8), "covers the whole image"),
        (layers(np.zeros((4, 4)), np.zeros((4, 4))), "covers the whole image"),
        (np.eye(4, dtype=np.uint8) * 7 + np.eye(4, k=1, dtype=np.uint8), "taken as labels, of which 0 is kept"),
        (np.eye(4), ""),
    ],
)
def test_masks_that_change_nothing_or_all_are_logged(
    mask: np.ndarray | Image.Image, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    read_mask(mask, (4, 4), name="mask hole.png")
    assert len(caplog.records) == bool(said)
    assert said in caplog.text and (not said or "mask hole.png: " in caplog.text)


@pytest.mark.parametrize("box", [(0, 0, 9, 3), (-1, 0, 2, 2), (3, 3, 3, 4), (4, 0, 2, 2)])
def test_boxes_outside_the_image_are_refused(box: tuple[int, int, int, int]) -> None:
    with pytest.raises(ValueError, match="does not lie in the image of 8 x 6 pixels"):
        mask_of_boxes([box], (6, 8))
