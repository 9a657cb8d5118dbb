#!/bin/sh
# Next-scale prediction and raster order on Fashion-MNIST, from nothing, at equal parameters and images: whose images are
# nearer to real ones? Stop it at any moment and start it again: it continues.
#
#     sh examples/fashion_mnist/compare.sh [DATA [RUNS [OPTIONS]]]
#
# DATA is what `examples/fashion_mnist/build.py` wrote. OPTIONS go to every command, such as `--device cuda`. Sizes are
# variables of the environment, with their defaults below: on a GPU one may try DEPTH=5 IMAGES=1200000.
# RUNS/compare holds the report, its plot and pictures; `nextscale compare --report RUNS/compare/report.json` shows it.
set -eu
data=${1:-data/fashion_mnist}
runs=${2:-out/runs/fashion}
shift "$(($# < 2 ? $# : 2))"

: "${TOKENIZER_IMAGES:=96000}"  # images that each tokenizer sees; the data has 60,000
: "${CHANNELS:=32}"             # of its CNN's first level
: "${CODES:=512}"               # of its codebook
: "${PERCEPTUAL:=0.2}"          # weight of its perceptual distance; 0 needs no weights of MobileNetV2
: "${PERCEPTUAL_WEIGHTS:=}"     # their file; without it torchvision fetches them
: "${TOKENIZER_PRECISION:=auto}" # fp32 is faster for this CNN on some CPUs
: "${IMAGES:=300000}"           # images that each transformer sees: five epochs
: "${DEPTH:=3}"                 # blocks; they are 64 times as wide
: "${BATCH:=32}"                # images of a training step
: "${RATE:=8e-3}"               # learning rate of the transformers at a batch of 256
: "${GUIDANCES:=0,1,2,3}"       # guidances that are tried
: "${TUNING:=1000}"             # images of each of them
: "${COUNT:=5000}"              # images of each of the three sets that are compared
: "${CLASSIFIER_STEPS:=2000}"   # of 64 images, for the classifier whose features compare the images
: "${COMPILE:=--compile}"       # or --no-compile

here=$(dirname "$0")
[ -f "$runs/classifier.pth" ] ||
    python "$here/classifier.py" --data "$data/train" --heldout "$data/heldout" --steps "$CLASSIFIER_STEPS" \
        --out "$runs/classifier.pth" "$@"

# Both tokenizers are the same CNN. Where a single scale has to hold everything, features drift away from their codes
# unless the rate is lower and the commitment stronger.
tokenizer() {
    name=$1 scales=$2 rate=$3 beta=$4
    shift 4
    nextscale train tokenizer --preset small-32 --scales "$scales" --channels "$CHANNELS" --codebook-size "$CODES" \
        --data "$data/train" --heldout "$data/heldout" --steps "$((TOKENIZER_IMAGES / BATCH))" --batch-size "$BATCH" \
        --learning-rate "$rate" --beta "$beta" --enlarge 1 --l1 1 --l2 4 --perceptual "$PERCEPTUAL" \
        --perceptual-shift 4 --perceptual-weights "$PERCEPTUAL_WEIGHTS" --precision "$TOKENIZER_PRECISION" \
        --out "$runs/tokenizers/$name" --resume "$@"
    for split in train heldout; do
        nextscale tokenize --tokenizer "$runs/tokenizers/$name" --data "$data/$split" \
            --out "$runs/tokens/$name/$split" --resume "$@"
    done
    [ -f "$runs/reconstruction/$name/report.json" ] ||
        nextscale evaluate reconstruction --model "$runs/tokenizers/$name" --data "$data/heldout" --count "$COUNT" \
            --features resnet18 --feature-weights "$runs/classifier.pth" --perceptual none \
            --out "$runs/reconstruction/$name" "$@"
}
model() {
    kind=$1 tokens=$2
    shift 2
    nextscale train "$kind" --preset small --depth "$DEPTH" --tokenizer "$runs/tokenizers/$tokens" \
        --data "$runs/tokens/$tokens/train" --heldout "$runs/tokens/$tokens/heldout" --steps "$((IMAGES / BATCH))" \
        --batch-size "$BATCH" --learning-rate "$RATE" --ema 0.9995 --final 0.02 --flat 0.1 --top-k 0 --top-p 0.95 \
        "$COMPILE" --out "$runs/$kind" --resume "$@"
}
tokenizer growing 1,2,3,4,6,8 3.2e-3 0.25 "$@"
tokenizer single 8 1.6e-3 1 "$@"
model var growing "$@"
model raster single "$@"
nextscale compare "$runs/var" "$runs/raster" --data "$data/heldout" --features resnet18 \
    --feature-weights "$runs/classifier.pth" --count "$COUNT" --sets 3 --guidances "$GUIDANCES" \
    --tuning-count "$TUNING" --out "$runs/compare" "$@"
