#!/bin/sh
# One table: our document tower beside PyTorch transformers, on the same token ids, in turns.
#
#   benches/encode.sh [MODEL.gguf]
#
# NOTES     texts per set (200)          BATCHES  PyTorch's batch sizes to try (2,4,16)
# ROUNDS    turns of each (2)            PEERS    a Python environment, made where missing (.cache/peers)
# CWE, STACKEXCHANGE  where the notes lie (.cache/notes/cwe-1000.csv, ../shared/data/...)
set -eu
cd "$(dirname "$0")/.."
model=${1:-.cache/models/SmolLM2-135M-Instruct.Q4_1.gguf}
peers=${PEERS:-.cache/peers}
cwe=${CWE:-.cache/notes/cwe-1000.csv}
stackexchange=${STACKEXCHANGE:-../shared/data/stackexchange-mini/notes.jsonl}
python=$peers/bin/python
if ! "$python" -c 'import torch, transformers, gguf, accelerate' 2>/dev/null; then
    echo "installing the peers into $peers" >&2
    python3 -m venv "$peers"
    "$peers/bin/pip" install --quiet torch transformers gguf accelerate
fi
cargo build --quiet --release --bench encode
bench=$(cargo build --quiet --release --bench encode --message-format json |
    sed -n 's/.*"executable":"\([^"]*encode-[^"]*\)".*/\1/p')
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
set -- texts --notes "${NOTES:-200}"
for pair in "--cwe=$cwe" "--stackexchange=$stackexchange"; do
    if [ -f "${pair#*=}" ]; then set -- "$@" "$pair"; else echo "skipped: no ${pair#*=}" >&2; fi
done
"$python" benches/encode_peers.py "$@" "$work/texts.jsonl"
for round in $(seq "${ROUNDS:-2}"); do
    "$bench" --ceiling > "$work/ceiling.$round.json"
    "$bench" "$model" "$work/texts.jsonl" "$work" > "$work/ours.$round.json"
    for dtype in float32 bfloat16; do
        "$python" benches/encode_peers.py torch "$model" "$work" --dtype $dtype \
            --batch "${BATCHES:-2,4,16}" > "$work/$dtype.$round.json" 2> "$work/peer.log" ||
            { cat "$work/peer.log" >&2; exit 1; }
    done
done
"$python" benches/encode_peers.py table "$work"
