"""What README.md and the notebook say to type is run as it stands, with training cut short."""

import re
import shlex
from pathlib import Path

import pytest

from nextscale.cli import main
from toys import CLASS_NAMES, toy_image

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
SHORT = {
    "tokenizer": {"--steps": "2", "--batch-size": "4", "--heldout-images": "4", "--channels": "16"},
    "var": {"--steps": "2", "--batch-size": "4", "--depth": "1"},
}


def blocks(kind: str) -> list[str]:
    return re.findall(rf"^```{kind}\n(.*?)^```", README, flags=re.MULTILINE | re.DOTALL)


def lines() -> list[str]:
    joined = "\n".join(blocks("sh")).replace("\\\n", " ")
    return [line.split("#")[0].strip() for line in joined.splitlines() if line.split("#")[0].strip()]


def shortened(arguments: list[str]) -> list[str]:
    """A training command with fewer steps: its flags, with those of SHORT over them."""
    flags = dict(zip(arguments[2::2], arguments[3::2], strict=True)) | SHORT[arguments[1]]
    return [*arguments[:2], *(word for pair in flags.items() for word in pair)]


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the images that the README supposes."""
    for label, name in enumerate(CLASS_NAMES):
        for index in range(6):
            path = tmp_path / "my-images" / name / f"{index}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            toy_image(label, index, side=64).save(path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_commands(workplace: Path) -> None:
    commands = [shlex.split(line) for line in lines() if line.startswith("nextscale ")]
    assert len(commands) >= 6
    for command in commands:
        arguments = command[1:]
        assert main(shortened(arguments) if arguments[0] == "train" else arguments) == 0, command
    assert (workplace / "out" / "generate" / "grid.png").is_file()


def test_python(workplace: Path) -> None:
    code = blocks("python")
    assert code
    for block in code:
        exec(compile(block, "README.md", "exec"), {})


def test_make_targets_and_scripts_exist() -> None:
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    for line in lines():
        words = shlex.split(line)
        if words[0] == "make":
            assert set(words[1:]) <= targets, line
        for word in words:
            if word.startswith(("examples/", "benchmarks/", "tests/")):
                assert (ROOT / word).is_file(), line


def test_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", README):
        assert (ROOT / target).exists(), target


def test_notebook() -> None:
    import nbformat
    from nbclient import NotebookClient

    notebook = nbformat.read(ROOT / "examples" / "quickstart.ipynb", as_version=4)
    assert not any(cell.get("outputs") for cell in notebook.cells), "kept without outputs"
    NotebookClient(notebook, timeout=300, kernel_name="python3").execute()
    pictures = [o for cell in notebook.cells for o in cell.get("outputs", []) if "image/png" in o.get("data", {})]
    assert len(pictures) == 3
