#!/bin/sh
# On the machine with the GPU, in the checkout's root: install what gpu_prepare.sh brought, then run a program.
#
#     sh .gpu/on_device.sh OUT benchmarks/gpu.py OUT --reference .gpu/VAR
#
# OUT/log.txt holds what it prints.
set -u
out=$1
program=$2
shift 2
site=${SITE:-/tmp/nextscale-site}
mkdir -p "$out"
if [ ! -f "$site/complete" ]; then
    python3 -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --upgrade --target "$site" \
        .gpu/wheels/*.whl || exit 1
    [ ! -f .gpu/packages.tar.xz ] || python3 benchmarks/gpu_pack.py --unpack .gpu/packages.tar.xz "$site" || exit 1
    touch "$site/complete"
fi
export LD_LIBRARY_PATH="$site/system-libraries${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
export PYTHONPATH="$site:$PWD/src" PYTHONUNBUFFERED=1 TOKENIZERS_PARALLELISM=false
export HF_HUB_OFFLINE=1 HF_DATASETS_OFFLINE=1
NEXTSCALE_COMMIT=$(cat .gpu/commit)
export NEXTSCALE_COMMIT
nvidia-smi --query-gpu=name,memory.total,driver_version --format=csv,noheader || true
case $program in
*.sh) set -- sh "$program" "$@" ;;
*) set -- python3 "$program" "$@" ;;
esac
"$@" 2>&1 | tee "$out/log.txt"
