"""Times and rates in words, and work beside the counted one."""

import logging

import pytest

from nextscale import progress
from nextscale.progress import Progress, duration, rate


@pytest.mark.parametrize(
    ("seconds", "said"), [(0, "0 s"), (89, "89 s"), (90, "2 min"), (5340, "89 min"), (11_400, "3 h 10 min")]
)
def test_durations(seconds: float, said: str) -> None:
    assert duration(seconds) == said


@pytest.mark.parametrize(
    ("each", "said"), [(54.3, "54"), (9.96, "10"), (5.43, "5.4"), (0.42, "0.42"), (0.0042, "0.0042")]
)
def test_rates_are_never_rounded_to_nothing(each: float, said: str) -> None:
    assert rate(each) == said


def test_lines_of_long_work_in_a_log(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(progress.time, "monotonic", lambda: now)
    shown = Progress(10, title="steps", line_seconds=30)
    advance = shown.aside("measuring", 8)
    with caplog.at_level(logging.INFO, "nextscale"):
        for done in range(1, 9):
            now += 6
            advance(done)
            shown.advance(done)
    assert caplog.messages == ["measuring 4/8", "steps 6/10  36 s, 24 s left", "measuring 8/8"]
