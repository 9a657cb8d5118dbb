"""What a newcomer types: one line says what was not understood and what to do."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from nextscale.cli import main
from nextscale.official import transformer_to_official
from toys import make_transformer


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["generate", "maze", "3"], "'maze', '3' is not understood here; values follow their --flags"),
        (["generat"], 'Unknown command "generat". Did you mean "generate"?'),
        (["generate", "--clases", "maze"], "Unknown option: --clases. Did you mean --classes?"),
        (["generate", "--count", "1.5"], "'1.5' is not a whole number"),
        (["generate", "--count", "inf"], "'inf' is not a whole number"),
        (["generate", "--count", "many"], "'many' is not a whole number"),
        (["generate", "--seed", "0.1"], "'0.1' is not a whole number"),
        (["scaling", "predict", "x.json", "--depth", "2.5"], "'2.5' is not a whole number"),
        (["train", "var", "--depth", "2.5"], "'2.5' is not a whole number"),
        (["generate", "--guidance", "much"], "'much' is not a number"),
        (["generate", "--smooth=perhaps"], 'unable to convert "perhaps" into true or false'),
    ],
)
def test_one_line_says_what_is_wrong(arguments: list[str], line: str, capsys) -> None:
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and line in error, error


def test_whole_numbers_may_be_written_short(model_folder: Path, tmp_path: Path) -> None:
    short = ["generate", "--model", str(model_folder), "--count", "2e0", "--seed", "1e6", "--out", str(tmp_path / "a")]
    assert main(short) == 0
    long = ["generate", "--model", str(model_folder), "--count", "2", "--seed", "1000000", "--out", str(tmp_path / "b")]
    assert main(long) == 0
    names = ("000000.png", "000001.png", "manifest.jsonl")
    assert [(tmp_path / "a" / name).read_bytes() for name in names] == [
        (tmp_path / "b" / name).read_bytes() for name in names
    ]


def test_large_seeds_are_exact(model_folder: Path, tmp_path: Path) -> None:
    seed = 2**62 + 1  # no float holds it
    out = ["--count", "1", "--out", str(tmp_path / "a")]
    assert main(["generate", "--model", str(model_folder), "--seed", str(seed), *out]) == 0
    assert f'"seed": {seed}' in (tmp_path / "a" / "manifest.jsonl").read_text()


def test_help_is_a_word_too(capsys) -> None:
    assert main(["help", "edit", "inpaint"]) == 0
    asked = capsys.readouterr().out
    assert main(["edit", "inpaint", "--help"]) == 0
    assert asked == capsys.readouterr().out


def test_a_reader_that_leaves_is_no_error() -> None:
    """`nextscale train var --help | head -1`: its pipe is closed before all is written."""
    command = f"{sys.executable} -m nextscale train var --help | head -1"
    done = subprocess.run(command, shell=True, capture_output=True, text=True)
    assert done.stdout.startswith("Usage")
    assert done.stderr == ""


def test_a_folder_of_the_authors_files_is_told_apart(tmp_path: Path, capsys) -> None:
    torch.save(transformer_to_official(make_transformer()), tmp_path / "var_d16.pth")
    assert main(["info", str(tmp_path)]) == 2
    assert f"the authors' files are named themselves: --model {tmp_path / 'var_d16.pth'}" in capsys.readouterr().err
