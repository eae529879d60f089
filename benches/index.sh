#!/bin/sh
# One table: our index shards beside usearch, hnswlib and faiss at equal parameters, one thread each, in turns.
#
#   benches/index.sh [FOLDER with base.fvecs, query.fvecs, groundtruth.ivecs]
#
# ROUNDS   turns of each (2); the best counts    PEERS   a Python environment, made where missing (.cache/peers-index)
set -eu
cd "$(dirname "$0")/.."
folder=${1:-../shared/data/glove-100d-80k}
peers=${PEERS:-.cache/peers-index}
python=$peers/bin/python
if [ ! -d "$folder" ]; then
    echo "skipped: no $folder"
    exit 0
fi
if ! "$python" -c 'import usearch, hnswlib, faiss, numpy' 2>/dev/null; then
    echo "installing the peers into $peers" >&2
    python3 -m venv "$peers"
    "$peers/bin/pip" install --quiet 'usearch==2.26.*' hnswlib faiss-cpu numpy
fi
cargo build --quiet --release --bench index
bench=$(cargo build --quiet --release --bench index --message-format json |
    sed -n 's/.*"executable":"\([^"]*index-[^"]*\)".*/\1/p')
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
for round in $(seq "${ROUNDS:-2}"); do
    "$bench" "$folder" > "$work/ours.$round"
    "$python" benches/index_peers.py measure "$folder" > "$work/peers.$round"
done
"$python" benches/index_peers.py table "$work"/ours.* "$work"/peers.*
"$bench" "$folder" --shards 2> "$work/shards.log"
