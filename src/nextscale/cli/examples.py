"""Examples that each command's help ends with: what follows `nextscale COMMAND`."""

from __future__ import annotations

BASELINE = (
    "--tokenizer out/runs/one-scale --data out/tokens --out out/runs/{kind}",
    "--preset tiny --tokenizer out/runs/one-scale --data out/tokens --steps 1000",
)
ONE_MAP = {kind: tuple(line.format(kind=kind) for line in BASELINE) for kind in ("raster", "rq", "maskgit", "dit")}

EXAMPLES: dict[str, tuple[str, ...]] = {
    "generate": (
        "",
        "--classes maze,coinrun --count 8 --seed 7 --out out/eight",
        "--model out/runs/var --count 64 --guidance 2",
        "--classes maze --count 2 --candidates 8 --out out/best",
        "--model out/runs/r3gan --truncation 0.7",
        "--draft var-d30 --refine var-d16 --switch 8",
    ),
    "reconstruct": ("out/eight/000000.png --scales", "photos --model out/runs/tokenizer --out out/rebuilt"),
    "edit inpaint": (
        "photo.png --boxes 16,16,48,48 --count 4 --out out/inpainted.png",
        "photo.png --mask mask.png --classes maze",
    ),
    "edit outpaint": ("photo.png --expand left=32,right=32 --out out/wider.png",),
    "edit class": ("photo.png --classes coinrun", "photo.png --classes 3 --mask mask.png --keep-scales 2"),
    "edit upscale": ("small.png --out out/large.png",),
    "studio": ("--open", "--model out/runs/var --port 7861"),
    "explain": ("", "--port 8080 --no-browser"),
    "serve": ("", "--model out/runs/var --port 8080"),
    "train tokenizer": (
        "--data my-images --out out/runs/tokenizer",
        "out/runs/tokenizer --resume",
        "--preset small-64 --data my-images --steps 5000",
    ),
    "train var": (
        "--tokenizer out/runs/tokenizer --data out/tokens --out out/runs/var",
        "out/runs/var --resume",
        "--depth 8 --tokenizer demo --data my-images",
    ),
    **{f"train {kind}": lines for kind, lines in ONE_MAP.items()},
    "train r3gan": (
        "--data my-images --out out/runs/r3gan",
        "--preset r3gan-small-64 --data my-images --batch-size 32 --steps 20000",
        "out/runs/r3gan --resume",
    ),
    "train stylegan-xl": (
        "--preset small-16 --data my-images --out out/runs/stem",
        "--init-from out/runs/stem --side 64 --data my-images --out out/runs/grown",
        "out/runs/grown --resume",
    ),
    "train neon": (
        "--model out/runs/var --data held-out-images --out out/runs/var-neon",
        "out/runs/var-neon --resume",
        "--model demo --data held-out-images --features mobilenet_v2 --weights 0.5,1,1.5 --guidances 2,3,4",
    ),
    "distill decoder": (
        "--model out/runs/var --data my-images --perceptual 0.12 --out out/runs/decoder",
        "out/runs/decoder --resume",
        "--model demo --data my-images --decoder-channels 24 --adversarial 0.4",
    ),
    "tokenize": ("--tokenizer out/runs/tokenizer --data my-images --out out/tokens", "--data my-images --views 4"),
    "evaluate generation": (
        "--data my-images --model out/runs/var --count 2000",
        "--data my-images --images out/eight --features mobilenet_v2",
        "--data my-images --model out/runs/r3gan --sweep --truncations 0.4,0.6,0.8,1",
    ),
    "evaluate reconstruction": ("--data my-images --model out/runs/tokenizer --count 1000",),
    "evaluate likelihood": ("--data held-out-images --model out/runs/var",),
    "evaluate text": ("--data captioned-images --model out/runs/words --guidances 0,2,4",),
    "compare": ("out/runs/var out/runs/raster --data my-images", "--report out/compare/report.json"),
    "scaling run": ("--tokenizer out/runs/tokenizer --data out/tokens --heldout out/held-out-tokens --depths 1,2,3,4",),
    "scaling fit": ("out/scaling", "docs/results/scaling.json --json out/laws.json"),
    "scaling plot": ("out/scaling --out out/laws.png",),
    "scaling predict": ("out/scaling --depth 12",),
    "scaling ablation": (
        "--images my-images --tokenizer out/runs/tokenizer --data out/tokens --heldout out/held-out-tokens "
        "--raster-tokenizer out/runs/one-scale --raster-data out/tokens-1 --raster-heldout out/held-out-tokens-1",
    ),
    "bench": (
        "",
        "--model random:var-d16 --batch-sizes 1,4 --precision bf16",
        "--draft random:var-d30 --refine random:var-d16 --switch 8 --guided-scales 8",
        "--plot out/speed.png",
    ),
    "info": ("", "out/runs/var --json out/var.json"),
    "export onnx": ("", "--model out/runs/var --dtype int8 --out out/onnx-int8"),
    "convert": ("checkpoints/var_d16.pth --out var-d16", "out/runs/var --to official --out official-files"),
}
