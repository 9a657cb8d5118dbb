#!/bin/sh
# Train the five families at one size on Procgen, and the scaling laws of two of them: next-scale prediction and raster
# order at depths 1 to 5, RQ-Transformer, masked prediction and diffusion at the size of depth 5. Stop it at any moment
# and start it again: it continues.
#
#     sh examples/procgen/train_families.sh [DATA [RUNS [PERCEPTUAL_WEIGHTS]]]
#
# DATA is what `examples/procgen/build.py --per-class 4000` wrote. PERCEPTUAL_WEIGHTS is torchvision's MobileNetV2
# ImageNet file; without it torchvision fetches it. All models see the same 64,000 images once; those of depth 5 and
# its equals have some 10M parameters. Diffusion is also kept with 50 sampling steps instead of 250. The three
# tokenizers, of seven growing scales, of one, and of four equal ones, start from the demo's and see the same images;
# that of one scale needs a lower learning rate and more commitment (docs/log.md).
set -eu
data=${1:-data/procgen-4000}
runs=${2:-out/runs}
weights=${3:-}

. "$(dirname "$0")/tokenizer.sh"
depths() {
    nextscale scaling run --kind "$1" --depths "$3" --tokenizer "$runs/tokenizers/$2" \
        --data "$runs/tokens/$2/train" --heldout "$runs/tokens/$2/heldout" --images 64000 --batch-size 16 \
        --measurements 5 --learning-rate 9.5e-3 --ema 0.9995 --compile --out "$runs/scaling"
}
family() {
    kind=$1 tokens=$2 rate=$3
    shift 3
    nextscale train "$kind" --preset small "$@" --tokenizer "$runs/tokenizers/$tokens" \
        --data "$runs/tokens/$tokens/train" --heldout "$runs/tokens/$tokens/heldout" \
        --steps 4000 --batch-size 16 --learning-rate "$rate" --ema 0.9995 --final 0.02 --flat 0.1 --compile \
        --top-k 0 --top-p 0.95 --sample-every 2000 --out "$runs/families/$kind" --resume
}
tokenizer single 8 4e-4 1
tokenizer growing 1,2,3,4,5,6,8 2.2e-3 0.25
depths raster single 1,2,3,4,5
depths var growing 1,2,3,4,5
tokenizer equal 8,8,8,8 2.2e-3 0.25
family rq equal 8.5e-3 --depth 4 --heads 5 --depth-blocks 1
family maskgit single 8.5e-3 --depth 5
family dit growing 2.8e-3 --depth 5
[ -d "$runs/families/dit-50" ] ||
    nextscale convert "$runs/families/dit" --steps 50 --out "$runs/families/dit-50" --export bf16
