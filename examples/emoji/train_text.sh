#!/bin/sh
# Emoji from their names: a tokenizer and a model of prompts. Stop it at any moment and start it again: it continues.
#
#     sh examples/emoji/train_text.sh [DATA [RUNS [PERCEPTUAL_WEIGHTS]]]
#
# DATA is written by examples/emoji/build_text.py, at 64 pixels, if it is not there. PERCEPTUAL_WEIGHTS is torchvision's
# MobileNetV2 ImageNet file; without it torchvision fetches it. About six hours on two cores by estimate.
set -eu
data=${1:-data/emoji-text}
runs=${2:-out/emoji-text}
weights=${3:-}
here=$(dirname "$0")

[ -d "$data/train" ] || python "$here/build_text.py" --out "$data" --size 64

tokenizer() {
    nextscale train tokenizer --data "$data/train" --heldout "$data/heldout" --batch-size 32 --l1 1 --perceptual-shift 4 \
        --perceptual-weights "$weights" --sample-every 500 --checkpoint-every 250 --export bf16 --resume "$@"
}
tokenizer --out "$runs/tokenizer" --init-from demo --steps 4000 --learning-rate 1.6e-3 --l2 4 --perceptual 0.4

for split in train heldout; do
    nextscale tokenize --tokenizer "$runs/tokenizer" --data "$data/$split" --caption-column captions \
        --out "$runs/tokens/$split" --resume
done

nextscale train var --condition text --preset small --depth 6 --tokenizer "$runs/tokenizer" \
    --data "$runs/tokens/train" --heldout "$runs/tokens/heldout" --steps 14000 --batch-size 32 --learning-rate 6e-3 \
    --ema 0.9995 --final 0.02 --flat 0.1 --compile --top-k 0 --top-p 0.95 --guidance 3 \
    --sample-every 1000 --export bf16 --out "$runs/model" --resume

# The decoder alone, of codes some of which are wrong, and against a discriminator: sharper pictures of the same tokens.
tokenizer --out "$runs/decoder" --init-from "$runs/tokenizer" --decoder-only --steps 2000 --learning-rate 6e-4 --l2 3 \
    --perceptual 0.8 --disturb 0.3 --disturb-tokens 0.3 --disturb-tokens-end 0.15 --disturb-codes 20 \
    --adversarial 0.5 --adversarial-start 0.15 --adversarial-lead 0.15 --discriminator-rate 8
