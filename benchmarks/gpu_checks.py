"""The card's rates, the tests that need a GPU, and whether what the GPU computes is right."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from gpu_models import (
    SAMPLING,
    Setup,
    authors_models,
    chosen_classes,
    free,
    generate,
    pipeline_of,
    random_models,
    timed,
    without_graphs,
)
from gpu_runner import Note
from nextscale import TokenPyramid, VARPipeline
from nextscale.nn.cuda import plain_expressions
from nextscale.official import save_official

ROOT = Path(__file__).parents[1]
HALVES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def card(setup: Setup, note: Note) -> None:
    """Name, versions, and the rates that bound everything else."""
    note("versions", versions(setup))
    side, bytes_ = setup.sizes.product, setup.sizes.copied
    a, b = (torch.randn(side, side, device=setup.device, dtype=torch.bfloat16) for _ in range(2))
    product = timed(setup, lambda: a @ b, 20)
    note("bf16_tflops", 2 * side**3 / product["ms"] / 1e9)
    source = torch.empty(bytes_, dtype=torch.uint8, device=setup.device).random_()
    target = torch.empty_like(source)
    copy = timed(setup, lambda: target.copy_(source), 20)
    note("copy_tb_per_s", 2 * bytes_ / copy["ms"] / 1e9)


def versions(setup: Setup) -> dict[str, Any]:
    """What the figures were made with."""
    found: dict[str, Any] = {"python": sys.version.split()[0], "torch": torch.__version__, "cores": os.cpu_count()}
    if setup.cuda:
        properties = torch.cuda.get_device_properties(setup.device)
        found |= {"card": properties.name, "gib": properties.total_memory / 2**30}
        found |= {"cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version()}
        query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        found["driver"] = subprocess.run(query, capture_output=True, text=True).stdout.strip()
    else:
        found["card"] = "CPU"
    try:
        import triton

        found["triton"] = triton.__version__
    except ImportError:
        found["triton"] = None
    return found


def gpu_tests(setup: Setup, note: Note) -> None:
    """The tests of kernels, which run on the GPU where there is one, and those under the marker `gpu`."""
    files = sorted((ROOT / "tests").rglob("test_*.py"))
    kernels = [path for path in files if path.stem.endswith("kernels")]
    marked = [path for path in files if "mark.gpu" in path.read_text()]
    if setup.rehearse:
        kernels = [ROOT / "tests" / "test_pyramid.py"]
    for name, chosen in {"kernels": kernels, "marked": [*marked, "-m", "gpu"]}.items():
        log = setup.out / f"tests-{name}.txt"
        command = [sys.executable, "-m", "pytest", *chosen, "-p", "no:cacheprovider", "-ra", "--durations=5"]
        command.append("--continue-on-collection-errors")  # of what needs packages that are not there
        with log.open("w") as file:
            process = subprocess.Popen(command, cwd=ROOT, stdout=file, stderr=subprocess.STDOUT)
            try:
                status = process.wait(max(1.0, setup.left() - 5))
            except subprocess.TimeoutExpired:
                process.kill()
                status = "ended: no time"
        text = log.read_text(errors="replace").strip()
        last = text.splitlines()[-1] if text else ""
        note(name, {"exit_status": status, "summary": last, "output": text[-3000:]})


def correctness(setup: Setup, note: Note) -> None:
    """Tokens and logits: against the CPU, between precisions, batches and paths, and against the authors' code."""
    tokenizer, model = random_models(setup.sizes, setup.sizes.depth, torch.device("cpu"))
    folder = setup.work / "official"
    folder.mkdir(parents=True, exist_ok=True)
    save_official(folder, tokenizer, model)
    del tokenizer, model
    (vae,), (var,) = folder.glob("vae*.pth"), folder.glob("var*.pth")

    def load(device: torch.device | str, dtype: torch.dtype) -> VARPipeline:
        return VARPipeline.from_official(vae=vae, var=var, device=device, dtype=dtype)

    against_cpu(setup, note, load)
    paths_and_batches(setup, note, load)
    free()
    if setup.reference is not None:
        against_authors(setup, note)


