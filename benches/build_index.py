"""Index building beside usearch and hnswlib, one thread each, in turns: a table for each FOLDER.

usage: build_index.py run PROGRAM FOLDER... [--rounds N] [--rows N]     PROGRAM is the bench build_index
       build_index.py peer usearch-i8|hnswlib-f32 FOLDER [--rows N]     one JSON object, as build_index.rs prints them

FOLDER holds base.fvecs, query.fvecs and groundtruth.ivecs. Every turn is a process of its own. Connectivity 16, expansion 128
while building, rows in the order of hashed keys. usearch is given i8 codes with all 127 levels, so that its own cast costs
neither its time nor its recall. Ours are insertions alone, and whole builds from embeddings to a confirmed file, which
is what the ratios are of. Seconds are the processor's. Needs numpy, usearch and hnswlib.
"""

import json
import os
import statistics
import subprocess
import sys
import time

import runs
from index_peers import THREADS, load, recall

PEERS = ["usearch-i8", "hnswlib-f32"]
EXPANSIONS = [32, 64, 128, 256]


def peer(name, folder, rows):
    import numpy as np

    base, keys, queries, truth = load(folder, rows)
    if name == "usearch-i8":
        from usearch.index import Index

        def codes(x):
            return np.rint(x * 127 / np.abs(x).max(axis=1, keepdims=True)).astype(np.int8)

        base, queries = codes(base), codes(queries)
        index = Index(ndim=base.shape[1], metric="cos", dtype="i8", connectivity=16, expansion_add=128)
        begun = time.process_time()
        index.add(keys, base, threads=1)
        seconds = time.process_time() - begun

        def search(expansion):
            index.expansion_search = expansion
            return index.search(queries, 10, threads=1).keys
    else:
        import hnswlib

        index = hnswlib.Index(space="ip", dim=base.shape[1])
        index.init_index(max_elements=len(base), M=16, ef_construction=128)
        begun = time.process_time()
        index.add_items(base, keys, num_threads=1)
        seconds = time.process_time() - begun

        def search(expansion):
            index.set_ef(expansion)
            return index.knn_query(queries, k=10, num_threads=1)[0]

    system, kind = name.split("-")
    recalls = {str(expansion): recall(search(expansion), truth) for expansion in EXPANSIONS} if rows is None else {}
    print(json.dumps({"system": system, "type": kind, "build": len(base) / seconds, "recall": recalls}))


def run(program, folder, rounds, rows):
    limit = ["--rows", str(rows)] if rows else []
    here = os.path.abspath(__file__)
    commands = [[program, folder, *limit]]
    commands += [[sys.executable, here, "peer", name, folder, *limit] for name in PEERS]
    turns = {}
    for _ in range(rounds):
        for command in commands:
            line = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
            turns.setdefault(f"{line['system']} {line['type']}", []).append(line)
    return turns


def table(folder, turns):
    ours = next(iter(turns.values()))
    print(f"## {os.path.basename(os.path.normpath(folder))}\n\n{runs.provenance('make bench-index-build')}\n")
    print("| index | vectors/s | ratio | " + " | ".join(f"recall@10 ef {e}" for e in EXPANSIONS) + " |")
    print("|---" * (3 + len(EXPANSIONS)) + "|")
    for name, lines in turns.items():
        ratio = statistics.median(own["build"] / line["build"] for own, line in zip(ours, lines))
        recalls = [f"{lines[0]['recall'][str(e)]:.4f}" if lines[0]["recall"] else "-" for e in EXPANSIONS]
        rate = statistics.median(line["build"] for line in lines)
        print(f"| {name} | {rate:,.0f} | {ratio:.2f}x | " + " | ".join(recalls) + " |")
    insert = statistics.median(line["insert"] for line in ours)
    shares = {part: statistics.median(line["shares"][part] for line in ours) for part in ours[0]["shares"]}
    print(f"\nInsertions alone: {insert:,.0f} vectors/s. Of the build: " +
          ", ".join(f"{part} {share:.1%}" for part, share in shares.items()) +
          f". Repaired: {ours[0]['repaired']}. Memory: {ours[0]['peak'] / 2**20:,.0f} MiB, "
          f"{ours[0]['estimated'] / 2**20:,.0f} estimated.\n")


def option(options, name, default):
    return int(options[options.index(name) + 1]) if name in options else default


if __name__ == "__main__":
    command, first, *others = sys.argv[1:]
    rows = option(others, "--rows", None)
    for variable in THREADS:
        os.environ[variable] = "1"
    if command == "peer":
        peer(first, others[0], rows)
    else:
        end = next((at for at, other in enumerate(others) if other.startswith("--")), len(others))
        for folder in others[:end]:
            table(folder, run(first, folder, option(others, "--rounds", 3), rows))
