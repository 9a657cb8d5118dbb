#!/bin/sh
# Train the five families at one size on Procgen, for `nextscale compare`: next-scale prediction, raster order,
# RQ-Transformer, masked prediction, diffusion. Stop it at any moment and start it again: it continues.
#
#     sh examples/procgen/train_families.sh [DATA [RUNS [TOKENIZER [PERCEPTUAL_WEIGHTS]]]]
#
# DATA is what examples/procgen/build.py wrote, TOKENIZER the one of train_demo.sh before its decoder is trained alone.
# All models have some 10M parameters and see 192,000 images; the tokenizers of the single-scale families start from
# TOKENIZER and are trained further.
set -eu
data=${1:-data/procgen}
runs=${2:-out/runs}
start=${3:-$runs/procgen-tokenizer}
weights=${4:-}

tokenizer() {
    name=$1
    nextscale train tokenizer --init-from "$start" --init-scales "$2" --data "$data/train" --heldout "$data/heldout" \
        --steps 1500 --batch-size 32 --learning-rate 1.6e-3 --l1 1 --l2 4 --perceptual 0.2 --perceptual-shift 4 \
        --perceptual-weights "$weights" --sample-every 500 --checkpoint-every 250 --seed 3 \
        --out "$runs/families/$name" --resume
    tokens "$runs/families/$name" "$name"
}
tokens() {
    for split in train heldout; do
        nextscale tokenize --tokenizer "$1" --data "$data/$split" --out "$runs/families/$2-tokens/$split" --resume
    done
}
family() {
    kind=$1 tokenizer=$2 tokens=$3 rate=$4
    shift 4
    nextscale train "$kind" --preset small "$@" --tokenizer "$tokenizer" \
        --data "$runs/families/$tokens-tokens/train" --heldout "$runs/families/$tokens-tokens/heldout" \
        --steps 6000 --batch-size 32 --learning-rate "$rate" --ema 0.9995 --final 0.02 --flat 0.1 --compile \
        --top-k 0 --top-p 0.95 --sample-every 2000 --out "$runs/families/$kind" --resume
}
tokenizer single 8
tokenizer residual 8,8,8,8
family raster "$runs/families/single" single 6e-3 --depth 5
family rq "$runs/families/residual" residual 6e-3 --depth 4 --heads 5 --depth-blocks 1
family maskgit "$runs/families/single" single 6e-3 --depth 5
tokens "$start" multiscale
family var "$start" multiscale 6e-3 --depth 5
family dit "$start" multiscale 2e-3 --depth 5
