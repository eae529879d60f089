#!/bin/sh
# One table: our document tower beside PyTorch, sentence-transformers and llama.cpp on the same tokens, in turns.
#
#   benches/encode.sh [MODEL.gguf]
#
# NOTES     texts per set (200)          BATCHES  the peers' batch sizes to try (4,16)
# ROUNDS    turns of each (3)            PEERS    a Python environment, made where missing (.cache/peers)
# LLAMA=1   build llama-cpp-python into PEERS too (a C++ compiler, about 10 minutes); it is run where it is there
# CWE, STACKEXCHANGE  where the notes lie (.cache/notes/cwe-1000.csv, ../shared/data/...)
# BENCH     a built `encode` bench (default: build it)
# THREADS   of everyone (all processors); pin them with taskset
set -eu
cd "$(dirname "$0")/.."
model=${1:-.cache/models/SmolLM2-135M-Instruct.Q4_1.gguf}
peers=${PEERS:-.cache/peers}
cwe=${CWE:-.cache/notes/cwe-1000.csv}
stackexchange=${STACKEXCHANGE:-../shared/data/stackexchange-mini/notes.jsonl}
batches=${BATCHES:-4,16}
python=$peers/bin/python
if ! "$python" -c 'import torch, transformers, gguf, accelerate, sentence_transformers' 2>/dev/null; then
    echo "installing the peers into $peers" >&2
    python3 -m venv "$peers"
    "$peers/bin/pip" install --quiet torch transformers gguf accelerate sentence-transformers
fi
short() { case $1 in float32) echo f32 ;; *) echo bf16 ;; esac; }
llama() { "$python" -c 'import llama_cpp' 2>/dev/null; }
if [ "${LLAMA:-}" = 1 ] && ! llama; then
    echo "building llama-cpp-python into $peers" >&2
    CMAKE_ARGS="-DGGML_NATIVE=ON -DLLAVA_BUILD=OFF" "$peers/bin/pip" install --quiet --no-binary llama-cpp-python llama-cpp-python
fi
threads=${THREADS:-$(nproc)}
bench=${BENCH:-}
if [ -z "$bench" ]; then
    cargo build --quiet --release --bench encode
    bench=$(cargo build --quiet --release --bench encode --message-format json |
        sed -n 's/.*"executable":"\([^"]*encode-[^"]*\)".*/\1/p')
fi
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
peer() { # output, then a command of encode_peers.py
    out=$1
    shift
    "$python" benches/encode_peers.py "$@" > "$work/$out" 2> "$work/peer.log" || { cat "$work/peer.log" >&2; exit 1; }
}
set -- texts --notes "${NOTES:-200}"
for pair in "--cwe=$cwe" "--stackexchange=$stackexchange"; do
    if [ -f "${pair#*=}" ]; then set -- "$@" "$pair"; else echo "skipped: no ${pair#*=}" >&2; fi
done
"$python" benches/encode_peers.py "$@" "$work/texts.jsonl"
peer convert.log convert "$model" "$work"
for round in $(seq "${ROUNDS:-3}"); do
    "$bench" --ceiling --threads "$threads" > "$work/ceiling.$round.json"
    peer "ceiling-torch.$round.json" ceiling --threads "$threads"
    # int8 takes the Q8_0 blocks that llama.cpp takes.
    "$bench" "$model" "$work/texts.jsonl" "$work" --threads "$threads" > "$work/ours-f32.$round.json"
    for dtype in float32 bfloat16; do
        peer "torch-$(short $dtype).$round.json" torch "$work" --dtype $dtype --batch "$batches" --threads "$threads"
    done
    "$bench" "$model" "$work/texts.jsonl" "$work" --arithmetic bf16 --threads "$threads" > "$work/ours-bf16.$round.json"
    for dtype in float32 bfloat16; do
        peer "st-$(short $dtype).$round.json" st "$work" --dtype $dtype --batch "$batches" --threads "$threads"
    done
    "$bench" "$work/model.Q8_0.gguf" "$work/texts.jsonl" "$work" --arithmetic int8 --threads "$threads" > "$work/ours-int8.$round.json"
    if llama; then peer "llama-q8_0.$round.json" llama "$work" --batch 512,2048 --threads "$threads"; fi
done
"$python" benches/encode_peers.py table "$work"
