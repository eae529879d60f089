#!/usr/bin/env python3
"""Resident memory over one whole run of many short notes with a tiny tower: does anything grow with the corpus?

    memory.py PROGRAM [--notes 1000000] [--shards 16] [--model fake:64] [--every 0.5] [--keep DIR]

Writes the notes, runs the pipeline, and prints the program's anonymous resident memory (what it allocated; mapped
files and the page cache are left out) by stage: at its start, at its end and at its highest, then a curve. A run that takes
longer than STEP_SECONDS (3600) is cut, and what was seen of it printed (steps.py).
"""

import argparse
import pathlib
import shutil
import tempfile
import time

import runs
import steps


def resident(pid):
    """Anonymous and all resident bytes."""
    fields = dict(line.split(":", 1) for line in open(f"/proc/{pid}/status") if line.startswith(("RssAnon", "VmRSS")))
    return tuple(int(fields[name].split()[0]) * 1024 for name in ("RssAnon", "VmRSS"))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("program")
    parser.add_argument("--notes", type=int, default=1_000_000)
    parser.add_argument("--shards", type=int, default=16)
    parser.add_argument("--model", default="fake:64")
    parser.add_argument("--memory-limit-mib", type=int, default=256)
    parser.add_argument("--every", type=float, default=0.25)
    parser.add_argument("--keep", help="work here and leave everything behind")
    args = parser.parse_args()
    folder = pathlib.Path(args.keep or tempfile.mkdtemp(prefix="scalingnote-memory-")).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    try:
        runs.write_titles(folder, args.notes)
        model = args.model if args.model.startswith("fake:") else str(pathlib.Path(args.model).resolve())
        pipeline = runs.write_pipeline(
            folder, **runs.TITLES, notes=folder / "notes.csv", corpus={"memory_limit_mib": args.memory_limit_mib},
            tower={"model": model, "pooling": "mean"}, encode={"devices": ["cpu"]}, index={"shards": args.shards, **runs.LITTLE_EFFORT},
        )
        run(args, pipeline)
    finally:
        if not args.keep:
            shutil.rmtree(folder)


def run(args, pipeline):
    program = runs.Program([args.program, "run", str(pipeline)], steps.limit(3600))
    samples, cuts = [], []
    while program.process.poll() is None:
        try:
            samples.append((time.monotonic() - program.begun, program.stage, *resident(program.process.pid)))
        except (OSError, KeyError):
            break
        time.sleep(args.every)
    try:
        took = f"{program.wait():.0f} s"
    except steps.Cut as cut:
        took, cuts = str(cut), [("run", cut)]
    mib = 2**20
    print(runs.provenance())
    print(f"{args.notes:,} notes, {args.shards} shards, {args.model}: {took}")
    print(f"{'stage':16}{'seconds':>9}{'first':>9}{'last':>9}{'highest':>9}  MiB allocated and resident")
    for name in dict.fromkeys(sample[1] for sample in samples):
        part = [sample for sample in samples if sample[1] == name]
        seconds = part[-1][0] - part[0][0]
        print(f"{name:16}{seconds:9.1f}{part[0][2] / mib:9.0f}{part[-1][2] / mib:9.0f}{max(s[2] for s in part) / mib:9.0f}")
    print(f"highest with mapped files: {max(sample[3] for sample in samples) / mib:.0f} MiB")
    top = max(sample[2] for sample in samples)
    for at in range(0, len(samples), max(1, len(samples) // 40)):
        seconds, name, anonymous, _ = samples[at]
        print(f"{seconds:7.1f} s {anonymous / mib:7.0f} MiB {'#' * round(50 * anonymous / top):50} {name}")
    print(steps.said(cuts))


if __name__ == "__main__":
    main()
