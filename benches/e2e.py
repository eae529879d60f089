"""Measures whole runs over real texts: wall time by stage, what overlaps, and the same after 1% of the notes changed.

    python3 benches/e2e.py PROGRAM --data DIR [--only real|paced] [--svg FILE]
                           [--real-notes 2000] [--arithmetic int8] [--pipeline pipelines/quickstart.toml]
                           [--paced-notes 100000] [--tokens-per-second 50000] [--dimensions 1024] [--shards 8]

Twice two runs, each pair from an empty root: `real`, stackexchange and Debian notes through the document tower of
--pipeline (its [tower] section); `paced`, notes of every set of DIR (see texts.py) through the fake tower, which is
slowed down to --tokens-per-second, the rate of some GPU: what the rest of the program costs beside such a device.

Prints a table in Markdown and draws the stages over time; a run that takes longer than STEP_SECONDS (3600) is cut (steps.py). "device busy" is the share of the encode stage in which the
device encodes; the rest of that stage is what its reading, tokenising and writing did not overlap with.
"""

import argparse
import json
import pathlib
import random
import shutil
import tempfile
from xml.sax.saxutils import escape

import runs
import steps
import texts

REAL = [("stackexchange-mini", "notes"), ("debian-pairs", "corpus")]
STAGES = ["prepare", "encode", "build", "publish"]
COLOURS = {"prepare": "#8da0cb", "encode": "#66a61e", "build": "#e6871f", "publish": "#7570b3"}
# Wall time in no stage: start, loading the tower, self-test, drift check, the report.
BETWEEN = "between"


def tower_of(path):
    """The [tower] section of a pipeline, its relative paths made absolute."""
    import tomllib

    path = pathlib.Path(path).resolve()
    tower = tomllib.loads(path.read_text())["tower"]
    for key in ("model", "adapter", "tokenizer"):
        if key in tower and (path.parent / tower[key]).exists():
            tower[key] = str((path.parent / tower[key]).resolve())
    return tower


