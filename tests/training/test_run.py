"""Run folders: what is kept, what continues, what is refused."""

import json
import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from nextscale.config import read_json
from nextscale.training.config import LoopConfig
from nextscale.training.run import Metrics, RunFolder, continued, read_record, stop_requests

CONFIG = LoopConfig(data="d", out="run", batch_size=4)
INPUTS = {"data": {"count": 2, "class_names": ["a", "b"], "fingerprint": "1"}, "heldout": None}


def begun(path: Path, config: LoopConfig = CONFIG, *, keep: int = 2) -> RunFolder:
    run = RunFolder(path, keep=keep)
    run.start(config, "var", INPUTS)
    return run


def test_checkpoints_are_kept_and_dropped(tmp_path: Path) -> None:
    run = begun(tmp_path / "run", keep=2)
    for step in (1, 2, 3):
        run.save_checkpoint(step, {"step": step})
    assert [path.name for path in run.checkpoints()] == ["step-00000002.pt", "step-00000003.pt"]
    state = run.load_checkpoint()
    assert state == {"step": 3}


def test_a_damaged_checkpoint_gives_way_to_the_one_before(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run = begun(tmp_path / "run")
    run.save_checkpoint(1, {"step": 1})
    run.save_checkpoint(2, {"step": 2})
    run.checkpoints()[-1].write_bytes(b"cut off")
    assert run.load_checkpoint() == {"step": 1}
    assert "cannot be read" in caplog.text


def test_a_failed_save_keeps_the_last_good_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = begun(tmp_path / "run", keep=1)
    run.save_checkpoint(1, {"step": 1})

    def full(state: object, path: Path) -> None:
        path.write_bytes(b"half")
        raise RuntimeError("[enforce fail at inline_container.cc] PytorchStreamWriter failed writing file")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(ValueError, match=r"step-00000002\.pt: cannot be written"):
        run.save_checkpoint(2, {"step": 2})
    assert [path.name for path in (run.path / "checkpoints").iterdir()] == ["step-00000001.pt"]


def test_runs_are_not_overwritten_or_continued_otherwise(tmp_path: Path) -> None:
    run = begun(tmp_path / "run")
    run.save_checkpoint(1, {"step": 1})
    with pytest.raises(ValueError, match="add --resume to continue it"):
        run.look(resume=False)
    before = run.look(resume=True)
    for changed, message in (
        ({"batch_size": 8}, "another batch_size: it was 4, now 8"),
        ({"seed": 1}, "another seed: it was 0, now 1"),
    ):
        with pytest.raises(ValueError, match=message):
            run.start(replace(CONFIG, **changed), "var", INPUTS, before)
    assert read_json(run.path / "config.json")["batch_size"] == 4
    elsewhere = {"data": "e", "heldout": "h", "device": "cpu", "log_every": 1, "out": "other"}
    run.start(replace(CONFIG, **elsewhere), "var", INPUTS, before)
    assert read_json(run.path / "config.json")["data"] == "e"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"class_names": ["a", "c"]}, "the class 'b' is gone and the class 'c' is new"),
        ({"class_names": ["b", "a"]}, "the classes of d have another order"),
        ({"class_names": ["a", "b", "c"], "count": 3}, "of d, the class 'c' is new"),
        ({"count": 3}, "it had 2 images, d holds 3"),
        ({"fingerprint": "2"}, "as many images, but of other names, sizes, labels or tokens"),
    ],
)
def test_other_data_is_refused(tmp_path: Path, change: dict, message: str) -> None:
    run = begun(tmp_path / "run")
    run.save_checkpoint(1, {"step": 1})
    recorded = (run.path / "run.json").read_bytes()
    with pytest.raises(ValueError, match=f"cannot continue on other data: .*{message}; give the data it began with"):
        run.start(CONFIG, "var", INPUTS | {"data": INPUTS["data"] | change}, run.look(resume=True))
    assert (run.path / "run.json").read_bytes() == recorded
    with pytest.raises(ValueError, match="other perceptual weights"):
        run.start(CONFIG, "var", INPUTS | {"perceptual": "1"}, run.look(resume=True))


