#!/usr/bin/env python3
"""How a run grows: what planning costs for each million notes, what is under the root for each shard, and what a lost GPU
costs, measured where two cores carry it and simulated for 100 million notes.

    scale.py PROGRAM [--notes 250000,1000000] [--second-day 250000] [--shards 64,256]
             [--simulate 100000000] [--gpus 100] [--tokens-per-second 50000] [--tokens 130]

1. `plan --brief` over generated notes of two sizes: seconds and memory (the difference is the price of a million notes), bytes
   prepared; then for one size a published first day and the plan of a day on which 1% changed.
2. Whole runs over few notes in many shards: objects, plan and manifest for each shard, and the seconds of one listing.
3. Encoding that many notes on that many GPUs, task by task: notes fall into shards by chance as hashing makes them fall, executors
   take the next task when they are free, parts are as in the program; once without a fault, once with a GPU lost half-way.

A run that takes longer than STEP_SECONDS (3600) is cut, and with it what hangs on it (steps.py).
Prints Markdown; needs nothing but Python. The formulas that follow from it are in benches/README.md.
"""

import argparse
import heapq
import json
import math
import pathlib
import random
import shutil
import sys
import tempfile
import time

import steps

MIB = 1 << 20
PART_TOKENS = 5_000_000  # of an executor with a GPU
LOST_AFTER = 60.0  # seconds until an executor is known to be lost

PIPELINE = """version = 1
[corpus]
sql = "SELECT note_id, title FROM notes"
template = "{{{{ title }}}}"
stored_columns = ["title"]
# Small, so that what grows with the corpus is not hidden behind what the sort may take.
memory_limit_mib = 64
[[corpus.tables]]
name = "notes"
uri = "notes.csv"
[tower]
model = "fake:16"
pooling = "mean"
[index]
shards = {shards}
# Random words make a poor index whatever the effort; this bench is not about it.
connectivity = 8
expansion_add = 16
[gates]
recall_min = 0.0
[publish]
root = "root"
"""


def write_notes(folder, count, shards, changed=0):
    """Distinct texts of 4 to 12 words; the first `changed` of them others than before."""
    rng = random.Random(7)
    words = ["".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=rng.randint(3, 9))) for _ in range(5000)]
    with open(folder / "notes.csv", "w") as out:
        out.write("note_id,title\n")
        for at in range(count):
            edited = " edited" if at < changed else ""
            out.write(f"{at},{' '.join(rng.choices(words, k=rng.randint(4, 12)))} {at}{edited}\n")
    (folder / "pipeline.toml").write_text(PIPELINE.format(shards=shards))


def program(args, folder, *command):
    """Wall seconds, highest resident MiB, and what it printed."""
    started = time.monotonic()
    line = [str(pathlib.Path(args.program).resolve()), *command, "--progress", "none"]
    with open(folder / "out", "w+") as out, open(folder / "err", "w+") as err:
        step = steps.Step(line, steps.limit(3600), cwd=folder, stdout=out, stderr=err)
        code = step.wait()
        if code:
            err.seek(0)
            sys.exit(f"{' '.join(line)} ended with {code}\n{err.read()[-3000:]}")
        out.seek(0)
        return time.monotonic() - started, step.usage.ru_maxrss / 1024, out.read()


def files(folder):
    return {path.relative_to(folder).as_posix(): path.stat().st_size for path in folder.rglob("*") if path.is_file()}


