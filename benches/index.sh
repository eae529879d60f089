#!/bin/sh
# Our index shards beside usearch, hnswlib and faiss at equal parameters, one thread each, in turns: a table per set (curves), one
# of what each of our element types keeps in memory (resident), one of what other orders of slots and huge pages would bring
# (slots), and two shards on two cores (shards), which needs a quiet machine.
#
#   benches/index.sh [FOLDER with base.fvecs, query.fvecs, groundtruth.ivecs]...
#
# Without FOLDER: GloVe in DATA, and embeddings of the texts in DATA (benches/embeddings.py; kept in .cache).
# DATA     retrieval sets and GloVe (../shared/data)    ROUNDS   turns of each (3); medians count
# CORE     the core that all are pinned to (0)          PEERS    a Python environment, made where missing (.cache/peers-index)
# PARTS    what is measured (curves resident slots)
# SYSTEMS  the peers that are measured (all)              ONLY     the one type of ours (all)
# CHART    a folder for the curves as SVG (none)          NOTES    texts that MiniLM embeds (100000), MPNet a fifth
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
. benches/common.sh
peers_have 'usearch, hnswlib, faiss, numpy, pyarrow' 'usearch==2.26.*' hnswlib faiss-cpu numpy pyarrow
cargo build --quiet --release --bench index --bench resident --bench slots --bin scalingnote
bench=$(built bench index)
resident=$(built bench resident)
slots=$(built bench slots)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
STEP_SECONDS=${STEP_SECONDS:-1800}
export STEP_SECONDS
step() { "$python" benches/steps.py run "$work" "$@"; } # a name and a command
if [ $# = 0 ]; then
    program=$(built bin scalingnote)
    notes=${NOTES:-100000}
    set -- "$data/glove-100d-80k"
    for set in "minilm 384 $notes" "mpnet 768 $((notes / 5))"; do
        read -r model width count <<END
$set
END
        step "embeddings-$model" "$python" benches/embeddings.py "$program" --data "$data" --cache .cache --model "$model" --notes "$count"
        if [ -f "$work/embeddings-$model" ]; then set -- "$@" ".cache/embeddings-${width}d-$((count / 1000))k"; fi
    done
fi
pin=
if command -v taskset >/dev/null; then
    pin="taskset -c ${CORE:-0}"
fi
wants() { # a part
    case " ${PARTS:-curves resident slots} " in *" $1 "*) ;; *) return 1 ;; esac
}
for folder in "$@"; do
    name=$(basename "$folder")
    if wants curves; then
        for round in $(seq "${ROUNDS:-3}"); do
            step "$name.ours.$round.json" $pin "$bench" "$folder" ${ONLY:+--only "$ONLY"}
            for peer in ${SYSTEMS:-usearch-f32 usearch-f16 usearch-i8 hnswlib-f32 faiss-f32 faiss-ivfpq faiss-rabitq}; do
                step "$name.$peer.$round.json" $pin "$python" benches/index_peers.py measure "$peer" "$folder"
            done
        done
        echo "## $name"
        "$python" benches/index_peers.py table "$work" "$name"
        if [ -n "${CHART:-}" ]; then "$python" benches/index_peers.py chart "$work" "$name" "$CHART/index-$name.svg"; fi
    fi
    if wants resident; then step "$name.resident" $pin "$resident" "$folder"; fi
    if wants slots; then step "$name.slots" $pin "$slots" "$folder"; fi
    if wants shards; then step "$name.shards" "$bench" "$folder" --shards; fi
    for part in resident slots shards; do
        if [ -f "$work/$name.$part" ]; then cat "$work/$name.$part"; fi
    done
done
"$python" benches/steps.py said "$work"
