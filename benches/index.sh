#!/bin/sh
# Our index shards beside usearch, hnswlib and faiss at equal parameters, one thread each, in turns: a table per set, and
# one of what each of our element types keeps in memory.
#
#   benches/index.sh [FOLDER with base.fvecs, query.fvecs, groundtruth.ivecs]...
#
# Without FOLDER: GloVe in DATA, and embeddings of the texts in DATA (benches/embeddings.py; kept in .cache).
# DATA     retrieval sets and GloVe (../shared/data)    ROUNDS   turns of each (3); medians count
# CORE     the core that all are pinned to (0)          PEERS    a Python environment, made where missing (.cache/peers-index)
# SHARDS   1 measures two shards on two cores, too, which needs a quiet machine
# SYSTEMS  the peers that are measured (all)              ONLY     the one type of ours (all)
# CHART    a folder for the curves as SVG (none)
# STEP_SECONDS  what each step may take (1800), benches/steps.py
set -eu
cd "$(dirname "$0")/.."
data=${DATA:-../shared/data}
peers=${PEERS:-.cache/peers-index}
python=$peers/bin/python
if [ $# = 0 ] && [ ! -d "$data/glove-100d-80k" ]; then
    echo "skipped: no $data/glove-100d-80k"
    exit 0
fi
if ! "$python" -c 'import usearch, hnswlib, faiss, numpy, pyarrow' 2>/dev/null; then
    echo "installing the peers into $peers" >&2
    python3 -m venv "$peers"
    "$peers/bin/pip" install --quiet 'usearch==2.26.*' hnswlib faiss-cpu numpy pyarrow
fi
cargo build --quiet --release --bench index --bench resident --bin scalingnote
built() { # the bench of a name
    cargo build --quiet --release --bench "$1" --message-format json |
        sed -n 's/.*"executable":"\([^"]*'"$1"'-[^"]*\)".*/\1/p'
}
bench=$(built index)
resident=$(built resident)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
STEP_SECONDS=${STEP_SECONDS:-1800}
export STEP_SECONDS
step() { "$python" benches/steps.py run "$work" "$@"; } # a name and a command
if [ $# = 0 ]; then
    program=$(cargo build --quiet --release --bin scalingnote --message-format json |
        sed -n 's/.*"executable":"\([^"]*scalingnote\)".*/\1/p')
    step embeddings "$python" benches/embeddings.py "$program" --data "$data" --cache .cache
    set -- "$data/glove-100d-80k"
    if [ -f "$work/embeddings" ]; then set -- "$@" .cache/embeddings-384d-100k; fi
fi
pin=
if command -v taskset >/dev/null; then
    pin="taskset -c ${CORE:-0}"
fi
for folder in "$@"; do
    name=$(basename "$folder")
    for round in $(seq "${ROUNDS:-3}"); do
        step "$name.ours.$round.json" $pin "$bench" "$folder" ${ONLY:+--only "$ONLY"}
        for peer in ${SYSTEMS:-usearch-f32 usearch-f16 usearch-i8 hnswlib-f32 faiss-f32}; do
            step "$name.$peer.$round.json" $pin "$python" benches/index_peers.py measure "$peer" "$folder"
        done
    done
    echo "## $name"
    "$python" benches/index_peers.py table "$work" "$name"
    if [ -n "${CHART:-}" ]; then "$python" benches/index_peers.py chart "$work" "$name" "$CHART/index-$name.svg"; fi
    step "$name.resident" $pin "$resident" "$folder"
    if [ -f "$work/$name.resident" ]; then cat "$work/$name.resident"; fi
    if [ -n "${ONLY:-}" ]; then continue; fi
    step "$name.orders" $pin "$bench" "$folder" --orders
    if [ -f "$work/$name.orders" ]; then cat "$work/$name.orders"; fi
    if [ "${SHARDS:-0}" = 1 ]; then
        step "$name.shards" "$bench" "$folder" --shards
        if [ -f "$work/$name.shards" ]; then cat "$work/$name.shards"; fi
    fi
done
"$python" benches/steps.py said "$work"
