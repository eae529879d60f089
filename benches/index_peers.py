"""Peers of `benches/index.rs`, and the table of both.

usage: index_peers.py measure PEER FOLDER [--rows N] [--order hash|file]   one JSON object, as index.rs prints them
       index_peers.py table DIR NAME                                  medians of NAME's rounds in DIR, with ratios
       index_peers.py chart DIR NAME FILE                             recall against queries/s, as an SVG

Each PEER is a process of its own: one that is cut (steps.py) takes no other with it.

One thread each, connectivity 16, expansion 128 while building. Rows are inserted in the order of hashed keys, as
index.rs reads them, or in that of the file. Peers answer all queries in one call of their batch interface, which
spares them Python's cost per query. Seconds are the processor's, as in index.rs.
"""

import json
import os
import pathlib
import statistics
import sys
import tempfile
import time

import runs
import steps

EXPANSIONS = [16, 32, 64, 80, 128, 192, 256]
PEERS = ["usearch-f32", "usearch-f16", "usearch-i8", "hnswlib-f32", "faiss-f32", "faiss-ivfpq", "faiss-rabitq"]
# What faiss keeps of a vector in an inverted list: four bits for every second dimension, or a bit for each. 80 candidates for ten
# hits are rescored from f16, as ours are.
CODES = {"ivfpq": "PQ{half}x4fs", "rabitq": "RaBitQfs"}
THREADS = ["OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"]


def texmex(path, dtype):
    import numpy as np

    raw = np.fromfile(path, dtype="<i4")
    return raw.reshape(-1, raw[0] + 1)[:, 1:].copy().view(dtype)


def load(folder, rows, order="hash"):
    """The first `rows` vectors in the order of their keys, these, the queries, and per query the ten nearest."""
    import numpy as np

    base = texmex(os.path.join(folder, "base.fvecs"), "<f4")[:rows]
    queries = texmex(os.path.join(folder, "query.fvecs"), "<f4")
    truth = texmex(os.path.join(folder, "groundtruth.ivecs"), "<i4")[:, :10]
    keys = hashed(len(base)) if order == "hash" else np.arange(len(base))
    return np.ascontiguousarray(base[keys]), keys.astype(np.uint64), queries, truth


def recall(found, truth):
    return sum(len(set(map(int, row)) & set(map(int, want))) for row, want in zip(found, truth)) / truth.size


def curve(search, set_expansion, truth, budget):
    points = []
    for expansion in EXPANSIONS:
        set_expansion(expansion)
        best = float("inf")
        for _ in range(3):
            begun = time.process_time()
            found = search()
            best = min(best, time.process_time() - begun)
            # Where three turns of the whole curve do not fit, one has to do.
            if 3 * best * sum(EXPANSIONS) / expansion > budget.left():
                break
        points.append([expansion, recall(found, truth), len(truth) / best])
    return points


