#!/bin/sh
# Train the bundled demo on Procgen, both stages. Stop it at any moment and start it again: it continues.
#
#     sh examples/procgen/train_demo.sh [DATA [RUNS [PERCEPTUAL_WEIGHTS]]]
#
# DATA is what examples/procgen/build.py wrote. PERCEPTUAL_WEIGHTS is torchvision's MobileNetV2 ImageNet file;
# without it torchvision fetches it. Some ten hours on two cores by estimate; the stages were run apart, the second
# tokenizer, the constant rate and the first decoder on a GPU, in six minutes.
set -eu
data=${1:-data/procgen}
runs=${2:-out/runs}
weights=${3:-}

# Tokenizers: for each stage the loss weights, then what is its own.
tokenizer() {
    nextscale train tokenizer --data "$data/train" --heldout "$data/heldout" --l1 1 --perceptual-shift 4 \
        --perceptual-weights "$weights" --sample-every 500 --checkpoint-every 250 --export bf16 --resume "$@"
}
tokenizer --out "$runs/procgen-tokenizer-1" --preset small-64 --scales 1,2,3,4,5,6,8 --codebook-size 1024 \
    --steps 5000 --batch-size 32 --learning-rate 3.2e-3 --l2 4 --perceptual 0.2
tokenizer --out "$runs/procgen-tokenizer" --init-from "$runs/procgen-tokenizer-1" --seed 3 \
    --steps 1000 --batch-size 64 --learning-rate 1.1e-3 --l2 4 --perceptual 0.4

for split in train heldout; do
    nextscale tokenize --tokenizer "$runs/procgen-tokenizer" --data "$data/$split" \
        --out "$runs/procgen-tokens/$split" --resume
done

# The transformer: at a constant rate for as long as there is time, then ever more slowly.
transformer() {
    nextscale train var --preset small --depth 6 --tokenizer "$runs/procgen-tokenizer" \
        --data "$runs/procgen-tokens/train" --heldout "$runs/procgen-tokens/heldout" --ema 0.9995 --compile \
        --top-k 0 --top-p 0.95 --sample-every 1000 --export bf16 --resume "$@"
}
transformer --out "$runs/procgen-constant" --steps 2000 --batch-size 128 --learning-rate 3e-3 --warmup 0.2 --final 1
transformer --out "$runs/procgen" --init-from "$runs/procgen-constant" --steps 4000 --batch-size 32 --learning-rate 8e-3 \
    --warmup 0.01 --flat 0.05 --final 0.02

# The decoder alone, of codes as a transformer draws them, some wrong; then also against a discriminator, which makes
# sharper pictures of the same tokens.
tokenizer --out "$runs/procgen-decoder-1" --init-from "$runs/procgen-tokenizer" --decoder-only --seed 4 \
    --steps 600 --batch-size 64 --learning-rate 1.1e-3 --l2 4 --perceptual 0.4 \
    --disturb 0.5 --disturb-tokens 0.5 --disturb-tokens-end 0.2 --disturb-codes 20
tokenizer --out "$runs/procgen-decoder" --init-from "$runs/procgen-decoder-1" --decoder-only --seed 1 \
    --steps 3000 --batch-size 32 --learning-rate 6e-4 --enlarge 1 --l2 3 --perceptual 0.8 \
    --disturb 0.3 --disturb-tokens 0.3 --disturb-tokens-end 0.15 --disturb-codes 20 \
    --adversarial 0.8 --adversarial-start 0.08 --adversarial-lead 0.08 --discriminator-rate 8 --no-discriminator-augment
