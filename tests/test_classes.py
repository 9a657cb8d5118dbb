"""Names of classes: synonyms, several meanings, near matches."""

import pytest

from nextscale.classes import find_class, imagenet_names


def test_imagenet_has_its_thousand_classes_in_order() -> None:
    names = imagenet_names()
    assert len(names) == 1000
    assert names[0] == "tench, Tinca tinca"
    assert names[207] == "golden retriever"
    assert names[999].startswith("toilet tissue")


@pytest.mark.parametrize(
    ("wanted", "index"),
    [
        ("golden retriever", 207),
        ("Tench", 0),
        ("tinca tinca", 0),
        ("tench, Tinca tinca", 0),
        ("toilet paper", 999),
        ("cardigan", 474),  # the garment; the dog is "Cardigan, Cardigan Welsh corgi"
        ("cardigan welsh corgi", 264),
        ("missile", 657),  # before "projectile, missile"
        ("maillot, tank suit", 639),
    ],
)
def test_whole_names_and_synonyms(wanted: str, index: int) -> None:
    assert find_class(wanted, imagenet_names()) == index


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ("crane", r"names several: 134 \(crane\), 517 \(crane\); give the id"),
        ("panther", r"names several: 286 .*, 290 "),
        ("golden retreiver", "did you mean golden retriever"),
        ("qqqqqqqqqqq", "known are tench"),
    ],
)
def test_what_is_not_one_class(wanted: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        find_class(wanted, imagenet_names())
