#!/bin/sh
# The rows that train_families.sh leaves out, on the same Procgen images. Stop it at any moment and start it again: it
# continues.
#
#     sh examples/procgen/train_last_rows.sh [DATA [RUNS [PERCEPTUAL_WEIGHTS [ROWS]]]]
#
# DATA is what `examples/procgen/build.py --per-class 4000` wrote, or more. ROWS are functions of this file, all of them
# without it. RUNS/last holds the models.
set -eu
data=${1:-data/procgen-4000}
runs=${2:-out/runs}
weights=${3:-}

# R3GAN: one step, no tokenizer, no pretrained network. The generator has 10M parameters; 56,000 images in batches of 16,
# each seen once, so that the discriminator needs no augmentation. About 85 minutes on two cores.
r3gan() {
    nextscale train r3gan --preset r3gan-small-64 --data "$data/train" --heldout "$data/heldout" \
        --steps 3500 --batch-size 16 --class-dropout 0 --penalty 1 --penalty-end 0.1 --augment-end 0 \
        --sample-every 500 --checkpoint-every 250 --seed 0 --export bf16 --out "$runs/last/r3gan" --resume
    nextscale evaluate generation --model "$runs/last/r3gan" --data "$data/heldout" --features mobilenet_v2 \
        --feature-weights "$weights" --count 2000 --sweep --out "$runs/last/r3gan-truncation"
}

for row in ${4:-r3gan}; do "$row"; done
