#!/bin/sh
# Our document tower on a GPU beside transformers (SDPA) and sentence-transformers on the same token ids: parity with the
# processor's f32 vectors, tokens/s, and the share of what a large product reaches there.
#
#   benches/gpu.sh                       the whole table on cuda:0
#   SMOKE=1 benches/gpu.sh               the same steps on the processor with a tiny shape: does the bench work?
#
# DEVICE    cuda:0                       SHAPES    smollm2 qwen3-0.6b qwen3-4b qwen3-8b
# COUNT     sequences of each set        FEATURES  flash-attn; `cuda` alone leaves the fused kernels out
# MODEL     SmolLM2's GGUF               NOTES     texts for parity (60)
# PEERS     a Python environment, made where missing (.cache/peers); PEERS= runs none
# BENCH     a built `gpu` bench (default: build it); PROGRAM a built scalingnote for the run at the end
# STEP_SECONDS  what each step may take (600), benches/steps.py
set -eu
cd "$(dirname "$0")/.."
if [ "${SMOKE:-}" = 1 ]; then
    device=${DEVICE:-tensors} shapes=${SHAPES:-tiny} count=${COUNT:-64} features=${FEATURES:-} arithmetic=${ARITHMETIC:-f32}
    budgets=${BUDGETS:-1024,4096} batches=${BATCHES:-4,16} torch_device=cpu dtype=float32
else
    device=${DEVICE:-cuda:0} shapes=${SHAPES:-smollm2 qwen3-0.6b qwen3-4b qwen3-8b} count=${COUNT:-4096}
    features=${FEATURES:-flash-attn} arithmetic=${ARITHMETIC:-bf16} budgets=${BUDGETS:-16384,32768,65536,131072}
    batches=${BATCHES:-16,64,256} torch_device=$device dtype=bfloat16
fi
model=${MODEL:-.cache/models/SmolLM2-135M-Instruct.Q4_1.gguf}
peers=${PEERS-.cache/peers}
python=$peers/bin/python
. benches/common.sh
if [ -n "$peers" ]; then
    peers_have 'torch, transformers, sentence_transformers' torch transformers gguf accelerate sentence-transformers
fi
bench=${BENCH:-$(built bench gpu --features "$features")}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
STEP_SECONDS=${STEP_SECONDS:-600}
export STEP_SECONDS
step() { python3 benches/steps.py run "$work" "$@"; } # a name and a command
peer() { # a name, then a command of gpu_peers.py
    name=$1
    shift
    step "$name" "$python" benches/gpu_peers.py "$@"
}
if [ -f "$model" ] && [ -f .cache/notes/cwe-1000.csv ]; then
    python3 benches/encode_peers.py texts --notes "${NOTES:-60}" --cwe .cache/notes/cwe-1000.csv "$work/texts.jsonl"
    step smollm2.parity.json "$bench" parity "$work" --device "$device" --model "$model" --texts "$work/texts.jsonl"
else
    echo "skipped: parity needs $model and .cache/notes/cwe-1000.csv (pipelines/fetch_quickstart.py --notes 1000)" >&2
fi
if [ -n "$peers" ]; then
    peer ceiling.json ceiling --device "$torch_device" --dtype $dtype
fi
for shape in $shapes; do
    mkdir "$work/$shape"
    what="--shape $shape"
    if [ "$shape" = smollm2 ]; then what="--model $model"; fi
    step "$shape/ours.json" "$bench" speed "$work/$shape" $what --device "$device" --arithmetic "$arithmetic" --budgets "$budgets" \
        --count "$count"
    if [ -n "$peers" ]; then
        for one in transformers st; do
            peer "$shape/$one.json" $one "$work/$shape" --shape "$shape" --device "$torch_device" --dtype $dtype --batch "$batches"
        done
    fi
done
python3 benches/gpu_peers.py table "$work"
# A whole run: how much of the encode stage was the device busy?
if [ -f "$model" ] && [ -f .cache/notes/cwe-1000.csv ] && [ "$torch_device" = "$device" ]; then
    program=${PROGRAM:-$(built bin scalingnote --features "$features")}
    step run "$program" run pipelines/quickstart.toml --set publish.root="$work/root" --set "encode.devices=[\"$device\"]" \
        --set tower.arithmetic="$arithmetic" --set encode.token_budget=65536 \
        --set corpus.tables.0.uri=../.cache/notes/cwe-1000.csv
    if [ -f "$work/run" ]; then python3 benches/gpu_peers.py busy "$work/root"; fi
fi
python3 benches/steps.py said "$work"
