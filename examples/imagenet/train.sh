#!/bin/sh
# Stage 2 on ImageNet with a published recipe. Stop it at any moment and start it again: it continues.
#
#     sh examples/imagenet/train.sh IMAGENET RUNS [PRESET [FLAGS ...]]
#
# IMAGENET holds train/ and val/, one folder per class. LAUNCH is how commands are started.
set -eu
data=$1
runs=$2
preset=${3:-var-d16}
shift $(($# < 3 ? $# : 3))
launch=${LAUNCH:-torchrun --standalone --nproc-per-node gpu -m}

for split in train val; do
    views=4
    [ "$split" = val ] && views=1
    $launch nextscale tokenize --tokenizer vae-ch160v4096z32 --data "$data/$split" --views "$views" \
        --out "$runs/tokens/$split" --resume
done

$launch nextscale train var --preset "$preset" --tokenizer vae-ch160v4096z32 --parallel fsdp \
    --data "$runs/tokens/train" --heldout "$runs/tokens/val" --out "$runs/$preset" --resume "$@"
