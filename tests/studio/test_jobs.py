"""Jobs that take turns, outlive their page and are told about."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import gradio as gr
import pytest

from nextscale.studio import jobs
from nextscale.studio.events import Refused, errors_as_messages, lenient
from nextscale.studio.jobs import Job, Update, Visitors
from toys import toy_image


class Gate:
    """Work of three updates that waits in the middle until it is let on."""

    def __init__(self) -> None:
        self.reached, self.open = threading.Event(), threading.Event()

    def work(self, job: Job) -> Iterator[Update]:
        yield {"status": "first", "picture": 1}
        self.reached.set()
        assert self.open.wait(60)
        yield {"status": "second"}
        yield {"status": "third"}


@pytest.fixture
def visitors(tmp_path: Path) -> Iterator[Visitors]:
    found = Visitors(tmp_path)
    yield found
    found.close()


def test_a_page_that_comes_later_finds_the_job_and_all_it_made(visitors: Visitors) -> None:
    gate = Gate()
    job = visitors.begin("anna", "Generate", gate.work)
    assert gate.reached.wait(60)
    again = visitors.visitor("anna").jobs["Generate"]
    assert again is job and not job.done
    seen = again.follow()
    assert next(seen) == {"status": "first", "picture": 1}
    gate.open.set()
    assert list(seen) == [{"status": "second"}, {"status": "third"}]
    assert list(job.follow()) == [{"status": "third", "picture": 1}], "when it is done: the last of everything"
    assert not visitors.visitor("ben").jobs and not visitors.visitor(None).jobs


def test_jobs_wait_for_each_other_and_say_so(visitors: Visitors) -> None:
    first, second = Gate(), Gate()
    visitors.begin("anna", "Generate", first.work)
    assert first.reached.wait(60)
    job = visitors.begin("ben", "Edit", second.work)
    seen = job.follow()
    assert next(seen) == 1 and not job.made, "one job to go before"
    second.open.set()
    first.open.set()
    assert [update["status"] for update in seen if isinstance(update, dict)] == ["first", "second", "third"]
    with visitors.line.turn():
        assert visitors.line.before(job) == 0


def test_a_job_is_stopped_after_the_step_at_hand(visitors: Visitors) -> None:
    gate = Gate()
    job = visitors.begin("anna", "Generate", gate.work)
    assert gate.reached.wait(60)
    waiting = visitors.begin("anna", "Edit", Gate().work)
    waiting.stop()
    job.stop()
    gate.open.set()
    *_, last = job.follow()
    assert last != {"status": "third"} and job.stopped and not job.error
    assert list(waiting.follow())[-1:] in ([], [1]) and not waiting.made


def test_what_goes_wrong_is_one_line(visitors: Visitors, caplog: pytest.LogCaptureFixture) -> None:
    def wrong(job: Job) -> Iterator[Update]:
        raise ValueError("no such\n class")
        yield {}

    def broken(job: Job) -> Iterator[Update]:
        yield {"status": "first"}
        raise RuntimeError("out of memory")

    job = visitors.begin("anna", "Generate", wrong)
    assert list(job.follow()) == [] and job.error == "no such class"
    assert not caplog.records
    job = visitors.begin("anna", "Generate", broken)
    assert [*job.follow()][-1] == {"status": "first"}
    assert "something broke (out of memory)" in job.error
    assert "a job of the studio failed" in caplog.text


def test_too_many_jobs_are_told_to_come_later(visitors: Visitors, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "WAITING", 1)
    gate = Gate()
    visitors.begin("anna", "Generate", gate.work)
    assert gate.reached.wait(60)
    visitors.begin("ben", "Generate", gate.work)
    with pytest.raises(ValueError, match="1 jobs are waiting already; try again later"):
        visitors.begin("cora", "Generate", gate.work)
    gate.open.set()


def test_files_go_with_the_job_and_with_the_visitor(
    visitors: Visitors, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def drawing(job: Job) -> Iterator[Update]:
        yield {"picture": job.shown(toy_image(0, 0))}

    def picture(job: Job) -> Path:
        (update,) = (one for one in job.follow() if isinstance(one, dict))
        return Path(update["picture"])

    first = picture(visitors.begin("anna", "Generate", drawing))
    assert first.exists()
    second = picture(visitors.begin("anna", "Generate", drawing))
    assert second.exists() and not first.exists()
    made = tmp_path / "image-1" / "blue.png"
    made.parent.mkdir()
    made.touch()
    visitors.visitor("anna").made.append((str(made), "blue"))
    monkeypatch.setattr(jobs, "VISITORS", 1)
    visitors.visitor("ben")
    assert not second.exists() and not made.exists()
    assert not visitors.visitor("anna").jobs


def test_a_value_that_is_not_taken_becomes_a_message() -> None:
    count = gr.Slider(1, 8, label="Images")
    lenient(count)
    assert count.preprocess(3) == 3
    assert count.preprocess(9) == Refused("Images: Value 9 is greater than maximum value 8")
    assert count.preprocess(None) == Refused("Images: this value cannot be used")  # pyright: ignore


def test_what_the_user_got_wrong_leaves_the_page_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(gr, "Warning", lambda message, **_: said.append(message))

    @errors_as_messages
    def wrong() -> None:
        raise ValueError("no <b> such\n class")

    assert wrong() == gr.skip() and said == ["no &lt;b&gt; such class"]