def test_other_heldout_data_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run = begun(tmp_path / "run")
    run.save_checkpoint(1, {"step": 1})
    run.start(CONFIG, "var", INPUTS | {"heldout": INPUTS["data"]}, run.look(resume=True))
    assert caplog.messages == [f"{run.path}: is measured on other held-out images from here on"]
    assert read_json(run.path / "run.json")["inputs"]["heldout"]["count"] == 2


def test_a_start_that_left_nothing_is_none(tmp_path: Path) -> None:
    run = begun(tmp_path / "run")
    for resume in (False, True):
        assert run.look(resume=resume) is None, "nothing to continue, nothing to lose"
    run.start(replace(CONFIG, seed=7), "var", INPUTS)
    assert read_json(run.path / "config.json")["seed"] == 7
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text('{"kind": "var"}')
    with pytest.raises(ValueError, match="a config.json that is not a run's"):
        RunFolder(tmp_path / "model").look(resume=True)


def test_runs_of_an_earlier_version_continue(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run = begun(tmp_path / "run", replace(CONFIG, precision="bf16"))
    run.save_checkpoint(1, {"step": 1})
    (run.path / "run.json").unlink()
    settings = read_json(run.path / "config.json")
    del settings["epochs"], settings["heldout_share"]
    (run.path / "config.json").write_text(json.dumps(settings))
    before = run.look(resume=True)
    config = continued(CONFIG, before)
    assert (config.precision, config.heldout_share) == ("bf16", 0.0), "as it began: nothing was set aside"
    run.start(config, "var", INPUTS, before)
    assert f"{run.path}: does not say what its data was; whether it is the same was not checked" in caplog.messages
    record = read_record(run.path)
    assert record is not None
    assert (record.command, record.inputs) == ("var", INPUTS), "from now on it is"


def test_what_a_run_decided_stays(tmp_path: Path) -> None:
    assert continued(CONFIG, None) == CONFIG
    assert continued(replace(CONFIG, heldout="h"), None).heldout_share == 0, "all of the data is trained on"
    run = begun(tmp_path / "run", replace(CONFIG, precision="fp32", heldout_share=0.25))
    run.save_checkpoint(1, {"step": 1})
    config = continued(replace(CONFIG, heldout="h"), run.look(resume=True))
    assert (config.precision, config.heldout_share) == ("fp32", 0.25), "what was set aside is never trained on"


def test_metrics_after_the_checkpoint_are_dropped_on_resume(tmp_path: Path) -> None:
    metrics = Metrics(tmp_path, start=0)
    for step in (1, 2, 3):
        metrics.write(step, {"loss": step / 2, "per_scale": [1.0, 2.0]})
    metrics.close()
    resumed = Metrics(tmp_path, start=2)
    resumed.write(3, {"loss": 9.0})
    resumed.close()
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [(line["step"], line["loss"]) for line in lines] == [(1, 0.5), (2, 1.0), (3, 9.0)]
    assert list((tmp_path / "tensorboard").iterdir())


def test_a_line_that_a_crash_cut_off_is_dropped(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n{"step": 2, "lo')
    Metrics(tmp_path, start=2).close()
    assert (tmp_path / "metrics.jsonl").read_text() == '{"step": 1}\n'
    assert Metrics(tmp_path, start=1).lines() == [{"step": 1}]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_ask_to_stop(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with stop_requests() as stop:
        assert not stop.is_set()
        os.kill(os.getpid(), number)
        assert stop.wait(60)
    assert signal.getsignal(number) == before


def test_unwritable_run_is_one_line() -> None:
    with pytest.raises(ValueError, match="cannot be written"):
        begun(Path("/proc/run"))
