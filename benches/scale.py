#!/usr/bin/env python3
"""How a run grows: what planning costs for each million notes, what is under the root for each shard, and what a lost GPU
costs, measured where two cores carry it and simulated for 100 million notes.

    scale.py PROGRAM [--notes 250000,1000000] [--second-day 250000] [--shards 64,256] [--shared 1000000]
             [--simulate 100000000] [--gpus 100] [--tokens-per-second 50000] [--tokens 130] [--only shares]

1. `plan --brief` over generated notes of two sizes: seconds and memory (the difference is the price of a million notes), bytes
   prepared; then for one size a published first day and the plan of a day on which 1% changed.
2. Whole runs over few notes in many shards: objects, plan and manifest for each shard, and the seconds of one listing.
3. Planning notes of 130 words in eight files: by one process on one core, by one on two, and by two workers of a core each, which
   read and gather shares of the corpus (`plan --shares`, `task --stage prepare`, `task --stage gather`, `plan --gathered`).
4. Encoding that many notes on that many GPUs, task by task: notes fall into shards by chance as hashing makes them fall, executors
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
import subprocess
import sys
import tempfile
import time

import runs
import steps

MIB = 1 << 20
PART_TOKENS = 5_000_000  # of an executor with a GPU
LOST_AFTER = 60.0  # seconds until an executor is known to be lost
TOWER = {"model": "fake:16", "pooling": "mean"}


def write_notes(folder, count, shards, changed=0):
    runs.write_titles(folder, count, changed)
    runs.write_pipeline(
        folder, **runs.TITLES, notes=folder / "notes.csv", tower=TOWER, index={"shards": shards, **runs.LITTLE_EFFORT},
        # Small, so that what grows with the corpus is not hidden behind what the sort may take.
        corpus={"memory_limit_mib": 64},
    )


def program(args, folder, *command, cores=None):
    """Wall seconds, highest resident MiB, and what it printed."""
    started = time.monotonic()
    line = [str(pathlib.Path(args.program).resolve()), *command, "--progress", "none"]
    if cores:
        line = ["taskset", "-c", cores, *line]
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


def write_shared(folder, count):
    """Eight files of notes of 130 words; one in a hundred is there twice, in another file."""
    rng = random.Random(7)
    words = runs.words(rng)
    # Texts of their own, made quickly: pieces of ten words.
    pieces = [" ".join(rng.choices(words, k=10)) for _ in range(5000)]
    (folder / "notes").mkdir()
    for file in range(8):
        with open(folder / "notes" / f"{file}.csv", "w") as out:
            out.write("note_id,title,body,updated_at\n")
            for at in range(file, count, 8):
                id = at - 1 if at % 100 == 1 else at
                out.write(f"{id},{' '.join(rng.choices(words, k=8))} {at},{' '.join(rng.choices(pieces, k=12))} {id},{file}\n")
    runs.write_pipeline(
        folder, version=2, sql="SELECT note_id, title, body, updated_at FROM notes", template="{{ title }}\n{{ body }}", stored=["title"],
        notes=folder / "notes", tower=TOWER, index={"shards": 16},
    )


def together(args, folder, commands):
    """Wall seconds of commands that run at once, each on a core of its own."""
    started = time.monotonic()
    program = str(pathlib.Path(args.program).resolve())
    lines = [["taskset", "-c", str(core), program, *line, "--progress", "none"] for core, line in enumerate(commands)]
    running = [steps.Step(line, steps.limit(3600), cwd=folder, stdout=subprocess.DEVNULL) for line in lines]
    codes = [step.wait() for step in running]
    assert not any(codes), codes
    return time.monotonic() - started, max(step.usage.ru_maxrss for step in running) / 1024


def shared(args, folder):
    write_shared(folder, args.shared)
    rows = []
    for cores in ("0", "0,1"):
        seconds, memory, _ = program(args, folder, "plan", "pipeline.toml", "--brief", cores=cores)
        rows.append((f"one process, cores {cores}", seconds, memory))
        shutil.rmtree(folder / "root", ignore_errors=True)
    for workers in (1, 2):
        seconds, memory, said = program(args, folder, "plan", "pipeline.toml", "--shares", cores="0")
        key = json.loads(said)["shares_key"]
        if workers == 1:
            rows.append(("`plan --shares`: looks over all files", seconds, memory))
        total = 0
        for stage in ("prepare", "gather"):
            line = ["task", "pipeline.toml", "--plan", key, "--stage", stage, "--share"]
            seconds, memory = together(args, folder, [[*line, f"{at}/{workers}"] for at in range(workers)])
            rows.append((f"`--stage {stage}`, workers of a core each: {workers}", seconds, memory))
            total += seconds
        rows.append((f"both stages, workers: {workers}", total, memory))
        seconds, memory, _ = program(args, folder, "plan", "pipeline.toml", "--brief", "--gathered", key, cores="0,1")
        if workers == 1:
            rows.append(("`plan --gathered`, cores 0,1", seconds, memory))
        shutil.rmtree(folder / "root", ignore_errors=True)
    shutil.rmtree(folder / "notes")
    print(f"\n## {args.shared:,} notes of 130 words in eight files\n")
    print("| | seconds | highest MiB of a process |")
    print("|---|---|---|")
    for name, seconds, memory in rows:
        print(f"| {name} | {seconds:.1f} | {memory:.0f} |")
    one, two = (seconds for name, seconds, _ in rows if name.startswith("both stages"))
    print(f"\nTwo workers are {one / two:.2f} times as fast as one, two cores of a process {rows[0][1] / rows[1][1]:.2f} times.")


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
    parser.add_argument("--shared", type=int, default=1_000_000)
    parser.add_argument("--only", choices=["shares"])
    parser.add_argument("--simulate", type=int, default=100_000_000)
    parser.add_argument("--gpus", type=int, default=100)
    parser.add_argument("--tokens-per-second", type=int, default=50_000)
    parser.add_argument("--tokens", type=int, default=130, help="of a note")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="scalingnote-scale-") as folder:
        folder = pathlib.Path(folder)
        if args.only:
            shared(args, folder)
            return
        cuts = planning(args, folder) + metadata(args, folder)
        try:
            shared(args, folder)
        except steps.Cut as cut:
            cuts.append(("shares", cut))
    simulation(args)
    print("\n" + steps.said(cuts))


if __name__ == "__main__":
    main()
