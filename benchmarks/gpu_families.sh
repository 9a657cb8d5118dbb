#!/bin/sh
# The five families with as many images as nine minutes on one GPU with 16 cores allow, up to thirty times those of
# docs/families.md. Start it again with the same OUT and it continues.
#
#     sh benchmarks/gpu_families.sh OUT [--seconds 540] [--rehearse]
set -eu
exec "${PYTHON:-python3}" "$(dirname "$0")/gpu_families.py" "$@"
