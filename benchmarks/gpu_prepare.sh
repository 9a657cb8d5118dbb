#!/bin/sh
# Fill .gpu/, which git ignores, with what a machine with a GPU but no network needs beside this checkout. That machine
# is Linux x86-64 with Python 3.12, torch, torchvision, Triton and the scientific packages; what it lacks is named below.
#
#     git clone https://github.com/FoundationVision/VAR
#     sh benchmarks/gpu_prepare.sh VAR         # wheels, the authors' code: for gpu.py
#     sh benchmarks/gpu_prepare.sh VAR data    # and Procgen's renderer, diffusers, MobileNetV2: for the trainings
#
# Then copy the checkout with .gpu to that machine, and there:
#     sh .gpu/on_device.sh OUT benchmarks/gpu.py OUT --reference .gpu/VAR
#     sh .gpu/on_device.sh OUT benchmarks/gpu_families.sh OUT
#
# `data` also leaves pictures of the docs and the demo's transformers out of the checkout, so that all of it stays below
# 64 MiB; `git sparse-checkout disable` brings them back. WEIGHTS names torchvision's file of MobileNetV2 where torch's
# cache does not hold it, TOKENIZERS a folder with trained tokenizers `growing` and `single` for gpu_quality.sh.
set -eu
cd "$(dirname "$0")/.."
authors=${1:?"usage: sh benchmarks/gpu_prepare.sh FOLDER_OF_THE_AUTHORS_CLONE [data]"}
data=${2:-}
python=${PYTHON:-python3}
weights=${WEIGHTS:-${TORCH_HOME:-$HOME/.cache/torch}/hub/checkpoints/mobilenet_v2-b0353104.pth}
[ -z "$data" ] || [ "$data" = data ] || { echo "error: $data is not known; expected data or nothing" >&2; exit 2; }
[ -d "$authors/models" ] || { echo "error: $authors: not a clone of FoundationVision/VAR" >&2; exit 2; }

wheels() {
    into=$1
    shift
    "$python" -m pip download --quiet --no-deps --only-binary=:all: --python-version 3.12 --implementation cp \
        --platform manylinux_2_28_x86_64 --platform manylinux_2_27_x86_64 --platform manylinux_2_17_x86_64 \
        --platform manylinux2014_x86_64 --platform manylinux1_x86_64 --dest "$into" "$@"
}
mkdir -p .gpu/wheels
wheels .gpu/wheels datasets==5.2.0 dill==0.4.1 multiprocess==0.70.19 cyclopts==5.5.2 docstring-parser==0.18.0 \
    rich-rst==2.2.0
rm -rf .gpu/VAR
mkdir .gpu/VAR
cp -r "$authors/models" "$authors/utils" "$authors/dist.py" .gpu/VAR/
find .gpu/VAR -name __pycache__ -prune -exec rm -rf {} +
cp benchmarks/gpu_on_device.sh .gpu/on_device.sh
git rev-parse --short HEAD > .gpu/commit
if [ "$data" = data ]; then
    [ -f .gpu/packages.tar.xz ] || {
        wheels .gpu/packages procgen-mirror==0.10.7 gym3==0.3.3 cffi==2.1.1 pycparser==3.12 diffusers==0.42.1
        "$python" benchmarks/gpu_pack.py .gpu/packages .gpu/packages.tar.xz
        rm -r .gpu/packages
    }
    cp "$weights" .gpu/mobilenet_v2.pth
    rm -rf .gpu/tokenizers
    [ -z "${TOKENIZERS:-}" ] || cp -r "$TOKENIZERS" .gpu/tokenizers
    git sparse-checkout set --no-cone '/*' '!/docs/images' '!/src/nextscale/assets/demo-raster' \
        '!/src/nextscale/assets/demo/transformer'
else
    rm -rf .gpu/packages.tar.xz .gpu/mobilenet_v2.pth .gpu/tokenizers
fi
du -sh .gpu/* | sort -h
checkout=$(git ls-files -z --cached --others --exclude-standard | xargs -0 du -cb 2>/dev/null | awk '$2 == "total" { n += $1 } END { print n }')
beside=$(du -sb .gpu | cut -f1)
echo "the checkout $((checkout >> 20)) MiB, .gpu $((beside >> 20)) MiB: $(((checkout + beside) >> 20)) MiB travel"
[ "$((checkout + beside))" -lt $((64 << 20)) ] || { echo "error: more than 64 MiB" >&2; exit 1; }
