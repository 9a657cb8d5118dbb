#!/bin/sh
# What each way of training does for next-scale prediction, and a demo model, in nine minutes on one GPU with 16 cores.
# Start it again with the same OUT and it continues.
#
#     sh benchmarks/gpu_quality.sh OUT [--seconds 540] [--rehearse]
set -eu
exec "${PYTHON:-python3}" "$(dirname "$0")/gpu_quality.py" "$@"
