"""What serves the page: types, headers, nothing beside the folder, and one line where it is not built."""

from __future__ import annotations

import http.client
import json
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import numpy as np
import pytest

from nextscale.cli import main
from nextscale.explain import server as serving
from nextscale.sampling.noise import random_bits

ROOT = Path(__file__).parents[2]
WEB = ROOT / "web" / "src"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("explain") / "site"
    for name in (
        *serving.NEEDED,
        "assets/a.wasm",
        "assets/a.mjs",
        "assets/a.js",
        "code/pyramid.py",
        "models/sizes.json",
    ):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    (folder / serving.WEIGHTS).write_text(json.dumps(serving.shared_hashes()))
    (folder.parent / "secret.txt").write_text("secret")
    (folder / "out").symlink_to(folder.parent)
    return folder


@pytest.fixture(scope="module")
def port(site: Path) -> Iterator[int]:
    server = serving.page_server(site=site)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    assert server.server_address[0] == "127.0.0.1"
    yield int(server.server_address[1])
    server.shutdown()
    server.server_close()


def get(port: int, path: str) -> tuple[int, dict[str, str], bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port)
    connection.request("GET", path)
    answer = connection.getresponse()
    found = answer.status, dict(answer.getheaders()), answer.read()
    connection.close()
    return found


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/", "text/html"),
        ("/assets/a.wasm", "application/wasm"),
        ("/assets/a.mjs", "text/javascript"),
        ("/assets/a.js", "text/javascript"),
        ("/models/sizes.json", "application/json"),
        ("/code/pyramid.py", "text/plain; charset=utf-8"),
    ],
)
def test_files_have_the_types_and_headers_that_threads_need(port: int, path: str, kind: str) -> None:
    status, headers, body = get(port, path)
    assert status == 200 and headers["Content-type"] == kind and body
    assert headers["Cross-Origin-Opener-Policy"] == "same-origin"
    assert headers["Cross-Origin-Embedder-Policy"] == "require-corp"
    assert "default-src 'self'" in headers["Content-Security-Policy"]
    assert ("immutable" in headers["Cache-Control"]) == path.startswith("/assets/")


@pytest.mark.parametrize(
    "path",
    [
        "/../secret.txt",
        "/%2e%2e/secret.txt",
        "/assets/../../secret.txt",
        "/out/secret.txt",
        "/models",
        "/assets/",
        "/none",
    ],
)
def test_nothing_beside_the_folder_is_served(port: int, path: str) -> None:
    status, _, body = get(port, path)
    assert status in (301, 404) and body != b"secret"


def test_weights_of_the_bundled_models_are_served_from_their_place(port: int, tmp_path: Path, site: Path) -> None:
    assert serving.SHARED
    for name, place in serving.SHARED.items():
        status, headers, body = get(port, f"/{name}?again")
        assert (status, body) == (200, place.read_bytes()) and headers["Cache-Control"] == "no-cache"
    assert get(port, "/models/demo/config.json")[0] == 404
    serving.write_page(tmp_path / "page", site=site)
    for name, place in serving.SHARED.items():
        assert (tmp_path / "page" / name).read_bytes() == place.read_bytes()


def test_a_page_that_is_not_built_is_told_in_one_line(tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.setattr(serving.page_server, "__kwdefaults__", {"site": tmp_path})
    assert main(["explain", "--no-browser"]) == 2
    error = capsys.readouterr().err
    assert "the page is not built" in error and "make explain" in error and error.count("\n") == 1


def test_a_page_for_other_weights_is_told_in_one_line(site: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    """Its graphs name places in files that hold something else now."""
    serving.write_page(tmp_path / "old", site=site)
    hashes = serving.shared_hashes()
    (tmp_path / "old" / serving.WEIGHTS).write_text(json.dumps(dict.fromkeys(hashes, "0" * 64)))
    monkeypatch.setattr(serving.page_server, "__kwdefaults__", {"site": tmp_path / "old"})
    assert main(["explain", "--no-browser"]) == 2
    error = capsys.readouterr().err
    assert "built for other weights" in error and "make explain" in error and error.count("\n") == 1
    with pytest.raises(ValueError, match="built for other weights"):
        serving.write_page(tmp_path / "new", site=tmp_path / "old")
    assert not (tmp_path / "new").exists()


def test_a_port_that_is_taken_is_told_in_one_line(site: Path, port: int, monkeypatch, capsys) -> None:
    monkeypatch.setattr(serving.page_server, "__kwdefaults__", {"site": site})
    assert main(["explain", "--no-browser", "--port", str(port)]) == 2
    assert "choose another --port" in capsys.readouterr().err


def test_serving_needs_no_torch() -> None:
    code = "import sys, nextscale.cli.explain, nextscale.explain.server; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0


def test_the_figures_are_those_of_the_results() -> None:
    """After results have changed: python web/figures.py."""
    spec = spec_from_file_location("figures", ROOT / "web" / "figures.py")
    assert spec is not None and spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    assert (WEB / "data" / "figures.json").read_text(encoding="utf-8") == module.text()


def in_node(code: str) -> object:
    node = shutil.which("node")
    if node is None:
        pytest.skip("no node on this machine")
    done = subprocess.run(
        [node, "--input-type=module", "-e", code], cwd=WEB, capture_output=True, text=True, check=True, timeout=60
    )
    return json.loads(done.stdout)


def test_the_noise_is_numpys() -> None:
    code = """
        import { randomWords } from "./engine/philox.js";
        console.log(JSON.stringify([[0, 0], [5, 3], [2 ** 33 + 7, 6], [2 ** 52 + 12345, 1]]
            .map(([seed, part]) => Array.from(randomWords(seed, part, 9), (word) => word >>> 1))))
    """
    for found, (seed, part) in zip(in_node(code), ((0, 0), (5, 3), (2**33 + 7, 6), (2**52 + 12345, 1)), strict=True):
        assert found == random_bits([seed], part, 1, 72).ravel().tolist()


def test_cuts_are_those_of_the_reference_sampler() -> None:
    spec = spec_from_file_location("onnx_sample", ROOT / "examples" / "onnx_sample.py")
    assert spec is not None and spec.loader is not None
    module = module_from_spec(spec)
    pytest.importorskip("onnxruntime")
    spec.loader.exec_module(module)
    logits = np.random.default_rng(0).normal(size=(4, 64)).astype(np.float32)
    cuts = [(0, 0), (5, 0), (0, 0.7), (20, 0.9), (1, 0.5)]
    code = f"""
        import {{ keepLikely }} from "./engine/draw.js";
        const rows = {json.dumps(logits.tolist())}.map((row) => Float32Array.from(row));
        const kept = (row, k, p) => Array.from(keepLikely(row, k, p), (value) => value > -Infinity);
        console.log(JSON.stringify({json.dumps(cuts)}.map(([k, p]) => rows.map((row) => kept(row, k, p)))));
    """
    for found, (top_k, top_p) in zip(in_node(code), cuts, strict=True):
        assert found == (module.kept(logits, top_k, top_p) > -np.inf).tolist()
