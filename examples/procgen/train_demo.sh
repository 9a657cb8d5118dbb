#!/bin/sh
# Train the demo model: both stages on Procgen. Stop it at any moment and start it again: it continues.
#
#     sh examples/procgen/train_demo.sh [DATA [RUNS [PERCEPTUAL_WEIGHTS]]]
#
# DATA is what examples/procgen/build.py wrote. PERCEPTUAL_WEIGHTS is torchvision's MobileNetV2 ImageNet file;
# without it torchvision fetches it.
set -eu
data=${1:-data/procgen}
runs=${2:-out/runs}
weights=${3:-}

nextscale train tokenizer --preset small-64 --data "$data/train" --heldout "$data/heldout" \
    --scales 1,2,3,4,5,6,8 --codebook-size 1024 \
    --steps 5000 --batch-size 32 --learning-rate 3.2e-3 --l1 1 --l2 4 --perceptual 0.2 --perceptual-shift 4 \
    --perceptual-weights "$weights" --sample-every 500 --checkpoint-every 250 \
    --export bf16 --out "$runs/procgen-tokenizer" --resume

for split in train heldout; do
    nextscale tokenize --tokenizer "$runs/procgen-tokenizer" --data "$data/$split" \
        --out "$runs/procgen-tokens/$split" --resume
done

nextscale train var --preset small --tokenizer "$runs/procgen-tokenizer" \
    --data "$runs/procgen-tokens/train" --heldout "$runs/procgen-tokens/heldout" \
    --steps 14000 --batch-size 32 --learning-rate 8e-3 --ema 0.9995 --final 0.02 --flat 0.1 --compile \
    --guidance 1.5 --top-k 0 --top-p 0.97 \
    --sample-every 2000 --export bf16 --out "$runs/procgen" --resume

# The decoder alone, against a discriminator: better pictures of the same tokens.
decoder() {
    from=$1
    shift
    nextscale train tokenizer --init-from "$from" --decoder-only --data "$data/train" --heldout "$data/heldout" \
        --batch-size 32 --enlarge 1 --learning-rate 6e-4 --l1 1 --perceptual-shift 4 --perceptual-weights "$weights" \
        --adversarial-start 0.08 --adversarial-lead 0.08 --discriminator-rate 8 --no-discriminator-augment \
        --sample-every 500 --checkpoint-every 250 --export bf16 --resume "$@"
}
decoder "$runs/procgen-tokenizer" --out "$runs/procgen-decoder-1" --seed 1 --steps 1000 \
    --l2 4 --perceptual 0.4 --adversarial 0.3
decoder "$runs/procgen-decoder-1" --out "$runs/procgen-decoder" --seed 2 --steps 1500 \
    --l2 3 --perceptual 0.8 --adversarial 0.8
