"""What is checked and said before the server starts."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest

from nextscale.cli import main
from nextscale.server.run import announce, require_free
from nextscale.server.settings import ServerSettings


def test_a_port_in_use_is_told_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        assert main(["serve", "--port", str(port)]) == 2
    told = capsys.readouterr().err.strip().splitlines()[-1]
    assert told.startswith(f"nextscale: --host 127.0.0.1 --port {port}: cannot listen there")


def test_port_0_is_a_free_one() -> None:
    assert require_free("127.0.0.1", 0) > 0


@pytest.mark.parametrize(("host", "port"), [("127.0.0.1", 70_000), ("nowhere.invalid", 8000), ("1:2:3", 8000)])
def test_hosts_and_ports_that_are_none(host: str, port: int) -> None:
    with pytest.raises(ValueError, match=f"--host {host} --port {port}: cannot listen there"):
        require_free(host, port)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--precision", "int9"], "precision 'int9' is not known"),
        (["--device", "tpu9"], "device 'tpu9' is not known"),
        (["--cors-origins", "one.example"], "cors_origins: 'one.example' is no origin"),
        (["--api-key-file", "absent"], "--api-key-file absent: cannot be read"),
    ],
)
def test_settings_are_checked_before_anything_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], flags: list[str], message: str
) -> None:
    def start(*_: Any) -> None:
        raise AssertionError("started")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("nextscale.server.run.private_ray", start)
    assert main(["serve", "--port", "0", *flags]) == 2
    assert message in capsys.readouterr().err


def test_damaged_weights_are_told_before_anything_starts(
    model_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = model_folder / "tokenizer" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:300])
    assert main(["serve", "--port", "0", "--model", str(model_folder)]) == 2
    assert f"{weights}: not a readable safetensors file" in capsys.readouterr().err


def test_what_is_said_at_the_start(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", logger="nextscale"):
        announce(ServerSettings(model="demo"), "::1", 80)
        announce(ServerSettings(model="demo"), "0.0.0.0", 80)
        announce(ServerSettings(model="demo", api_key_file="keys"), "0.0.0.0", 80)
    lines = [record.getMessage() for record in caplog.records]
    assert lines[0] == "serving demo at http://[::1]:80/v1, documentation at http://[::1]:80/docs; stop with Ctrl-C"
    assert [line for line in lines if "--api-key-file" in line] == [lines[2]]
    assert len(lines) == 4