def hashed(rows):
    """Row numbers in the order of their SplitMix64 hashes."""
    import numpy as np

    with np.errstate(over="ignore"):
        x = (np.arange(rows, dtype=np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return np.argsort(x ^ (x >> np.uint64(31)), kind="stable")


def measure(peer, folder, rows, order):
    import numpy as np

    base, keys, queries, truth = load(folder, rows, order)
    width = base.shape[1]
    (system, kind), budget = peer.split("-"), steps.Budget(1800)

    def report(seconds, save, search, set_expansion, sidecar=0):
        with tempfile.TemporaryDirectory() as temporary:
            path = os.path.join(temporary, "index")
            save(path)
            size = os.path.getsize(path)
        line = {"system": system, "type": kind, "build": len(base) / seconds, "bytes": size, "sidecar": sidecar}
        line["curve"] = curve(search, set_expansion, truth, budget)
        print(json.dumps(line), flush=True)

    if system == "usearch":
        from usearch.index import Index

        index = Index(ndim=width, metric="ip" if kind != "i8" else "cos", dtype=kind, connectivity=16,
                      expansion_add=128, expansion_search=64)
        begun = time.process_time()
        index.add(keys, base, threads=1)
        report(time.process_time() - begun, index.save, lambda: index.search(queries, 10, threads=1).keys,
               lambda expansion: setattr(index, "expansion_search", expansion))
    elif system == "hnswlib":
        import hnswlib

        index = hnswlib.Index(space="ip", dim=width)
        index.init_index(max_elements=len(base), M=16, ef_construction=128)
        index.set_num_threads(1)
        begun = time.process_time()
        index.add_items(base, keys, num_threads=1)
        report(time.process_time() - begun, index.save_index,
               lambda: index.knn_query(queries, k=10, num_threads=1)[0], index.set_ef)
    elif kind in CODES:
        import faiss

        faiss.omp_set_num_threads(1)
        # Four roots of the rows, as faiss advises, and as many lists looked at as a graph keeps candidates.
        lists = 1 << round(np.log2(4 * np.sqrt(len(base))))
        whole = faiss.index_factory(width, f"IVF{lists},{CODES[kind].format(half=width // 2)},Refine(SQfp16)",
                                    faiss.METRIC_INNER_PRODUCT)
        whole.k_factor = 8
        begun = time.process_time()
        whole.train(base)
        whole.add(base)
        seconds = time.process_time() - begun
        codes = faiss.extract_index_ivf(whole)
        report(seconds, lambda path: faiss.write_index(codes, path),
               lambda: keys[whole.search(queries, 10)[1]],
               lambda expansion: setattr(codes, "nprobe", expansion), 2 * base.size)
    else:
        import faiss

        faiss.omp_set_num_threads(1)
        graph = faiss.IndexHNSWFlat(width, 16, faiss.METRIC_INNER_PRODUCT)
        graph.hnsw.efConstruction = 128
        begun = time.process_time()
        graph.add(base)
        report(time.process_time() - begun, lambda path: faiss.write_index(graph, path),
               lambda: keys[graph.search(queries, 10)[1]],
               lambda expansion: setattr(graph.hnsw, "efSearch", expansion))


def rate_at(points, recall):
    """Queries per second where a curve reaches `recall`, interpolated; None if it never does."""
    best = None
    for (_, low, fast), (_, high, slow) in zip(points, points[1:]):
        if low <= recall <= high and high > low:
            share = (recall - low) / (high - low)
            best = max(best or 0, fast + share * (slow - fast))
    return best if best or points[0][1] < recall else points[0][2]


def median(values, form):
    """The median with the least and the greatest; `-` where a round has none."""
    if not values or None in values:
        return "-"
    middle = form(statistics.median(values))
    return middle if len(values) == 1 else f"{middle} ({form(min(values))}-{form(max(values))})"


def least_ratio(ours, theirs, from_recall=0.0):
    """The least of our queries/s to theirs at equal recall, over the points of both curves, and that recall."""
    points = {point[1] for point in ours + theirs if point[1] >= from_recall}
    ratios = [(rate_at(ours, recall) or 0, rate_at(theirs, recall), recall) for recall in points]
    ratios = [(mine / other, recall) for mine, other, recall in ratios if other and mine]
    return min(ratios, default=(float("nan"), float("nan")))


def middle_curve(lines):
    """One curve of the medians of several rounds: recall does not vary, queries/s do."""
    return [[point[0], point[1], statistics.median(line["curve"][at][2] for line in lines)]
            for at, point in enumerate(lines[0]["curve"])]


def measured(folder, name):
    """The lines of all rounds by system and type."""
    rounds = {}
    for who in ["ours", *PEERS]:
        for path in sorted(pathlib.Path(folder).glob(f"{name}.{who}.*.json")):
            for line in map(json.loads, path.read_text().splitlines()):
                rounds.setdefault((line["system"], line["type"]), []).append(line)
    return rounds


COLOURS = ["#0b62a4", "#d9534f", "#3a923a", "#8a5ab8", "#b8860b", "#555555", "#17a2b8"]


def chart(folder, name, file):
    """One line for every index, from recall 0.85 up; queries/s on a logarithmic axis."""
    import math

    low, width, height, left, top = 0.85, 760, 380, 70, 30
    curves = {f"{system} {kind}": [point for point in middle_curve(lines) if point[1] >= low]
              for (system, kind), lines in measured(folder, name).items()}
    rates = [point[2] for points in curves.values() for point in points]
    bottom, ceiling = math.floor(2 * math.log10(min(rates))) / 2, math.ceil(2 * math.log10(max(rates))) / 2

    def place(recall, rate):
        x = left + (recall - low) / (1 - low) * width
        return f"{x:.1f},{top + (ceiling - math.log10(rate)) / (ceiling - bottom) * height:.1f}"

    parts = [f'<text x="{left}" y="18" font-size="13">{name}: queries/s on one thread against recall@10</text>']
    for step in range(16):
        recall = low + step / 100
        x = left + step / 100 / (1 - low) * width
        parts.append(f'<path d="M{x:.1f} {top}v{height}" stroke="#eee"/>'
                     f'<text x="{x:.1f}" y="{top + height + 16}" text-anchor="middle">{recall:.2f}</text>')
    for power in range(math.ceil(2 * bottom), math.floor(2 * ceiling) + 1):
        rate = 10 ** (power / 2)
        y = place(low, rate).split(",")[1]
        parts.append(f'<path d="M{left} {y}h{width}" stroke="#eee"/>'
                     f'<text x="{left - 6}" y="{y}" text-anchor="end">{rate:,.0f}</text>')
    for number, (label, points) in enumerate(curves.items()):
        colour = COLOURS[number % len(COLOURS)]
        line = " ".join(place(recall, rate) for _, recall, rate in points)
        parts.append(f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="2"/>'
                     f'<text x="{left + 14}" y="{top + height - 14 * (number + 1)}" fill="{colour}">{label}</text>')
    pathlib.Path(file).write_text(
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {left + width + 20} {top + height + 30}" '
        'font-family="sans-serif" font-size="11">'
        f'<rect width="100%" height="100%" fill="#fff"/>{"".join(parts)}</svg>\n')


def table(folder, name):
    rounds = measured(folder, name)
    count, tenth, share = "{:,.0f}".format, "{:.1f}".format, "{:.2f}x".format
    ours = rounds.get(("scalingnote", "i8+rescore"), [])
    turns = max(map(len, rounds.values()), default=0)
    print(runs.provenance(f"ROUNDS={turns} benches/index.sh") + "\n")
    print("| index | vectors/s | ratio | recall@10 ef 64 | queries/s ef 64 | queries/s at recall 0.92 | at 0.97 | "
          "MB | of f32 | open ms |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    full = next((lines[0]["bytes"] for (_, kind), lines in rounds.items() if kind == "f32"), None)
    for (system, kind), lines in rounds.items():
        at_64 = [next(point for point in line["curve"] if point[0] == 64) for line in lines]
        rates = [[rate_at(line["curve"], recall) for line in lines] for recall in (0.92, 0.97)]
        ratios = [mine["build"] / line["build"] for mine, line in zip(ours, lines)]
        size = f"{lines[0]['bytes'] / 1e6:.1f}"
        size += f" + {lines[0]['sidecar'] / 1e6:.1f}" if lines[0]["sidecar"] else ""
        cells = [f"{system} {kind}", median([line["build"] for line in lines], count), median(ratios, share),
                 f"{at_64[0][1]:.4f}", median([point[2] for point in at_64], count),
                 *(median(rate, count) for rate in rates), size,
                 f"{lines[0]['bytes'] / full:.1%}" if full else "-",
                 median([line["open"] for line in lines if "open" in line], tenth)]
        print("| " + " | ".join(cells) + " |")
    for step, what in steps.cuts(folder):
        if step.startswith(f"{name}."):
            print(f"| {step.removeprefix(f'{name}.').split('.')[0]} | {what} |" + " |" * 8)
    print("\nMedians of the rounds, least and greatest in brackets. ratio: vectors/s of scalingnote i8 (quantised, saved, "
          "audited, recall measured) to this row's, round by round.")
    for (system, kind), lines in rounds.items():
        if all(line.get("heap") for line in lines):
            heap = statistics.median(line["heap"] for line in lines)
            print(f"{system} {kind}: opening allocates {heap / 1e6:.1f} MB beside the mapped file")
    for (system, kind), lines in rounds.items():
        if ours and kind in ("f32", "f16"):
            ratio, recall = least_ratio(middle_curve(ours), middle_curve(lines))
            print(f"scalingnote i8+rescore to {system} {kind}: at least {ratio:.2f}x the queries/s at equal recall "
                  f"(there {recall:.4f})")


if __name__ == "__main__":
    command, first, second, *options = sys.argv[1:]
    if command == "table":
        table(first, second)
    elif command == "chart":
        chart(first, second, options[0])
    else:
        for variable in THREADS:
            os.environ[variable] = "1"
        rows = int(options[options.index("--rows") + 1]) if "--rows" in options else None
        order = options[options.index("--order") + 1] if "--order" in options else "hash"
        measure(first, second, rows, order)
