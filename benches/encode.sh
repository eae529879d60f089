#!/bin/sh
# One table: our document tower beside PyTorch, sentence-transformers and llama.cpp on the same tokens, in turns.
#
#   benches/encode.sh [MODEL.gguf]
#
# NOTES     texts per set (200)          BATCHES  the peers' batch sizes to try (4,16)
# ROUNDS    turns of each (3)            PEERS    a Python environment, made where missing (.cache/peers)
# LLAMA=1   build llama-cpp-python into PEERS too (a C++ compiler, about 10 minutes); it is run where it is there
# CWE, STACKEXCHANGE  where the notes are (.cache/notes/cwe-1000.csv, ../shared/data/...)
# BENCH     a built `encode` bench (default: build it)
# THREADS   of everyone (all processors); pin them with taskset
# STEP_SECONDS  what each step may take (600), benches/steps.py
set -eu
cd "$(dirname "$0")/.."
model=${1:-.cache/models/SmolLM2-135M-Instruct.Q4_1.gguf}
peers=${PEERS:-.cache/peers}
cwe=${CWE:-.cache/notes/cwe-1000.csv}
stackexchange=${STACKEXCHANGE:-../shared/data/stackexchange-mini/notes.jsonl}
batches=${BATCHES:-4,16}
python=$peers/bin/python
. benches/common.sh
peers_have 'torch, transformers, gguf, accelerate, sentence_transformers' torch transformers gguf accelerate sentence-transformers
STEP_SECONDS=${STEP_SECONDS:-600}
export STEP_SECONDS
short() { case $1 in float32) echo f32 ;; *) echo bf16 ;; esac; }
llama() { "$python" -c 'import llama_cpp' 2>/dev/null; }
if [ "${LLAMA:-}" = 1 ] && ! llama; then
    echo "building llama-cpp-python into $peers" >&2
    CMAKE_ARGS="-DGGML_NATIVE=ON -DLLAVA_BUILD=OFF" "$peers/bin/pip" install --quiet --no-binary llama-cpp-python llama-cpp-python
fi
threads=${THREADS:-$(nproc)}
bench=${BENCH:-$(built bench encode)}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
step() { "$python" benches/steps.py run "$work" "$@"; } # a name and a command
peer() { # a name, then a command of encode_peers.py
    name=$1
    shift
    step "$name" "$python" benches/encode_peers.py "$@"
}
ours() { # a name, a model, then options of the bench
    name=$1 weights=$2
    shift 2
    step "$name" "$bench" "$weights" "$work/texts.jsonl" "$work" --threads "$threads" "$@"
}
set -- texts --notes "${NOTES:-200}"
for pair in "--cwe=$cwe" "--stackexchange=$stackexchange"; do
    if [ -f "${pair#*=}" ]; then set -- "$@" "$pair"; else echo "skipped: no ${pair#*=}" >&2; fi
done
"$python" benches/encode_peers.py "$@" "$work/texts.jsonl"
peer converted convert "$model" "$work"
# Without the converted weights there is nothing to run the peers on.
converted() { [ -f "$work/converted" ]; }
for round in $(seq "${ROUNDS:-3}"); do
    step "ceiling.$round.json" "$bench" --ceiling --threads "$threads"
    peer "ceiling-torch.$round.json" ceiling --threads "$threads"
    ours "ours-f32.$round.json" "$model"
    for dtype in float32 bfloat16; do
        if converted; then peer "torch-$(short $dtype).$round.json" torch "$work" --dtype $dtype --batch "$batches" --threads "$threads"; fi
    done
    ours "ours-bf16.$round.json" "$model" --arithmetic bf16
    for dtype in float32 bfloat16; do
        if converted; then peer "st-$(short $dtype).$round.json" st "$work" --dtype $dtype --batch "$batches" --threads "$threads"; fi
    done
    # int8 takes the Q8_0 blocks that llama.cpp takes.
    if converted; then ours "ours-int8.$round.json" "$work/model.Q8_0.gguf" --arithmetic int8; fi
    if converted && llama; then peer "llama-q8_0.$round.json" llama "$work" --batch 512,2048 --threads "$threads"; fi
done
"$python" benches/encode_peers.py table "$work"
"$python" benches/steps.py said "$work"
