"""Result folders: pictures, grid and manifest agree, whatever lay there before."""

import json
import re
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import pytest
from PIL import Image

from nextscale.cli import main
from nextscale.pictures import GAP, LINE
from toys import toy_image

Make = Callable[..., Path]


def pictures(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("0*.png"))


def listed(folder: Path) -> list[str]:
    return [json.loads(line)["file"] for line in (folder / "manifest.jsonl").read_text().splitlines()]


def generated(model: Path, out: Path, count: int) -> None:
    assert main(["generate", "--model", str(model), "--count", str(count), "--out", str(out)]) == 0


def test_fewer_images_leave_none_of_the_old_ones(model_folder: Path, tmp_path: Path, capsys) -> None:
    generated(model_folder, tmp_path / "out", 4)
    capsys.readouterr()
    generated(model_folder, tmp_path / "out", 2)
    assert pictures(tmp_path / "out") == listed(tmp_path / "out") == ["000000.png", "000001.png"]
    assert "removed 000002.png, 000003.png of the run before" in capsys.readouterr().out
    with Image.open(tmp_path / "out" / "grid.png") as sheet:
        assert sheet.size == (2 * 192 + GAP, 192 + LINE)


def test_what_the_user_changed_or_put_there_stays(model_folder: Path, tmp_path: Path, capsys) -> None:
    out = tmp_path / "out"
    generated(model_folder, out, 4)
    toy_image(0, 0).save(out / "000002.png")
    toy_image(0, 1).save(out / "000007.png")
    toy_image(0, 2).save(out / "mine.png")
    capsys.readouterr()
    generated(model_folder, out, 1)
    said = capsys.readouterr().out
    assert pictures(out) == ["000000.png", "000002.png", "000007.png"]
    assert (out / "mine.png").is_file()
    assert "removed 000001.png, 000003.png of the run before" in said
    assert "left alone, but not of this run: 000002.png, 000007.png" in said
    assert "mine.png" not in said


@pytest.mark.parametrize("name", ["000000.png", "grid.png"])
def test_pictures_that_no_run_left_there_are_not_written_over(
    model_folder: Path, tmp_path: Path, capsys, name: str
) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    toy_image(0, 0).save(photos / name)
    before = (photos / name).read_bytes()
    model, out = ["--model", str(model_folder)], ["--out", str(photos)]
    for command in (["generate", *model, "--count", "1", *out], ["reconstruct", str(photos), *model, *out]):
        assert main(command) == 2
        assert f"photos: holds {name}, which no earlier run left there" in capsys.readouterr().err
        assert [path.name for path in photos.iterdir()] == [name]
    assert (photos / name).read_bytes() == before


def test_a_picture_that_was_changed_is_not_written_over(model_folder: Path, tmp_path: Path, capsys) -> None:
    out = tmp_path / "out"
    generated(model_folder, out, 2)
    generated(model_folder, out, 2)  # unchanged ones are
    toy_image(0, 0).save(out / "000001.png")
    before = (out / "000001.png").read_bytes()
    assert main(["generate", "--model", str(model_folder), "--count", "2", "--out", str(out)]) == 2
    assert "holds 000001.png" in capsys.readouterr().err
    assert (out / "000001.png").read_bytes() == before


@pytest.mark.parametrize("content", ["not json\n", "[1]\n", '{"file": "a"}\n', "\n"])
def test_a_manifest_that_says_nothing_removes_nothing(model_folder: Path, tmp_path: Path, content: str) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "manifest.jsonl").write_text(content)
    toy_image(0, 0).save(out / "000005.png")
    generated(model_folder, out, 1)
    assert pictures(out) == ["000000.png", "000005.png"]


def test_a_manifest_reaches_no_other_folder(model_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    (tmp_path / "out").mkdir()
    line = {"file": "../thesis.txt", "sha256": sha256(b"mine").hexdigest()}
    (tmp_path / "out" / "manifest.jsonl").write_text(json.dumps(line) + "\n")
    generated(model_folder, tmp_path / "out", 1)
    assert (tmp_path / "thesis.txt").read_text() == "mine"


def test_what_the_demo_draws_is_said(tmp_path: Path, capsys) -> None:
    assert main(["generate", "--classes", "maze", "--count", "1", "--out", str(tmp_path / "out")]) == 0
    assert "frames of 16 video games (Procgen)" in capsys.readouterr().out
    entry = json.loads((tmp_path / "out" / "manifest.jsonl").read_text())
    assert "frames of 16 video games (Procgen)" in entry["about"]
    with Image.open(tmp_path / "out" / "000000.png") as image:
        assert image.size == (64, 64), "single images are the model's"


def test_reconstruct_passes_over_what_it_cannot_read(
    model_folder: Path, image_folder: Make, tmp_path: Path, capsys
) -> None:
    folder = image_folder(per_class=2) / "red"
    (folder / "001.png").write_text("no image")
    (folder / "002.png").write_bytes((folder / "000.png").read_bytes()[:60])
    out, results = tmp_path / "out", tmp_path / "r.json"
    arguments = ["reconstruct", str(folder), "--model", str(model_folder), "--out", str(out), "--json", str(results)]
    assert main(arguments) == 0
    said = capsys.readouterr().out
    assert re.search(r"passed over 2 files of 3, not readable as images: .*001\.png: .*, .*002\.png: ", said)
    assert pictures(out) == listed(out) == ["000000.png"]
    values = json.loads(results.read_text())
    assert len(values["images"]) == 1 and len(values["unreadable"]) == 2
    (folder / "000.png").unlink()
    capsys.readouterr()
    assert main(arguments) == 2
    assert "none of 2 files is a readable image: " in capsys.readouterr().err
    assert pictures(out) == ["000000.png"], "the results before stay"


def test_variations_are_all_named_and_drawn_side_by_side(
    model_folder: Path, image_folder: Make, tmp_path: Path, capsys
) -> None:
    image, out = image_folder() / "red" / "000.png", tmp_path / "new.png"
    command = ["edit", "inpaint", str(image), "--boxes", "2,2,9,9", "--model", str(model_folder), "--out", str(out)]
    assert main([*command, "--count", "4", "--classes", "red,green"]) == 0
    said = capsys.readouterr().out
    assert all(str(tmp_path / f"new-{number:03d}.png") in said for number in range(4))
    assert f"side by side: {tmp_path / 'new-grid.png'}" in said
    with Image.open(tmp_path / "new-grid.png") as sheet:
        assert sheet.size == (2 * 192 + GAP, 2 * (192 + LINE) + GAP)
    assert main([*command, "--count", "2"]) == 0
    assert f"left alone, but not of this run: {tmp_path / 'new-002.png'}, {tmp_path / 'new-003.png'}" in (
        capsys.readouterr().out
    )
    assert main([*command[:-1], str(tmp_path / "alone.png")]) == 0
    assert sorted(path.name for path in tmp_path.glob("alone*")) == ["alone.png"]
    assert "side by side" not in capsys.readouterr().out
