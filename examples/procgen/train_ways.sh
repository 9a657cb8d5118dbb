#!/bin/sh
# Next-scale prediction trained in several ways, beside raster order, on Procgen: what each cure does at equal images
# and parameters. Stop it at any moment and start it again: it continues.
#
#     sh examples/procgen/train_ways.sh [DATA [RUNS [PERCEPTUAL_WEIGHTS [IMAGES]]]]
#
# DATA is what `examples/procgen/build.py --per-class 4000` wrote, or more. All transformers see the same IMAGES (64,000)
# in batches of 16 and have 10M parameters. Tokenizers are those of train_families.sh; a decoder's training sees 16,000
# images. RUNS/ways holds the trainings, RUNS/compare-* the comparisons.
set -eu
data=${1:-data/procgen-4000}
runs=${2:-out/runs}
weights=${3:-}
steps=$((${4:-64000} / 16))

. "$(dirname "$0")/tokenizer.sh"
decoder() {
    name=$1 from=$2
    shift 2
    nextscale train tokenizer --init-from "$runs/tokenizers/$from" --decoder-only \
        --data "$data/train" --heldout "$data/heldout" --steps 1000 --batch-size 16 --learning-rate 2.2e-3 \
        --l1 1 --l2 4 --perceptual 0.4 --perceptual-shift 4 --perceptual-weights "$weights" \
        --sample-every 500 --checkpoint-every 250 --seed 4 --export bf16 "$@" --out "$runs/tokenizers/$name" --resume
}
way() {
    name=$1 kind=$2 tokens=$3
    shift 3
    nextscale train "$kind" --preset small --depth 5 --tokenizer "$runs/tokenizers/$tokens" \
        --data "$runs/tokens/$tokens/train" --heldout "$runs/tokens/$tokens/heldout" \
        --steps "$steps" --batch-size 16 --learning-rate 8.5e-3 --ema 0.9995 --final 0.02 --flat 0.1 --compile \
        --top-k 0 --top-p 0.95 --sample-every "$((steps / 2))" --export bf16 "$@" --out "$runs/ways/$name" --resume
}
# The model of $1 with the decoder of $2.
with_decoder() {
    name=$1-$2
    [ -d "$runs/ways/$name" ] || {
        cp -r "$runs/ways/$1/model" "$runs/ways/.$name"
        rm -r "$runs/ways/.$name/tokenizer"
        cp -r "$runs/tokenizers/$2/model/tokenizer" "$runs/ways/.$name/tokenizer"
        mv "$runs/ways/.$name" "$runs/ways/$name"
    }
}
compare() {
    name=$1
    shift
    for model; do
        shift
        set -- "$@" "$runs/ways/$model"
    done
    nextscale compare "$@" --data "$data/heldout" --features mobilenet_v2 --feature-weights "$weights" --count 2000 \
        --sets 3 --guidances 0,1,2,3,4 --tuning-count 500 --rounds 1 --precision bf16 --out "$runs/compare-$name"
}
tokenizer growing 1,2,3,4,5,6,8 2.2e-3 0.25
way var var growing
way var-correct var growing --self-correct 0.3
way var-scale var growing --attention scale
way var-masked var growing --masked-last 0.5
tokenizer single 8 4e-4 1
way raster raster single
for coder in growing single; do
    decoder "$coder-plain" "$coder"
    decoder "$coder-disturbed" "$coder" --disturb 0.5 --disturb-tokens 0.5 --disturb-tokens-end 0.2 --disturb-codes 20
done
for coder in growing-plain growing-disturbed; do with_decoder var "$coder"; done
for coder in single-plain single-disturbed; do with_decoder raster "$coder"; done
for passes in 2 4; do
    [ -d "$runs/ways/var-masked-$passes" ] ||
        nextscale convert "$runs/ways/var-masked" --refine-steps "$passes" --out "$runs/ways/var-masked-$passes" --export bf16
done
compare ways var var-correct var-scale var-masked var-masked-2 var-masked-4 raster
compare decoders var-growing-plain var-growing-disturbed raster-single-plain raster-single-disturbed
