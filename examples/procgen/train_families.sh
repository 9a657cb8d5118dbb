#!/bin/sh
# Train the five families at one size on Procgen, and the scaling laws of two of them: next-scale prediction and raster
# order at depths 1 to 5, RQ-Transformer, masked prediction and diffusion at the size of depth 5. Stop it at any moment
# and start it again: it continues.
#
#     sh examples/procgen/train_families.sh [DATA [RUNS [TOKENIZER [PERCEPTUAL_WEIGHTS]]]]
#
# DATA is what examples/procgen/build.py wrote, TOKENIZER the one of train_demo.sh before its decoder is trained alone.
# All models see the same 128,000 images once; those of depth 5 and its equals have some 10M parameters. The tokenizers
# of the single-scale families start from TOKENIZER and are trained further.
set -eu
data=${1:-data/procgen}
runs=${2:-out/runs}
start=${3:-$runs/procgen-tokenizer}
weights=${4:-}

tokenizer() {
    nextscale train tokenizer --init-from "$start" --init-scales "$2" --data "$data/train" --heldout "$data/heldout" \
        --steps 1500 --batch-size 32 --learning-rate 1.6e-3 --l1 1 --l2 4 --perceptual 0.2 --perceptual-shift 4 \
        --perceptual-weights "$weights" --sample-every 500 --checkpoint-every 250 --seed 3 \
        --out "$runs/families/$1" --resume
    tokens "$runs/families/$1" "$1"
}
tokens() {
    for split in train heldout; do
        nextscale tokenize --tokenizer "$1" --data "$data/$split" --out "$runs/families/$2-tokens/$split" --resume
    done
}
depths() {
    nextscale scaling run --kind "$1" --depths "$4" --tokenizer "$2" --data "$runs/families/$3-tokens/train" \
        --heldout "$runs/families/$3-tokens/heldout" --images 128000 --batch-size 32 --measurements 8 \
        --learning-rate 6.7e-3 --ema 0.9995 --compile --out "$runs/scaling"
}
family() {
    kind=$1 tokenizer=$2 tokens=$3 rate=$4
    shift 4
    nextscale train "$kind" --preset small "$@" --tokenizer "$tokenizer" \
        --data "$runs/families/$tokens-tokens/train" --heldout "$runs/families/$tokens-tokens/heldout" \
        --steps 4000 --batch-size 32 --learning-rate "$rate" --ema 0.9995 --final 0.02 --flat 0.1 --compile \
        --top-k 0 --top-p 0.95 --sample-every 2000 --out "$runs/families/$kind" --resume
}
tokenizer single 8
tokenizer residual 8,8,8,8
tokens "$start" multiscale
depths raster "$runs/families/single" single 5
depths var "$start" multiscale 5
family rq "$runs/families/residual" residual 6e-3 --depth 4 --heads 5 --depth-blocks 1
family maskgit "$runs/families/single" single 6e-3 --depth 5
family dit "$start" multiscale 2e-3 --depth 5
depths raster "$runs/families/single" single 1,2,3,4,5
depths var "$start" multiscale 1,2,3,4,5
