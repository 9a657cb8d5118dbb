#!/bin/sh
# Fine-tune the demo model, which knows 16 games, to 9 categories of emoji; draws both sides.
# Stop it at any moment and start it again: it continues.
#
#     sh examples/emoji/fine_tune.sh [DATA [RUNS]]
#
# DATA is written by examples/emoji/build.py if it is not there.
set -eu
data=${1:-data/emoji}
runs=${2:-out/emoji}
here=$(dirname "$0")

python "$here/build.py" --out "$data"

nextscale train tokenizer --init-from demo --data "$data/train" --heldout "$data/heldout" \
    --steps 600 --batch-size 32 --learning-rate 8e-4 --l1 1 --l2 4 --enlarge 1.125 --flip \
    --sample-every 200 --checkpoint-every 100 --out "$runs/tokenizer" --resume

nextscale tokenize --tokenizer "$runs/tokenizer" --data "$data/train" --views 8 --flip --out "$runs/tokens/train" --resume
nextscale tokenize --tokenizer "$runs/tokenizer" --data "$data/heldout" --out "$runs/tokens/heldout" --resume

nextscale train var --init-from demo --tokenizer "$runs/tokenizer" \
    --data "$runs/tokens/train" --heldout "$runs/tokens/heldout" \
    --steps 1500 --batch-size 32 --learning-rate 2e-3 --ema 0.995 --final 0.02 --sample-every 500 \
    --guidance 2 --top-k 0 --top-p 0.95 --out "$runs/var" --resume

nextscale generate --model demo --classes all --count 16 --out "$runs/before"
nextscale generate --model "$runs/var" --classes all --count 81 --out "$runs/after"
echo "before: $runs/before/grid.png, after: $runs/after/grid.png"
