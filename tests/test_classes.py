"""Names of classes: synonyms, several meanings, near matches; and which classes of two sets are the same."""

import logging

import pytest

from nextscale.classes import UNMATCHED, find_class, imagenet_names, match_classes


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


SIX = ("ant", "bee", "Cat", "dog", "eel", "fox")
WORDNET = tuple(f"n{7 * number:08d}" for number in range(1000))


@pytest.mark.parametrize(
    ("named", "known", "classes", "places"),
    [
        (SIX, SIX, None, (0, 1, 2, 3, 4, 5)),
        (("ant", "fox", "dog"), SIX, None, (0, 5, 3)),
        (("cat ", "DOG"), SIX, None, (2, 3)),  # as a person may write them
        (("0", "5", "03"), SIX, None, (0, 5, 3)),  # ids
        (("2", "10"), ("0", "1", "10", "2"), None, (3, 2)),  # names, in the order of text
        (("0", "2"), (), 3, (0, 2)),
        (("x", "y", "z"), (), 3, (0, 1, 2)),  # in order, which is told
        (WORDNET, imagenet_names(), None, tuple(range(1000))),
        (WORDNET[::-1], imagenet_names(), None, tuple(range(999, -1, -1))),
        (WORDNET[40:50], WORDNET, None, tuple(range(40, 50))),
        (("goldfish", "tinca tinca"), WORDNET[::-1], None, (998, 999)),
        (imagenet_names(), WORDNET[::-1], None, tuple(range(999, -1, -1))),
        (("goldfish", "tench, Tinca tinca"), imagenet_names(), None, (1, 0)),
    ],
)
def test_classes_are_matched_by_name(
    named: tuple[str, ...], known: tuple[str, ...], classes: int | None, places: tuple[int, ...]
) -> None:
    assert match_classes(named, known, where="data x", classes=classes) == places


@pytest.mark.parametrize(
    ("named", "known", "classes", "message"),
    [
        (("ant", "dug"), SIX, None, r"data x: its class 'dug' is none of the model's \(ant, .*\); did you mean dog\?"),
        (("ant", "xxx", "yyy"), SIX, None, "'xxx' is none of the model's .*, nor are yyy"),
        (("0", "6"), SIX, None, "its class '6' is none of the model's 6 classes; name them by their numbers, 0 to 5"),
        (("0", "3"), (), 3, "its class '3' is none of the model's 3 classes"),
        (("x", "y"), (), 3, "its class 'x' is none of the model's 3 classes; name them by their numbers, 0 to 2"),
        (("0", "3"), ("0", "1", "2"), None, r"its class '3' is none of the model's \(0, 1, 2\)"),
        (("1", "01"), SIX, None, "its classes '1' and '01' are the same one"),
        (("Cat", "cat"), SIX, None, "its classes 'Cat' and 'cat' are the same one"),
        (WORDNET[:999], imagenet_names(), None, "its classes are 999 WordNet ids such as n00000000; only all 1000"),
        (
            ("crane",),
            imagenet_names(),
            None,
            r"data x: class 'crane' names several: 134 .*name its classes by their",
        ),
    ],
)
def test_classes_that_cannot_be_matched(
    named: tuple[str, ...], known: tuple[str, ...], classes: int | None, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        match_classes(named, known, where="data x", classes=classes)


def test_what_is_guessed_or_missing_is_told(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "nextscale")
    assert match_classes(("dog", "gnu"), SIX, where="images y", partly=True) == (3, UNMATCHED)
    assert "images y: has none of 5 of the model's 6 classes (ant, bee, Cat, eel, ...)" in caplog.text
    assert "images y: 1 of its classes are none of the model's (gnu) and left out" in caplog.text
    assert match_classes(("0", "6"), SIX, where="images y", partly=True) == (UNMATCHED, UNMATCHED), "other numbers"
    match_classes(("0", "1"), SIX, where="data x")
    assert "its classes are numbers, taken as ids of the model's 6 classes" in caplog.text
    match_classes(("x", "y"), (), classes=2, where="data x")
    assert "classes have no names; its own are taken in their order" in caplog.text
    caplog.clear()
    match_classes(SIX, SIX, where="data x")
    assert not caplog.text
