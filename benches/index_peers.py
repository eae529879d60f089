"""Peers of `benches/index.rs`, and the table of both.

usage: index_peers.py measure FOLDER [--rows N]   one JSON object per peer, as index.rs prints them
       index_peers.py table FILE...               the best of several rounds, with ratios

One thread each, connectivity 16, expansion 128 while building. Peers answer all queries in one call of
their batch interface, which spares them Python's cost per query. Seconds are the processor's, as in index.rs.
"""

import json
import os
import sys
import tempfile
import time

EXPANSIONS = [16, 32, 64, 80, 128, 192, 256]
THREADS = ["OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"]


def texmex(path, dtype):
    import numpy as np

    raw = np.fromfile(path, dtype="<i4")
    return raw.reshape(-1, raw[0] + 1)[:, 1:].copy().view(dtype)


def curve(search, set_expansion, truth):
    points = []
    for expansion in EXPANSIONS:
        set_expansion(expansion)
        best = float("inf")
        for _ in range(3):
            begun = time.process_time()
            found = search()
            best = min(best, time.process_time() - begun)
        hits = sum(len(set(map(int, row)) & set(map(int, want))) for row, want in zip(found, truth))
        points.append([expansion, hits / truth.size, len(truth) / best])
    return points


def measure(folder, rows):
    import faiss
    import hnswlib
    import numpy as np
    from usearch.index import Index

    base = texmex(os.path.join(folder, "base.fvecs"), "<f4")[:rows]
    queries = texmex(os.path.join(folder, "query.fvecs"), "<f4")
    truth = texmex(os.path.join(folder, "groundtruth.ivecs"), "<i4")[:, :10]
    keys = np.arange(len(base), dtype=np.uint64)
    width = base.shape[1]

    def report(system, kind, seconds, save, search, set_expansion):
        with tempfile.TemporaryDirectory() as temporary:
            path = os.path.join(temporary, "index")
            save(path)
            size = os.path.getsize(path)
        line = {"system": system, "type": kind, "build": len(base) / seconds, "bytes": size, "sidecar": 0}
        line["curve"] = curve(search, set_expansion, truth)
        print(json.dumps(line), flush=True)

    for kind in ["f32", "f16", "i8"]:
        index = Index(ndim=width, metric="ip" if kind != "i8" else "cos", dtype=kind, connectivity=16,
                      expansion_add=128, expansion_search=64)
        begun = time.process_time()
        index.add(keys, base, threads=1)
        seconds = time.process_time() - begun
        report("usearch", kind, seconds, index.save,
               lambda: index.search(queries, 10, threads=1).keys,
               lambda expansion: setattr(index, "expansion_search", expansion))

    index = hnswlib.Index(space="ip", dim=width)
    index.init_index(max_elements=len(base), M=16, ef_construction=128)
    index.set_num_threads(1)
    begun = time.process_time()
    index.add_items(base, keys, num_threads=1)
    seconds = time.process_time() - begun
    report("hnswlib", "f32", seconds, index.save_index,
           lambda: index.knn_query(queries, k=10, num_threads=1)[0], index.set_ef)

    faiss.omp_set_num_threads(1)
    graph = faiss.IndexHNSWFlat(width, 16, faiss.METRIC_INNER_PRODUCT)
    graph.hnsw.efConstruction = 128
    begun = time.process_time()
    graph.add(base)
    seconds = time.process_time() - begun
    report("faiss", "f32", seconds, lambda path: faiss.write_index(graph, path),
           lambda: graph.search(queries, 10)[1],
           lambda expansion: setattr(graph.hnsw, "efSearch", expansion))


def rate_at(points, recall):
    """Queries per second where a curve reaches `recall`, interpolated; None if it never does."""
    best = None
    for (_, low, fast), (_, high, slow) in zip(points, points[1:]):
        if low <= recall <= high and high > low:
            share = (recall - low) / (high - low)
            best = max(best or 0, fast + share * (slow - fast))
    return best if best or points[0][1] < recall else points[0][2]


def table(files):
    best = {}
    for name in files:
        with open(name) as lines:
            for line in map(json.loads, lines):
                key = (line["system"], line["type"])
                kept = best.setdefault(key, line)
                for field in ["build", "raw"]:
                    if line.get(field, 0) > kept.get(field, 0):
                        kept[field] = line[field]
                kept["open"] = min(kept.get("open", 1e9), line.get("open", 1e9))
                for at, point in enumerate(line["curve"]):
                    if point[2] > kept["curve"][at][2]:
                        kept["curve"][at] = point
    ours = best.get(("scalingnote", "i8+rescore"))
    print("| index | vectors/s | ratio | recall@10 ef 64 | queries/s ef 64 | queries/s at recall 0.92 | at 0.97 | MB | open ms |")
    print("|---|---|---|---|---|---|---|---|---|")
    for (system, kind), line in best.items():
        at_64 = next(point for point in line["curve"] if point[0] == 64)
        rates = [rate_at(line["curve"], recall) for recall in (0.92, 0.97)]
        rates = ["-" if rate is None else f"{rate:,.0f}" for rate in rates]
        ratio = f"{ours['build'] / line['build']:.2f}x" if ours else "-"
        size = line["bytes"] / 1e6
        size = f"{size:.1f} + {line['sidecar'] / 1e6:.1f}" if line["sidecar"] else f"{size:.1f}"
        opened = f"{line['open']:.1f}" if line["open"] < 1e9 else "-"
        print(f"| {system} {kind} | {line['build']:,.0f} | {ratio} | {at_64[1]:.4f} | {at_64[2]:,.0f} |"
              f" {rates[0]} | {rates[1]} | {size} | {opened} |")
    print("\nratio: vectors/s of scalingnote i8 (quantised, saved, audited, recall measured) to this row's.")
    for (system, kind), line in best.items():
        if line.get("raw"):
            print(f"{system} {kind}: usearch's insertions alone {line['raw']:,.0f} vectors/s, everything"
                  f" {line['build']:,.0f}: overhead {line['raw'] / line['build'] - 1:.1%}")


if __name__ == "__main__":
    command, *arguments = sys.argv[1:]
    if command == "table":
        table(arguments)
    else:
        for variable in THREADS:
            os.environ[variable] = "1"
        rows = int(arguments[arguments.index("--rows") + 1]) if "--rows" in arguments else None
        measure(arguments[0], rows)
