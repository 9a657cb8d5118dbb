"""`nextscale edit`: what it writes, and what it refuses."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nextscale.cli import main
from nextscale.data.decode import read_image
from toys import centre, noise, toy_image


def test_the_commands(model_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    toy_image(0, 0).save(tmp_path / "image.png")
    Image.fromarray(centre(16, 16)).save(tmp_path / "mask.png")
    image, model, out = str(tmp_path / "image.png"), ["--model", str(model_folder)], tmp_path / "out"
    mask = ["--mask", str(tmp_path / "mask.png")]
    assert (
        main(["edit", "inpaint", image, *model, *mask, "--out", str(out / "a.png"), "--json", str(out / "a.json")]) == 0
    )
    assert main(["edit", "inpaint", image, *model, "--boxes", "4,4,12,12", "--out", str(out / "b.png")]) == 0
    assert (out / "a.png").read_bytes() == (out / "b.png").read_bytes(), "the box is the mask"
    many = ["--count", "3", "--seed", "5", "--strips", "--classes", "red"]
    assert main(["edit", "class", image, *model, *many, "--out", str(out / "c.png")]) == 0
    assert {p.name for p in out.glob("c*")} == {"c-000.png", "c-001.png", "c-002.png", "c-grid.png", "c-strips.png"}
    assert Image.open(out / "c-strips.png").size == (6 * 18 - 2, 3 * 18 - 2)
    assert main(["edit", "outpaint", image, *model, "--expand", "left=8", "--out", str(out / "d.png")]) == 0
    assert Image.open(out / "d.png").size == (24, 16)
    toy_image(0, 0).resize((5, 7)).save(tmp_path / "small.png")
    assert main(["edit", "upscale", str(tmp_path / "small.png"), *model, "--out", str(out / "e.png")]) == 0
    assert Image.open(out / "e.png").size == (16, 16)
    assert "1 image (" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("command", "flags", "message"),
    [
        ("inpaint", [], "name what to regenerate"),
        ("inpaint", ["--boxes", "1,2,3"], "'1,2,3' is not a box"),
        ("inpaint", ["--boxes", "0,0,99,9"], "does not lie in the image"),
        ("inpaint", ["--boxes", "0,0,9,9", "--method", "magic"], "method 'magic' is not known"),
        ("inpaint", ["--boxes", "0,0,9,9", "--out", "x.jpg"], "expected a file that ends in .png"),
        ("inpaint", ["--boxes", "0,0,9,9", "--count", "0"], "count must be at least 1"),
        ("inpaint", ["--boxes", "0,0,9,9", "--classes", "gren"], "did you mean green"),
        ("inpaint", ["--mask", "nowhere.png"], "mask nowhere.png: there is no such file"),
        ("class", ["--keep-scales", "9"], "keep_scales is 9, the model has 4 scales"),
        ("outpaint", ["--expand", "up=1"], "'up=1' is not understood"),
        ("outpaint", [], "--expand is missing"),
        ("upscale", [], "pixels already"),
    ],
)
def test_wrong_edits_are_refused(
    model_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture, command: str, flags: list[str], message: str
) -> None:
    toy_image(0, 0).save(tmp_path / "image.png")
    out = [] if "--out" in flags else ["--out", str(tmp_path / "out.png")]
    assert main(["edit", command, str(tmp_path / "image.png"), "--model", str(model_folder), *out, *flags]) == 2
    error = capsys.readouterr().err
    assert message in error and len(error.splitlines()) == 1
    assert not (tmp_path / "out.png").exists()


def test_images_that_are_not_there(model_folder: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["edit", "inpaint", "nowhere.png", "--boxes", "0,0,9,9", "--model", str(model_folder)]) == 2
    assert "nowhere.png: there is no such file" in capsys.readouterr().err


def test_the_command_tells_of_masks_that_change_nothing_or_all(
    model_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    noise(24, 16).save(tmp_path / "phone.jpg", exif=exif, quality=95)
    command = ["edit", "inpaint", str(tmp_path / "phone.jpg"), "--model", str(model_folder), "--strips"]
    for number, said in ((0, "nothing will change"), (1, "everything will change")):
        Image.fromarray(np.full((24, 16), number, np.uint8)).save(tmp_path / "mask.png")
        out = ["--mask", str(tmp_path / "mask.png"), "--out", str(tmp_path / "out.png")]
        assert main([*command, *out]) == 0
        error = capsys.readouterr().err
        assert error.count(said) == 1 and "mask.png: " in error
        after, before = Image.open(tmp_path / "out.png"), read_image(tmp_path / "phone.jpg")
        assert after.size == (16, 24) and (after.tobytes() == before.tobytes()) == (number == 0)
