"""What sphinx does not check of the documentation: commands beside pictures, and that every results file is told of."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"


def test_pictures_of_the_gallery_have_a_text_and_a_command() -> None:
    sections = (DOCS / "gallery.md").read_text(encoding="utf-8").split("\n## ")[1:]
    assert len(sections) >= 10
    for section in sections:
        text, picture = re.search(r"!\[(.+)\]\((.+)\)", section).groups()
        assert len(text.split()) >= 5 and (DOCS / picture).is_file(), picture
        commands = [line.strip() for line in section.splitlines() if line.startswith("    ")]
        assert commands, picture
        for words in (command.split() for command in commands):
            if words[0] in ("python", "sh"):
                assert (ROOT / words[1]).is_file(), words


def test_results_are_all_told_of() -> None:
    told = re.findall(r"\(results/([\w.-]+)\)", (DOCS / "results.md").read_text(encoding="utf-8"))
    assert set(told) == {path.name for path in (DOCS / "results").glob("*.json")}


def test_pictures_have_texts() -> None:
    for page in (ROOT / "README.md", *DOCS.glob("*.md")):
        assert "![](" not in page.read_text(encoding="utf-8"), page.name
