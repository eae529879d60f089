#!/usr/bin/env python3
"""What the way over a cluster costs: the same notes encoded in one process with two workers, and by one and two executors.

    cluster.py PROGRAM MODEL [--notes 2000] [--words 10] [--rounds 3]

PROGRAM is built with `--features cluster`, MODEL is a real tower. Two workers and two executors have a core each; one executor
has both. Every round runs each way once, in turn, on an empty root. Prints the seconds of encoding and of the whole run, the
median of the rounds, and their ratio to the run in one process. Needs nothing but Python.
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

PIPELINE = """version = 1
[corpus]
sql = "SELECT note_id, title FROM notes"
template = "{{{{ title }}}}"
[[corpus.tables]]
name = "notes"
uri = "notes.csv"
[tower]
model = "{model}"
pooling = "mean"
max_tokens = 128
arithmetic = "bf16"
[encode]
devices = ["cpu", "cpu"]
[index]
shards = 8
[gates]
recall_min = 0.0
[publish]
root = "root"
"""


def write(folder, args):
    rng = random.Random(5)
    words = ["".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=rng.randint(3, 7))) for _ in range(3000)]
    with open(folder / "notes.csv", "w") as out:
        out.write("note_id,title\n")
        for at in range(args.notes):
            out.write(f"{at},{' '.join(rng.choices(words, k=rng.randint(args.words // 2, args.words * 3 // 2)))} {at}\n")
    model = args.model if args.model.startswith("fake:") else str(pathlib.Path(args.model).resolve())
    (folder / "pipeline.toml").write_text(PIPELINE.format(model=model))


def run(program, folder, *extra):
    shutil.rmtree(folder / "root", ignore_errors=True)
    line = [program, "run", "pipeline.toml", "--json", "--progress", "none", *extra]
    done = subprocess.run(line, cwd=folder, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(line)} ended with {done.returncode}\n{done.stderr[-3000:]}")
    report = json.loads(done.stdout)
    encode = next(stage["actual"] for stage in report["stages"] if stage["stage"] == "encode")
    return encode["seconds"], report["seconds"], encode["tokens"]


def on_cluster(program, folder, executors):
    scheduler = subprocess.Popen(
        [program, "cluster", "scheduler", "--bind", "127.0.0.1:0"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    children = [scheduler]
    try:
        address = scheduler.stdout.readline().split("df://")[1].strip()
        threads = str(2 // executors)
        line = [program, "cluster", "executor", "--scheduler", address, "--device", "cpu", "--threads", threads, "--quiet"]
        children += [subprocess.Popen(line, cwd=folder, stderr=subprocess.DEVNULL) for _ in range(executors)]
        return run(program, folder, "--cluster", f"df://{address}")
    finally:
        for child in children:
            child.kill()
            child.wait()


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
    seconds = {name: [] for name in ways}
    with tempfile.TemporaryDirectory(prefix="scalingnote-cluster-") as name:
        folder = pathlib.Path(name)
        write(folder, args)
        for _ in range(args.rounds):
            for way, go in ways.items():
                seconds[way].append(go(folder))
    medians = {way: [statistics.median(column) for column in zip(*rounds)] for way, rounds in seconds.items()}
    base = medians["one process, two workers"]
    print(f"{args.notes:,} notes, {base[2]:,.0f} tokens, {args.rounds} rounds\n")
    print("| | encode | to one process | tokens/s | whole run | to one process |")
    print("|---|---|---|---|---|---|")
    for way, (encode, whole, tokens) in medians.items():
        print(
            f"| {way} | {encode:.1f} s | {encode / base[0] - 1:+.1%} | {tokens / encode:,.0f} "
            f"| {whole:.1f} s | {whole / base[1] - 1:+.1%} |"
        )


if __name__ == "__main__":
    main()
