"""Measures a daily run: a full run over a generated corpus, a day on which 1% of the notes changed, a day without a change.

    python3 benches/daily.py PROGRAM [--notes 100000] [--dimensions 1024] [--tokens-per-second 50000] [--shards 8] [--days 1]
    python3 benches/daily.py PROGRAM --pipeline FILE.toml --corpus NOTES.csv --column NAME --change 4

The fake tower is paced at the given rate, which stands for a GPU; everything else is real. Bytes are those of all files that
appeared under the root, plans, receipts and reports included. With --pipeline the real tower of that file encodes the notes of
the CSV, and --change of them get another text in NAME. Prints a table in Markdown; needs nothing but Python.
A run that takes longer than STEP_SECONDS (3600) is cut, and with it those after it (steps.py).
"""

import argparse
import csv
import json
import pathlib
import random
import shutil
import tempfile

import runs
import steps


def note(rng, words, topics):
    """Some 130 tokens: words of two topics and common ones, in no order."""
    one, two = rng.randrange(topics), rng.randrange(topics)
    chosen = []
    for _ in range(130):
        of = rng.random()
        topic = one if of < 0.45 else two if of < 0.6 else None
        rank = int(rng.paretovariate(0.9)) % 400
        chosen.append(words[(topic * 389 + rank) % len(words)] if topic is not None else words[rank * 7 % len(words)])
    return " ".join(chosen)


def generated(folder, args):
    rng = random.Random(11)
    letters = "bcdfghklmnprstvz"
    words = ["".join(rng.choice(letters) + rng.choice("aeiou") for _ in range(rng.randint(1, 4))) for _ in range(40_000)]
    notes = [note(rng, words, 2_000) for _ in range(args.notes)]
    path = folder / "notes.jsonl"

    def write():
        with path.open("w") as out:
            for number, body in enumerate(notes):
                out.write(json.dumps({"id": number, "body": body, "likes": number % 97}) + "\n")

    def change():
        for number in rng.sample(range(args.notes), max(args.notes // 100, 1)):
            notes[number] = note(rng, words, 2_000)
        write()

    write()
    pipeline = runs.write_pipeline(
        folder,
        sql="select id as note_id, body, likes from notes", template="{{ body }}", stored=["likes"], notes=path,
        tower=runs.paced_tower(args.dimensions, args.tokens_per_second),
        encode={"part_tokens": 2_000_000, "token_budget": 16_384},
        index={"shards": args.shards}, recall_min=args.recall_min,
    )
    return pipeline, change, max(args.notes // 100, 1)


def given(folder, args):
    """A copy of the corpus file, some of whose notes change."""
    source = pathlib.Path(args.corpus)
    with source.open(newline="") as file:
        rows = list(csv.DictReader(file))
    rng = random.Random(11)

    def change():
        for row in rng.sample(rows, args.change):
            row[args.column] += " Revised."
        with source.open("w", newline="") as file:
            writer = csv.DictWriter(file, rows[0].keys())
            writer.writeheader()
            writer.writerows(rows)

    return pathlib.Path(args.pipeline), change, args.change


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program")
    parser.add_argument("--notes", type=int, default=100_000)
    parser.add_argument("--dimensions", type=int, default=1024)
    parser.add_argument("--tokens-per-second", type=int, default=50_000)
    parser.add_argument("--shards", type=int, default=8)
    parser.add_argument("--recall-min", type=float, default=0.9)
    parser.add_argument("--days", type=int, default=1)
    parser.add_argument("--pipeline")
    parser.add_argument("--corpus")
    parser.add_argument("--column", default="Name")
    parser.add_argument("--change", type=int, default=4)
    args = parser.parse_args()
    folder, results, cuts = pathlib.Path(tempfile.mkdtemp(prefix="scalingnote-daily-")), [], []
    try:
        program = str(pathlib.Path(args.program).resolve())
        pipeline, change, changed = (given if args.pipeline else generated)(folder, args)
        root = folder / "root"
        root.mkdir()
        for name in ["full run", *[f"{changed} notes changed"] * args.days, "nothing changed"]:
            if name.endswith("notes changed"):
                change()
            try:
                results.append((name, runs.run(program, pipeline, root, steps.limit(3600))))
            except steps.Cut as cut:
                cuts.append((name, cut))
                break
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    if results:
        tables(results, cuts)
    print("\n" + steps.said(cuts))


def tables(results, cuts):
    full = results[0][1]
    tokens = next(s["actual"]["tokens"] for s in full["report"]["stages"] if s["stage"] == "encode")
    print(runs.provenance() + "\n")
    print(f"{full['report']['corpus']['notes']} notes, {tokens} tokens, {full['report']['config']['dimensions']} dimensions, "
          f"{full['report']['config']['shards']} shards\n")
    print("| | texts encoded | vectors inserted | bytes written | of full | wall s | of full | CPU s | recall@10 |")
    print("|---|---|---|---|---|---|---|---|---|")
    for name, result in results:
        report = result["report"]
        encoded = next(s["actual"]["texts"] for s in report["stages"] if s["stage"] == "encode")
        recall = f"{report['recall']['mean']:.4f}" if report.get("recall") else "-"
        print(f"| {name} | {encoded:,} | {report['vectors_inserted']:,} | {result['bytes']:,} | "
              f"{100 * result['bytes'] / full['bytes']:.2f}% | {result['wall']:.1f} | {100 * result['wall'] / full['wall']:.1f}% | "
              f"{result['cpu']:.1f} | {recall} |")
    for name, cut in cuts:
        print(f"| {name} | {cut} |" + " |" * 7)
    kinds = list(full["kinds"])
    print("\n| bytes by kind | " + " | ".join(kinds) + " |\n|---|" + "---|" * len(kinds))
    for name, result in results:
        print(f"| {name} | " + " | ".join(f"{result['kinds'].get(kind, 0):,}" for kind in kinds) + " |")
    stages = list(full["stages"])
    print("\n| seconds by stage | " + " | ".join(stages) + " |\n|---|" + "---|" * len(stages))
    for name, result in results:
        print(f"| {name} | " + " | ".join(f"{result['stages'].get(stage, 0):.2f}" for stage in stages) + " |")


if __name__ == "__main__":
    main()
