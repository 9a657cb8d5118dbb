"""Every kernel compiles for a GPU: the interpreter of the tests takes more than Triton does."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

TESTS = Path(__file__).parents[1]
PACKAGE = TESTS.parent / "src" / "nextscale"
USES = (
    "tests/nn/test_kernels.py", "tests/nn/test_conv_kernels.py", "tests/sampling/test_kernels.py",
)  # fmt: skip


def kernels() -> set[str]:
    """Names of the functions that are launched: those under triton.jit that return nothing."""
    found = set()
    for path in PACKAGE.rglob("*kernels.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            jitted = isinstance(node, ast.FunctionDef) and any(
                "triton.jit" in ast.unparse(d) for d in node.decorator_list
            )
            if jitted and not any(isinstance(inner, ast.Return) for inner in ast.walk(node)):
                found.add(node.name)
    return found


@pytest.mark.skipif(torch.cuda.is_available(), reason="the tests compile them where there is a GPU")
def test_every_kernel_compiles(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pytest", *USES, "-p", "compile_only", "-p", "no:cacheprovider"]
    paths = os.pathsep.join([str(TESTS), *sys.path])
    environment = os.environ | {"TRITON_INTERPRET": "0", "PYTHONPATH": paths, "TRITON_CACHE_DIR": str(tmp_path)}
    output = subprocess.run(command, cwd=TESTS.parent, env=environment, capture_output=True, text=True).stdout
    (line,) = [line for line in output.splitlines() if line.startswith("compiled: ")]
    assert "error in" not in output, output[-3000:]
    assert set(line.split()[1:]) == kernels()