def measure(args, name, notes, tower, encode, index, recall_min):
    """A full run and one after 1% of the notes changed: [(what, result)], the last one `steps.Cut` where its time was over."""
    folder = pathlib.Path(tempfile.mkdtemp(prefix="scalingnote-e2e-"))
    try:
        path = folder / "notes.jsonl"

        def write():
            with path.open("w") as out:
                for number, note in enumerate(notes):
                    out.write(json.dumps({"id": number, **note}) + "\n")

        write()
        pipeline = runs.write_pipeline(
            folder,
            sql="select id as note_id, title, body from notes", template="{{ title }}\n{{ body }}", stored=["title"],
            notes=path, tower=tower, encode=encode, index=index, recall_min=recall_min,
        )
        root = folder / "root"
        root.mkdir()
        program = str(pathlib.Path(args.program).resolve())
        what, results = f"{name}: {len(notes):,} notes", []
        results.append((what, runs.run(program, pipeline, root, steps.limit(3600))))
        changed = max(len(notes) // 100, 1)
        what = f"{name}: {changed:,} changed"
        for at in random.Random(11).sample(range(len(notes)), changed):
            notes[at]["body"] += " Revised."
        write()
        results.append((what, runs.run(program, pipeline, root, steps.limit(3600))))
        return results
    except steps.Cut as cut:
        return [*results, (what, cut)]
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def covered(spans):
    """Seconds in which at least one of the spans ran."""
    total, end = 0.0, 0.0
    for span in sorted(spans, key=lambda span: span.begun):
        total += max(0.0, span.ended - max(span.begun, end))
        end = max(end, span.ended)
    return total


def row(name, result):
    """One line of the table."""
    wall, spans, report = result["wall"], result["spans"], result["report"]
    took = {stage: covered([span for span in spans if span.stage == stage]) for stage in STAGES}
    encode = next(stage["actual"] for stage in report["stages"] if stage["stage"] == "encode")
    busy = report["device_busy_seconds"]
    return {
        "run": name, "texts": encode["texts"], "tokens": encode["tokens"], "wall": wall, **took,
        # Two stages at once count twice in the sum and once in the union.
        "overlap": sum(took.values()) - covered(spans),
        BETWEEN: wall - covered(spans),
        "outside": (wall - took["encode"]) / wall,
        "busy": busy / took["encode"] if took["encode"] else 0.0,
        "cpu": result["cpu"],
    }


def table(rows, cuts):
    head = ["run", "texts encoded", "tokens", "wall s", *STAGES, BETWEEN, "two stages at once", "outside encode",
            "device busy in encode", "CPU s"]
    print("| " + " | ".join(head) + " |\n|" + "---|" * len(head))
    for line in rows:
        cells = [line["run"], f"{line['texts']:,}", f"{line['tokens']:,}", f"{line['wall']:.1f}"]
        cells += [f"{line[stage]:.2f}" for stage in [*STAGES, BETWEEN, "overlap"]]
        cells += [f"{line['outside']:.1%}", f"{line['busy']:.1%}", f"{line['cpu']:.1f}"]
        print("| " + " | ".join(cells) + " |")
    for name, cut in cuts:
        print(f"| {name} | {cut} |" + " |" * (len(head) - 2))


def chart(results, rows):
    """The stages of every run over its own time, as SVG."""
    left, width, bar, gap = 74, 560, 16, 46
    panel = len(STAGES) * bar + gap
    parts, top = [], 8
    for (name, result), line in zip(results, rows):
        wall = result["wall"]
        title = (f"{name}: {wall:.1f} s, outside encode {line['outside']:.1%}, "
                 f"device busy {line['busy']:.1%} of encode")
        parts.append(f'<text x="4" y="{top + 12}" font-weight="bold">{escape(title)}</text>')
        for at, stage in enumerate(STAGES):
            y = top + 20 + at * bar
            parts.append(f'<text x="4" y="{y + 11}">{stage}</text>')
            for span in (span for span in result["spans"] if span.stage == stage):
                x, wide = left + width * span.begun / wall, width * (span.ended - span.begun) / wall
                parts.append(f'<rect x="{x:.1f}" y="{y + 1}" width="{max(wide, 1):.1f}" height="{bar - 3}" '
                             f'fill="{COLOURS[stage]}"><title>{stage} {span.begun:.2f} to {span.ended:.2f} s</title></rect>')
            parts.append(f'<text x="{left + width + 6}" y="{y + 11}">{line[stage]:.2f} s</text>')
        base = top + 20 + len(STAGES) * bar
        parts.append(f'<path d="M{left} {base}h{width}" stroke="#888"/>')
        for tick in range(5):
            x = left + width * tick // 4
            parts.append(f'<path d="M{x} {base}v4" stroke="#888"/>'
                         f'<text x="{x}" y="{base + 15}" text-anchor="middle">{wall * tick / 4:.1f}</text>')
        top += panel + 8
    size = f'width="{left + width + 70}" height="{top}" viewBox="0 0 {left + width + 70} {top}"'
    return (f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif" font-size="11">'
            f'<rect width="100%" height="100%" fill="#fff"/>{"".join(parts)}</svg>\n')


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program")
    parser.add_argument("--data", required=True, help="folder of retrieval sets in BEIR layout")
    parser.add_argument("--only", choices=["real", "paced"])
    parser.add_argument("--svg", help="write the chart here")
    parser.add_argument("--real-notes", type=int, default=2_000)
    parser.add_argument("--arithmetic", default="int8")
    parser.add_argument("--pipeline", default=str(runs.HERE.parent / "pipelines" / "quickstart.toml"))
    parser.add_argument("--paced-notes", type=int, default=100_000)
    parser.add_argument("--tokens-per-second", type=int, default=50_000)
    parser.add_argument("--dimensions", type=int, default=1024)
    parser.add_argument("--shards", type=int, default=8)
    args = parser.parse_args()
    if not pathlib.Path(args.data).is_dir():
        print(f"skipped: {args.data} is missing")
        return
    results = []
    if args.only != "paced":
        tower = {**tower_of(args.pipeline), "arithmetic": args.arithmetic}
        notes = list(texts.notes(args.data, args.real_notes, REAL))
        results += measure(args, f"{args.arithmetic} tower", notes, tower, {}, {}, 0.9)
    if args.only != "real":
        notes = list(texts.notes(args.data, args.paced_notes))
        tower = runs.paced_tower(args.dimensions, args.tokens_per_second)
        # Nearly random vectors are hard for any graph: this bench is not about their recall.
        results += measure(args, f"{args.tokens_per_second:,} tokens/s", notes, tower,
                           {"part_tokens": 2_000_000, "token_budget": 16_384}, {"shards": args.shards}, 0.5)
    cuts = [(name, result) for name, result in results if isinstance(result, steps.Cut)]
    results = [one for one in results if one not in cuts]
    rows = [row(name, result) for name, result in results]
    print(runs.provenance() + "\n")
    table(rows, cuts)
    print(f"\n{BETWEEN}: wall time in no stage (start, loading the tower, self-test, drift check, the report). Rates of the "
          "paced tower stand for a device and were chosen, not measured.")
    if args.svg:
        pathlib.Path(args.svg).write_text(chart(results, rows))
        print(f"\nchart: {pathlib.Path(args.svg).name}")
    print("\n" + steps.said(cuts))


if __name__ == "__main__":
    main()
