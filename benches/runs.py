"""What the benchmarks of whole runs share: starting the program, following its events, naming machine and commit.

Needs nothing but Python.
"""

import dataclasses
import datetime
import json
import os
import pathlib
import random
import shlex
import subprocess
import sys
import threading
import time

import steps

HERE = pathlib.Path(__file__).resolve().parent

KINDS = {".usearch": "indexes", ".f16": "sidecars", ".ids.parquet": "ids", ".removed.parquet": "ids"}


def kind_of(path):
    """What a file under the root is, by its path."""
    if path.startswith("prepared/"):
        return "prepared"
    for ending, kind in KINDS.items():
        if path.endswith(ending):
            return kind
    if path.startswith("embeddings/") and path.endswith(".parquet"):
        return "parts"
    return "plans, receipts, reports"


def files(root):
    """Size of every file under a folder, by its path from there."""
    found = {}
    for folder, _, names in os.walk(root):
        for name in names:
            path = pathlib.Path(folder, name)
            found[str(path.relative_to(root))] = path.stat().st_size
    return found


@dataclasses.dataclass
class Span:
    """When a stage ran, in seconds since the program was started."""

    stage: str
    begun: float
    ended: float


class Program:
    """The program as a step, with its events (`--progress json`) as they come."""

    def __init__(self, command, seconds=None):
        self.command = [*command, "--progress", "json"]
        self.begun = time.monotonic()
        self.spans, self.stage, self.last = [], "start", []
        self.step = steps.Step(self.command, seconds, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        self.process = self.step.process
        self.follower = threading.Thread(target=self._follow, daemon=True)
        self.follower.start()

    def _follow(self):
        running = {}
        for line in self.process.stderr:
            now = time.monotonic() - self.begun
            self.last[:] = self.last[-20:] + [line]
            try:
                event = json.loads(line)
            except ValueError:
                continue
            if event.get("event") == "stage_started":
                self.stage = event["stage"]
                running[event["stage"]] = Span(event["stage"], now, now)
            elif event.get("event") == "stage_finished" and event["stage"] in running:
                self.stage = f"{event['stage']} done"
                span = running.pop(event["stage"])
                span.ended = now
                self.spans.append(span)

    def wait(self):
        """Waits for the end: wall seconds; leaves Python where the program failed, raises `steps.Cut` where its time was over."""
        code = self.step.wait()
        wall = time.monotonic() - self.begun
        self.follower.join()
        if code:
            sys.exit(f"{shlex.join(self.command)} ended with {code}\n{''.join(self.last)}")
        return wall


def run(program, pipeline, root, seconds):
    """One `scalingnote run` of at most `seconds`: wall and processor seconds, spans of its stages, the bytes that it wrote, its report."""
    before = files(root)
    usage = os.times()
    started = Program([program, "run", str(pipeline), "--set", f"publish.root={root}"], seconds)
    wall = started.wait()
    after = os.times()
    new = {path: size for path, size in files(root).items() if path not in before}
    kinds = {}
    for path, size in new.items():
        kinds[kind_of(path)] = kinds.get(kind_of(path), 0) + size
    reports = [path for path in new if path.startswith("runs/") and path.endswith("report.json")]
    report = json.loads(pathlib.Path(root, reports[0]).read_text())
    cpu = after.children_user + after.children_system - usage.children_user - usage.children_system
    stages = {stage["stage"]: stage["actual"]["seconds"] for stage in report["stages"]}
    return {"wall": wall, "cpu": cpu, "bytes": sum(new.values()), "kinds": kinds, "report": report, "stages": stages,
            "spans": started.spans}


def paced_tower(dimensions, tokens_per_second):
    """`[tower]` of the fake tower at the rate of some device. Its vectors are nearly random."""
    return {"model": f"fake:{dimensions}?tokens_per_second={tokens_per_second}", "pooling": "mean", "max_tokens": 512}


def words(rng, count=5000, longest=9):
    """Made-up words of 3 letters and more."""
    return ["".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=rng.randint(3, longest))) for _ in range(count)]


def write_titles(folder, count, changed=0):
    """`notes.csv`: distinct titles of 4 to 12 words; the first `changed` of them others than before."""
    rng = random.Random(7)
    known = words(rng)
    with open(folder / "notes.csv", "w") as out:
        out.write("note_id,title\n")
        for at in range(count):
            edited = " edited" if at < changed else ""
            out.write(f"{at},{' '.join(rng.choices(known, k=rng.randint(4, 12)))} {at}{edited}\n")


# What `write_pipeline` takes where notes are titles.
TITLES = {"sql": "SELECT note_id, title FROM notes", "template": "{{ title }}", "stored": ["title"]}
# Random words make a poor index whatever the effort, which benches of other things than indexes save.
LITTLE_EFFORT = {"connectivity": 8, "expansion_add": 16}


def write_pipeline(folder, *, sql, template, stored, notes, tower, index, encode={}, recall_min=0.0, corpus={}, version=1):
    """Writes `pipeline.toml` over one file or folder of notes; every section is a dict."""

    def section(name, values):
        # JSON's strings, numbers, booleans and flat lists are TOML's.
        return [f"[{name}]", *(f"{key} = {json.dumps(value)}" for key, value in values.items())]

    lines = [f"version = {version}", *section("corpus", {"sql": sql, "template": template, "stored_columns": stored, **corpus})]
    lines += ["[[corpus.tables]]", 'name = "notes"', f"uri = {json.dumps(str(notes))}"]
    lines += section("tower", tower) + section("encode", encode) + section("index", index)
    lines += section("gates", {"recall_min": recall_min})
    lines += section("publish", {"root": str(folder / "root")})
    path = folder / "pipeline.toml"
    path.write_text("\n".join(lines) + "\n")
    return path


def provenance(command=None):
    """Machine, load, date, commit and command (by default this script's) of a measurement, a line each."""
    model, flags = "unknown processor", []
    try:
        for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                model = value.strip()
            elif name.strip() == "flags":
                flags = value.split()
    except OSError:
        pass
    features = [name for name in ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_int8") if name in flags]
    git = ["git", "-C", str(HERE)]
    commit = subprocess.run([*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    changed = subprocess.run([*git, "status", "--porcelain", "-uno"], capture_output=True, text=True).stdout.strip()
    if command is None:
        # Folders of this machine are nobody's business.
        command = shlex.join(pathlib.Path(argument).name if "/" in argument else argument for argument in sys.argv)
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else float("nan")
    return "\n".join([
        f"machine: {os.cpu_count()} cores of {model} ({', '.join(features) or 'no known extensions'}); "
        f"load {load:.1f} when this was printed",
        f"commit: {commit or 'unknown'}{' with changes' if changed else ''}; "
        f"date: {datetime.datetime.now(datetime.timezone.utc):%Y-%m-%d %H:%M} UTC",
        f"command: {command}",
    ])
