#!/bin/sh
# Fill .gpu/, which git ignores, with what a GPU machine without a network needs beside this checkout: wheels for
# CPython 3.12 on Linux x86-64, the authors' code, weights of MobileNetV2, and the script that runs there. That machine
# has Python 3.12, torch, torchvision, Triton and the scientific packages; what it lacks is named below.
#
#     git clone https://github.com/FoundationVision/VAR
#     sh benchmarks/gpu_prepare.sh VAR          # then copy the checkout with .gpu to the machine, and there:
#     sh .gpu/on_device.sh OUT benchmarks/gpu.py OUT --reference .gpu/VAR
#
# WEIGHTS names torchvision's mobilenet_v2 file where torch's cache does not hold it. With PROCGEN=0 the renderer of
# Procgen, the largest part, stays behind: only gpu_families.sh and gpu_demo.sh need it.
set -eu
cd "$(dirname "$0")/.."
authors=${1:?"usage: sh benchmarks/gpu_prepare.sh FOLDER_OF_THE_AUTHORS_CLONE"}
cache=${TORCH_HOME:-$HOME/.cache/torch}/hub/checkpoints/mobilenet_v2-b0353104.pth
weights=${WEIGHTS:-$cache}
python=${PYTHON:-python3}
mkdir -p .gpu/wheels .gpu/VAR

wheels() {
    into=$1
    shift
    "$python" -m pip download --quiet --no-deps --only-binary=:all: --python-version 3.12 --implementation cp \
        --platform manylinux_2_28_x86_64 --platform manylinux_2_27_x86_64 --platform manylinux_2_17_x86_64 \
        --platform manylinux2014_x86_64 --platform manylinux1_x86_64 --dest "$into" "$@"
}
wheels .gpu/wheels datasets==5.2.0 dill==0.4.1 multiprocess==0.70.19 cyclopts==5.5.2 docstring-parser==0.18.0 \
    rich-rst==2.2.0 diffusers==0.42.1
cp -r "$authors/models" "$authors/utils" "$authors/dist.py" .gpu/VAR/
find .gpu/VAR -name __pycache__ -prune -exec rm -rf {} +
if [ -f "$weights" ]; then cp "$weights" .gpu/mobilenet_v2.pth; else echo "no weights of MobileNetV2 at $weights"; fi
if [ "${PROCGEN:-1}" = 1 ]; then
    [ -f .gpu/procgen.tar.xz ] || {
        wheels .gpu/renderer procgen-mirror==0.10.7 gym3==0.3.3 cffi==2.1.1 pycparser==3.12
        "$python" benchmarks/gpu_pack.py .gpu/renderer .gpu/procgen.tar.xz
        rm -r .gpu/renderer
    }
else
    rm -f .gpu/procgen.tar.xz
fi
cat > .gpu/on_device.sh <<'S'
# sh .gpu/on_device.sh OUT PROGRAM ARGUMENTS...: install what came along, then run a Python program or a script.
set -u
out=$1 program=$2
shift 2
site=${SITE:-/tmp/nextscale-site}
if [ ! -d "$site" ]; then
    python3 -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --target "$site" .gpu/wheels/*.whl
    [ ! -f .gpu/procgen.tar.xz ] || python3 benchmarks/gpu_pack.py --unpack .gpu/procgen.tar.xz "$site"
fi
export PYTHONPATH="$site:$PWD/src" PYTHONUNBUFFERED=1 TOKENIZERS_PARALLELISM=false HF_HUB_OFFLINE=1 HF_DATASETS_OFFLINE=1
mkdir -p "$out"
nvidia-smi --query-gpu=name,memory.total,driver_version --format=csv,noheader || true
case $program in
*.sh) sh "$program" "$@" ;;
*) python3 "$program" "$@" ;;
esac 2>&1 | tee "$out/log.txt"
S
du -sh .gpu/* | sort -h
tracked=$(git ls-files | tr '\n' '\0' | du -cb --files0-from=- 2>/dev/null | tail -1 | cut -f1)
beside=$(du -sb .gpu | cut -f1)
echo "the checkout $((tracked >> 20)) MiB, .gpu $((beside >> 20)) MiB: $(((tracked + beside) >> 20)) MiB travel"
