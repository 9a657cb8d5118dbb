# Tokenizers of Procgen and their tokens of both splits, in $runs/tokenizers/NAME and $runs/tokens/NAME, for the
# train_*.sh that read this file.

# tokenizer NAME SCALES RATE BETA: a tokenizer of other scales from the demo's, and its tokens.
tokenizer() {
    nextscale train tokenizer --init-from demo --init-scales "$2" --data "$data/train" --heldout "$data/heldout" \
        --steps 1000 --batch-size 16 --learning-rate "$3" --beta "$4" --l1 1 --l2 4 --perceptual 0.4 --perceptual-shift 4 \
        --perceptual-weights "$weights" --sample-every 500 --checkpoint-every 250 --seed 3 --export bf16 \
        --out "$runs/tokenizers/$1" --resume
    tokens "$1"
}
# tokens NAME: what a tokenizer makes of both splits.
tokens() {
    for split in train heldout; do
        nextscale tokenize --tokenizer "$runs/tokenizers/$1" --data "$data/$split" \
            --out "$runs/tokens/$1/$split" --resume
    done
}
