#!/bin/sh
# A demo model of 128 x 128 frames in nine minutes on one GPU with 16 cores. Start it again with the same OUT and it
# continues.
#
#     sh benchmarks/gpu_demo.sh OUT [--seconds 540] [--rehearse]
set -eu
exec "${PYTHON:-python3}" "$(dirname "$0")/gpu_demo.py" "$@"
