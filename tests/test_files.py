"""Outputs appear complete or not at all."""

from pathlib import Path

import pytest

from nextscale.files import complete_file, complete_folder, write_json


def test_a_new_folder_appears_only_at_the_end(tmp_path: Path) -> None:
    target = tmp_path / "a" / "b"
    with complete_folder(target) as partial:
        (partial / "sub").mkdir()
        (partial / "sub" / "x").write_text("1")
        assert not target.exists()
    assert (target / "sub" / "x").read_text() == "1"
    assert [path.name for path in target.parent.iterdir()] == ["b"]


def test_other_files_of_an_existing_folder_stay(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("keep")
    (tmp_path / "x").write_text("old")
    with complete_folder(tmp_path) as partial:
        (partial / "x").write_text("new")
        assert (tmp_path / "x").read_text() == "old"
    assert {p.name: p.read_text() for p in tmp_path.iterdir()} == {"mine": "keep", "x": "new"}


@pytest.mark.parametrize("existing", [False, True])
def test_an_error_leaves_nothing(tmp_path: Path, existing: bool) -> None:
    target = tmp_path / "deep" / "out"
    if existing:
        target.mkdir(parents=True)
    with pytest.raises(RuntimeError), complete_folder(target) as partial:
        (partial / "x").write_text("half")
        raise RuntimeError
    assert target.exists() == existing
    assert (tmp_path / "deep").exists() == existing
    assert not existing or list(target.iterdir()) == []


def test_an_interrupted_file_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_text("old")
    with pytest.raises(KeyboardInterrupt), complete_file(path) as partial:
        partial.write_text("half")
        raise KeyboardInterrupt
    assert [p.name for p in tmp_path.iterdir()] == ["x"]
    assert path.read_text() == "old"


@pytest.mark.parametrize("target", ["/proc/nextscale/out", "/dev/null/out"])
def test_unwritable_places_are_one_line(target: str) -> None:
    with pytest.raises(ValueError, match=r"cannot be written .*choose another place$"), complete_folder(Path(target)):
        pytest.fail("must not start")
    with pytest.raises(ValueError, match="cannot be written"):
        write_json(Path(target), {})


def test_a_file_where_the_folder_should_be(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("file")
    with pytest.raises(ValueError, match="is a file"), complete_folder(tmp_path / "x"):
        pytest.fail("must not start")