def against_cpu(setup: Setup, note: Note, load: Any) -> None:
    """Float32 tokens of some images against the CPU's, and all precisions against float32."""
    cpu, count = load("cpu", torch.float32), 2 if setup.rehearse else 4
    tokens = generate(setup, cpu, count).tokens
    classes = chosen_classes(setup, count)
    wanted = cpu.logits(tokens, classes)
    del cpu
    exact = load(setup.device, torch.float32)
    note("fp32 tokens equal to the CPU's", share(generate(setup, exact, count).tokens, tokens))
    with plain_expressions(), without_graphs(exact):
        plain = generate(setup, exact, count).tokens
    note("fp32 tokens equal to the CPU's, no kernels, no graphs", share(plain, tokens))
    note("fp32 tokens", tokens.packed.numel())
    note("fp32 logits against the CPU's", agreement(exact.logits(tokens, classes), wanted))
    del exact
    free()
    for name, dtype in HALVES.items():
        half = load(setup.device, dtype)
        note(f"{name} tokens equal to float32's", share(generate(setup, half, count).tokens, tokens))
        note(f"{name} logits against float32's", agreement(half.logits(tokens, classes), wanted))
        del half
        free()


def paths_and_batches(setup: Setup, note: Note, load: Any) -> None:
    """Graphs and kernels against the plain path, and images alone against images in a batch."""
    for name, dtype in {"fp32": torch.float32, "bf16": torch.bfloat16}.items():
        pipeline = load(setup.device, dtype)
        for batch in (1, 4):
            generate(setup, pipeline, batch)  # graphs are captured at the second use
            graphs, again = (generate(setup, pipeline, batch).tokens for _ in range(2))
            with without_graphs(pipeline):
                eager = generate(setup, pipeline, batch).tokens
                with plain_expressions():
                    plain = generate(setup, pipeline, batch).tokens
            note(f"{name}, batch {batch}: tokens equal twice", share(again, graphs))
            note(f"{name}, batch {batch}: tokens with graphs equal without", share(graphs, eager))
            note(f"{name}, batch {batch}: tokens with kernels equal without", share(eager, plain))
        many = 4 if setup.rehearse else 16
        together = generate(setup, pipeline, many).tokens.packed
        classes = chosen_classes(setup, many)
        for batch in (1, 4):
            options: dict[str, Any] = {"seeds": range(many), "batch_size": batch, **SAMPLING}
            apart = pipeline.generate(classes, **options).tokens.packed
            equal = (apart == together).float().mean().item()
            note(f"{name}: tokens in batches of {batch} equal those of {many}", equal)
        del pipeline
        free()


def against_authors(setup: Setup, note: Note) -> None:
    """The authors' code on the same weights: teacher-forced logits in float32 and under float16 autocast."""
    tokenizer, model = random_models(setup.sizes, setup.sizes.depth, setup.device)
    vae, var = authors_models(setup.sizes, tokenizer, model, setup.device)
    pipeline = pipeline_of(tokenizer, model, setup.device, torch.float32)
    generator = torch.Generator().manual_seed(1)
    packed = torch.randint(setup.sizes.codebook_size, (2, pipeline.schedule.length), generator=generator)
    tokens = TokenPyramid(packed, pipeline.schedule)
    classes = chosen_classes(setup, 2)
    var.cond_drop_rate = 0.0  # their forward drops classes in evaluation mode too
    maps = [level.flatten(1).to(setup.device) for level in tokens]
    half = torch.float16 if setup.cuda else torch.bfloat16
    theirs = {}
    with torch.inference_mode():
        inputs = vae.quantize.idxBl_to_var_input(maps)
        labels = torch.tensor(classes, device=setup.device)
        for name, cast in (("fp32", nullcontext()), ("autocast", torch.autocast(setup.device.type, half))):
            with cast:
                theirs[name] = var(labels, inputs).float()
    ours = pipeline.logits(tokens, classes)
    note("fp32 logits against the authors'", agreement(ours, theirs["fp32"]))
    note("the authors' autocast logits against their float32's", agreement(theirs["autocast"], theirs["fp32"]))
    with torch.inference_mode():
        decoded = vae.idxBl_to_img(maps, same_shape=True, last_one=True)
    difference = pipeline.tokenizer.decode(tokens.to(setup.device)) - decoded.clamp(-1, 1)
    note("fp32 decoded images against the authors', largest difference", difference.abs().max().item())


def share(one: TokenPyramid, other: TokenPyramid) -> float:
    """Share of equal tokens."""
    return (one.packed.cpu() == other.packed.cpu()).float().mean().item()


def agreement(logits: Tensor, wanted: Tensor) -> dict[str, float]:
    """How near logits are: largest difference over the largest logit, mean KL in nats, share of equal best tokens."""
    logits, wanted = logits.cpu().float(), wanted.cpu().float()
    kl = F.kl_div(logits.log_softmax(-1), wanted.log_softmax(-1), reduction="none", log_target=True).sum(-1)
    return {
        "relative": ((logits - wanted).abs().max() / wanted.abs().max()).item(),
        "kl": kl.mean().item(),
        "best_equal": (logits.argmax(-1) == wanted.argmax(-1)).float().mean().item(),
    }
