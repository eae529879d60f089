#!/bin/sh
# Index building beside usearch and hnswlib: a table for each set, and two shards on two cores.
#
#   benches/build_index.sh [FOLDER with base.fvecs, query.fvecs, groundtruth.ivecs]...
#
# Without FOLDER: GloVe in DATA, and what benches/index.sh has made of the texts in DATA (.cache/embeddings-384d-100k).
# DATA, CORE, PEERS, ROUNDS as in benches/index.sh    SHARDS   1 measures two shards, too, which needs a quiet machine
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
peers_have 'usearch, hnswlib, numpy' 'usearch==2.26.*' hnswlib numpy
bench=$(built bench build_index)
if [ $# = 0 ]; then
    set -- "$data/glove-100d-80k"
    if [ -d .cache/embeddings-384d-100k ]; then set -- "$@" .cache/embeddings-384d-100k; fi
fi
pin=
if command -v taskset >/dev/null; then
    pin="taskset -c ${CORE:-0}"
fi
$pin "$python" benches/build_index.py run "$bench" "$@" --rounds "${ROUNDS:-3}"
if [ "${SHARDS:-0}" = 1 ]; then
    for folder in "$@"; do "$bench" "$folder" --shards; done
fi