def planning(args, folder):
    def planned(notes, before):
        seconds, memory, said = program(args, folder, "plan", "pipeline.toml", "--brief")
        new = {name: size for name, size in files(folder / "root").items() if name not in before}
        prepared = sum(size for name, size in new.items() if name.startswith("prepared/"))
        return (notes, seconds, memory, prepared), json.loads(said)

    def first(notes):
        write_notes(folder, notes, 16)
        row, plan = planned(notes, {})
        assert plan["encode_tasks"] == 16, plan
        return row

    def second(notes):
        write_notes(folder, notes, 16)
        program(args, folder, "run", "pipeline.toml")
        write_notes(folder, notes, 16, changed=notes // 100)
        return planned(notes, files(folder / "root"))[0]

    days = [(f"first day, {notes:,} notes", first, notes) for notes in args.notes]
    days.append((f"second day, {args.second_day:,} notes, 1% changed", second, args.second_day))
    rows, cuts = {}, []
    for name, day, notes in days:
        try:
            rows[name] = day(notes)
        except steps.Cut as cut:
            cuts.append((name, cut))
        shutil.rmtree(folder / "root", ignore_errors=True)
    print("## Planning\n")
    print("| | seconds | s for each million | highest MiB | prepared bytes for each note |")
    print("|---|---|---|---|---|")
    for name, (notes, seconds, memory, prepared) in rows.items():
        print(f"| {name} | {seconds:.1f} | {seconds / notes * 1e6:.1f} | {memory:.0f} | {prepared / notes:.0f} |")
    for name, cut in cuts:
        print(f"| {name} | {cut} | | | |")
    grown = [(notes, memory) for name, (notes, _, memory, _) in rows.items() if name.startswith("first")]
    if len(grown) > 1 and grown[-1][0] > grown[0][0]:
        (few, less), (many, more) = grown[0], grown[-1]
        print(f"\nMemory of a first day grows by {(more - less) / (many - few) * 1e6:.0f} MiB for each million notes.")
    return cuts


def metadata(args, folder):
    cuts = []
    print("\n## Objects, plan, manifest\n")
    print("| shards | objects | for each shard | plan.json | manifest | bytes of both for each shard | listing all |")
    print("|---|---|---|---|---|---|---|")
    for shards in args.shards:
        write_notes(folder, 20 * shards, shards)
        try:
            program(args, folder, "run", "pipeline.toml")
            found = files(folder / "root")
            seconds, _, _ = program(args, folder, "snapshot", "gc", "root", "--dry-run")
            plan = sum(size for name, size in found.items() if name.endswith("plan.json"))
            manifest = sum(size for name, size in found.items() if name.startswith("snapshots/"))
            print(
                f"| {shards} | {len(found):,} | {len(found) / shards:.1f} | {plan / 1024:.0f} KiB | {manifest / 1024:.0f} KiB "
                f"| {(plan + manifest) / shards:.0f} | {seconds:.2f} s |"
            )
        except steps.Cut as cut:
            cuts.append((f"{shards} shards", cut))
            print(f"| {shards} | {cut} | | | | | |")
        shutil.rmtree(folder / "root", ignore_errors=True)
    return cuts


def makespan(tasks, gpus, speed, lost_at=None):
    """Seconds until all tasks are done by whichever process is free, and tokens encoded twice. At `lost_at` one GPU is lost: its finished
    parts stay, the current part is encoded again, and its task waits until it is known to be lost."""
    free = [(0.0, gpu) for gpu in range(gpus)]
    heapq.heapify(free)
    queue = sorted(tasks, reverse=True)
    waiting, end, twice = [], 0.0, 0.0
    while queue or waiting:
        at, gpu = heapq.heappop(free)
        if waiting and waiting[0][0] <= at:
            tokens = heapq.heappop(waiting)[1]
        elif queue:
            tokens = queue.pop(0)
        else:
            heapq.heappush(free, (waiting[0][0], gpu))
            continue
        done = at + tokens / speed
        if gpu == 0 and lost_at is not None and done > lost_at:
            encoded = max(lost_at - at, 0.0) * speed
            kept = encoded // PART_TOKENS * PART_TOKENS
            twice += encoded - kept
            heapq.heappush(waiting, (lost_at + LOST_AFTER, tokens - kept))
            continue
        end = max(end, done)
        heapq.heappush(free, (done, gpu))
    return end, twice


def simulation(args):
    rng = random.Random(3)
    print(f"\n## {args.simulate:,} notes on {args.gpus} GPUs of {args.tokens_per_second:,} tokens/s, simulated\n")
    print("| shards for each GPU | encode | ideal | tail | with a GPU lost half-way | later by | encoded twice |")
    print("|---|---|---|---|---|---|---|")
    for each in (1, 2, 4, 8, 16):
        shards = each * args.gpus
        mean = args.simulate / shards
        # Hashing puts a binomial number of notes into each shard.
        tasks = [max(rng.gauss(mean, math.sqrt(mean)), 0) * args.tokens for _ in range(shards)]
        ideal = sum(tasks) / args.gpus / args.tokens_per_second
        fair, _ = makespan(tasks, args.gpus, args.tokens_per_second)
        # Just after half-way, in the middle of a part.
        lost_at = fair / 2 + 0.5 * PART_TOKENS / args.tokens_per_second
        lost, twice = makespan(tasks, args.gpus, args.tokens_per_second, lost_at)
        print(
            f"| {each} | {fair / 60:.1f} min | {ideal / 60:.1f} min | {fair / ideal - 1:.1%} | {lost / 60:.1f} min "
            f"| {(lost - fair) / 60:.1f} min | {twice / 1e6:.1f} M tokens |"
        )


def main():
    numbers = lambda text: [int(number) for number in text.split(",")]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("program")
    parser.add_argument("--notes", type=numbers, default=[250_000, 1_000_000])
    parser.add_argument("--second-day", type=int, default=250_000)
    parser.add_argument("--shards", type=numbers, default=[64, 256])
    parser.add_argument("--simulate", type=int, default=100_000_000)
    parser.add_argument("--gpus", type=int, default=100)
    parser.add_argument("--tokens-per-second", type=int, default=50_000)
    parser.add_argument("--tokens", type=int, default=130, help="of a note")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="scalingnote-scale-") as folder:
        cuts = planning(args, pathlib.Path(folder)) + metadata(args, pathlib.Path(folder))
    simulation(args)
    print("\n" + steps.said(cuts))


if __name__ == "__main__":
    main()
