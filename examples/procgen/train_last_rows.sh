#!/bin/sh
# The rows that train_families.sh leaves out, on the same Procgen images. Stop it at any moment and start it again: it
# continues.
#
#     sh examples/procgen/train_last_rows.sh [DATA [RUNS [PERCEPTUAL_WEIGHTS [ROWS]]]]
#
# DATA is what `examples/procgen/build.py --per-class 4000` wrote, or more. ROWS are functions of this file, all of them
# without it. RUNS/last holds the models, RUNS/compare-last what they are compared by.
set -eu
data=${1:-data/procgen-4000}
runs=${2:-out/runs}
weights=${3:-}

. "$(dirname "$0")/tokenizer.sh"

# ViT-VQGAN: raster order on the tokens of a ViT with factorised, normalised codes. Tokenizer and codebook are as large as
# those of the CNN; it starts from nothing and sees 112,000 images. The model is the raster order of train_ways.sh: 10M
# parameters, 64,000 images.
vit_vqgan() {
    nextscale train tokenizer --preset vit-small-64 --scales 8 --phi-map=-1 --codebook-size 1024 \
        --data "$data/train" --heldout "$data/heldout" --steps 7000 --batch-size 16 --learning-rate 5e-3 \
        --l1 1 --l2 4 --perceptual 0.4 --perceptual-shift 4 --perceptual-weights "$weights" \
        --sample-every 1000 --checkpoint-every 250 --seed 3 --export bf16 --out "$runs/tokenizers/vit" --resume
    tokens vit
    nextscale train raster --preset small --depth 5 --tokenizer "$runs/tokenizers/vit" \
        --data "$runs/tokens/vit/train" --heldout "$runs/tokens/vit/heldout" \
        --steps 4000 --batch-size 16 --learning-rate 8.5e-3 --ema 0.9995 --final 0.02 --flat 0.1 --compile \
        --top-k 0 --top-p 0.95 --sample-every 2000 --export bf16 --out "$runs/last/vit-vqgan" --resume
}

# R3GAN: one step, no tokenizer, no pretrained network. The generator has 10M parameters; 56,000 images in batches of 16,
# each seen once, so that the discriminator needs no augmentation. By its CPU time over 30 steps (0.15 to 0.18 s an image),
# 70 to 85 minutes of two cores by estimate.
r3gan() {
    nextscale train r3gan --preset r3gan-small-64 --data "$data/train" --heldout "$data/heldout" \
        --steps 3500 --batch-size 16 --class-dropout 0 --penalty 1 --penalty-end 0.1 --augment-end 0 \
        --sample-every 500 --checkpoint-every 250 --seed 0 --export bf16 --out "$runs/last/r3gan" --resume
    nextscale evaluate generation --model "$runs/last/r3gan" --data "$data/heldout" --features mobilenet_v2 \
        --feature-weights "$weights" --count 2000 --sweep --out "$runs/last/r3gan-truncation"
}

# StyleGAN-XL: a stem of 16 pixels, then one growth to 64 with the stem frozen. The generator has 5.5M parameters: one of
# 10M would see a third of the images in the same time. The discriminator reads MobileNetV2 (PERCEPTUAL_WEIGHTS), so that
# network must not judge. 9,600 and 12,800 images, in batches of 8 because the published rate needs many steps; about 85
# minutes on two cores, in float32 because depthwise convolutions are slower in bf16 on a CPU.
style_stage() {
    name=$1 steps=$2
    shift 2
    nextscale train stylegan-xl "$@" --data "$data/train" --heldout "$data/heldout" --steps "$steps" --batch-size 8 \
        --backbone mobilenet_v2 --backbone-weights "$weights" --resize 128 --head-width 32 --class-dropout 0 \
        --precision fp32 --sample-every 800 --checkpoint-every 400 --seed 0 --export bf16 \
        --out "$runs/last/$name" --resume
}
stylegan_xl() {
    style_stage stylegan-xl-16 1200 --preset small-16
    style_stage stylegan-xl 1600 --init-from "$runs/last/stylegan-xl-16" --side 64
}

# All beside the models of train_families.sh that are there, in the features of a classifier of Procgen's classes that no
# loss used: MobileNetV2 is in the discriminator of one and in the tokenizers' perceptual distance.
judged() {
    judge=$runs/last/judge.pth
    [ -f "$judge" ] ||
        python "$(dirname "$0")/../fashion_mnist/classifier.py" --data "$data/train" --heldout "$data/heldout" \
            --side 64 --steps 1000 --out "$judge"
    set -- "$runs/last/vit-vqgan" "$runs/last/r3gan" "$runs/last/stylegan-xl"
    for kind in var raster maskgit dit-50; do
        [ ! -d "$runs/families/$kind" ] || set -- "$@" "$runs/families/$kind"
    done
    nextscale compare "$@" --data "$data/heldout" --features resnet18 --feature-weights "$judge" --count 2000 --sets 3 \
        --guidances 0,1,2,3 --tuning-count 500 --rounds 1 --out "$runs/compare-last"
}

for row in ${4:-vit_vqgan r3gan stylegan_xl judged}; do "$row"; done
