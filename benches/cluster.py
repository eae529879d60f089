#!/usr/bin/env python3
"""What the way over a cluster costs: the same notes encoded in one process with two workers, and by one and two executors.

    cluster.py PROGRAM MODEL [--notes 2000] [--words 10] [--rounds 3]

PROGRAM is built with `--features cluster`, MODEL is a real tower. Two workers and two executors have a core each; one executor
has both. Every round runs each way once, in turn, on an empty root. Prints the seconds of encoding and of the whole run, the
median of the rounds, and their ratio to the run in one process. A way that takes longer than STEP_SECONDS (600) is cut and
not tried again (steps.py). Needs nothing but Python.
"""

import argparse
import json
import pathlib
import random
import shutil
import statistics
import subprocess
import sys
import tempfile

import runs
import steps


def write(folder, args):
    rng = random.Random(5)
    words = runs.words(rng, 3000, longest=7)
    with open(folder / "notes.csv", "w") as out:
        out.write("note_id,title\n")
        for at in range(args.notes):
            out.write(f"{at},{' '.join(rng.choices(words, k=rng.randint(args.words // 2, args.words * 3 // 2)))} {at}\n")
    model = args.model if args.model.startswith("fake:") else str(pathlib.Path(args.model).resolve())
    runs.write_pipeline(
        folder, **{**runs.TITLES, "stored": []}, notes=folder / "notes.csv", encode={"devices": ["cpu", "cpu"]}, index={"shards": 8},
        tower={"model": model, "pooling": "mean", "max_tokens": 128, "arithmetic": "bf16"},
    )


def run(program, folder, *extra):
    shutil.rmtree(folder / "root", ignore_errors=True)
    line = [program, "run", "pipeline.toml", "--json", "--progress", "none", *extra]
    with open(folder / "out", "w+") as out, open(folder / "err", "w+") as err:
        code = steps.Step(line, steps.limit(), cwd=folder, stdout=out, stderr=err).wait()
    if code:
        sys.exit(f"{' '.join(line)} ended with {code}\n{(folder / 'err').read_text()[-3000:]}")
    report = json.loads((folder / "out").read_text())
    encode = next(stage["actual"] for stage in report["stages"] if stage["stage"] == "encode")
    return encode["seconds"], report["seconds"], encode["tokens"]


def on_cluster(program, folder, executors):
    # Twice: the run beside it is to be cut first.
    seconds = steps.limit() and 2 * steps.limit()
    line = [program, "cluster", "scheduler", "--bind", "127.0.0.1:0"]
    scheduler = steps.Step(line, seconds, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    children = [scheduler]
    try:
        said = scheduler.process.stdout.readline()
        if scheduler.over:
            raise steps.Cut(seconds)
        address = said.split("df://")[1].strip()
        threads = str(2 // executors)
        line = [program, "cluster", "executor", "--scheduler", address, "--device", "cpu", "--threads", threads, "--quiet"]
        children += [steps.Step(line, None, cwd=folder, stderr=subprocess.DEVNULL) for _ in range(executors)]
        return run(program, folder, "--cluster", f"df://{address}")
    finally:
        for child in children:
            child.close()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("program")
    parser.add_argument("model")
    parser.add_argument("--notes", type=int, default=2000)
    parser.add_argument("--words", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    program = str(pathlib.Path(args.program).resolve())
    ways = {
        "one process, two workers": lambda folder: run(program, folder),
        "one executor": lambda folder: on_cluster(program, folder, 1),
        "two executors": lambda folder: on_cluster(program, folder, 2),
    }
    seconds, cuts = {name: [] for name in ways}, {}
    with tempfile.TemporaryDirectory(prefix="scalingnote-cluster-") as name:
        folder = pathlib.Path(name)
        write(folder, args)
        for _ in range(args.rounds):
            for way in (way for way in ways if way not in cuts):
                try:
                    seconds[way].append(ways[way](folder))
                except steps.Cut as cut:
                    cuts[way] = cut
    medians = {way: [statistics.median(column) for column in zip(*rounds)] for way, rounds in seconds.items() if rounds}
    # Without a run in one process there are no ratios.
    base = medians.get("one process, two workers", [float("nan")] * 3)
    print(f"{args.notes:,} notes, {base[2]:,.0f} tokens, {args.rounds} rounds\n")
    print("| | encode | to one process | tokens/s | whole run | to one process |")
    print("|---|---|---|---|---|---|")
    for way, (encode, whole, tokens) in medians.items():
        print(
            f"| {way} | {encode:.1f} s | {encode / base[0] - 1:+.1%} | {tokens / encode:,.0f} "
            f"| {whole:.1f} s | {whole / base[1] - 1:+.1%} |"
        )
    for way, cut in cuts.items():
        print(f"| {way} | {cut} |" + " |" * 4)
    print("\n" + steps.said(cuts.items()))


if __name__ == "__main__":
    main()
