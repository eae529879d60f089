"""The benches' own parts: steps that are cut, the rows that say so, and the reading of cargo's timings.

python3 tests/python/benches.py; tests/it/house/scripts.rs runs it.
"""

import contextlib
import io
import json
import os
import pathlib
import stat
import subprocess
import sys
import tempfile
import time
import unittest

BENCHES = pathlib.Path(__file__).resolve().parent.parent.parent / "benches"
sys.path.insert(0, str(BENCHES))
sys.dont_write_bytecode = True

import build
import claims_report
import encode_peers
import gpu_peers
import index_peers
import steps

try:
    import numpy
except ImportError:
    numpy = None


class Case(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)

    def script(self, name, text):
        path = self.folder / name
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
        return str(path)

    def run_bench(self, *command, seconds="0.3", **environment):
        command = [sys.executable, *command] if command[0].endswith(".py") else command
        environment = {**os.environ, "STEP_SECONDS": seconds, "PYTHONDONTWRITEBYTECODE": "1", **environment}
        done = subprocess.run(command, cwd=BENCHES, env=environment, capture_output=True, text=True, timeout=300)
        self.assertEqual(done.returncode, 0, done.stderr)
        return done.stdout


def said(call, *arguments):
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        call(*arguments)
    return out.getvalue()


class Steps(Case):
    def test_a_step_ends_with_all_that_it_started(self):
        child = self.folder / "child"
        begun = time.monotonic()
        with self.assertRaisesRegex(steps.Cut, "^cut after 2 s$"):
            steps.Step(["sh", "-c", f"sleep 60 & echo $! > {child}; wait"], 2).wait()
        self.assertLess(time.monotonic() - begun, 50)
        state = pathlib.Path("/proc", child.read_text().strip(), "stat")
        # Nobody may have asked for its end.
        gone = lambda: not state.exists() or state.read_text().rpartition(")")[2].split()[0] == "Z"
        while not gone():
            self.assertLess(time.monotonic() - begun, 50)
            time.sleep(0.05)

    def test_a_step_in_time_has_its_exit_code(self):
        self.assertEqual([steps.Step(["sh", "-c", f"exit {code}"], limit).wait() for code, limit in ((0, 10), (3, None))], [0, 3])

    def test_a_script_goes_on_and_counts(self):
        def step(name, command, seconds="100"):
            os.environ["STEP_SECONDS"] = seconds
            return steps.run(self.folder, name, ["sh", "-c", command])

        self.addCleanup(os.environ.pop, "STEP_SECONDS")
        with contextlib.redirect_stderr(io.StringIO()) as errors:
            self.assertEqual(step("slow.1.json", "echo half; sleep 60", "0.3"), 0)
            # Not tried again.
            self.assertEqual(step("slow.2.json", "echo whole"), 0)
            self.assertEqual(step("other.1.json", "echo 'cut: bf16 in batches of 4' >&2; echo whole"), 0)
            self.assertEqual(step("wrong.1.json", "echo why >&2; exit 4"), 4)
        self.assertIn("why", errors.getvalue())
        self.assertEqual([path.name for path in sorted(self.folder.glob("*.json"))], ["other.1.json"])
        found = steps.cuts(self.folder)
        self.assertEqual(found, [("slow.1.json", "cut after 0.3 s"), ("other.1.json", "cut: bf16 in batches of 4")])
        self.assertTrue(steps.said([*found, found[0]]).startswith("steps cut: 2 (slow.1.json, other.1.json)"))
        self.assertEqual(steps.said([]), "steps cut: 0")

    def test_rounds_are_of_one_step_and_shapes_are_not(self):
        self.assertEqual(steps.turn_of("torch-bf16.12.json"), "torch-bf16.json")
        self.assertEqual(steps.turn_of("qwen3-0.6b/st.json"), "qwen3-0.6b/st.json")

    def test_a_part_that_would_take_too_long_does_not_begin(self):
        budget = steps.Budget(600)
        with contextlib.redirect_stderr(io.StringIO()) as errors:
            self.assertTrue(budget.allows("some", 100))
            self.assertFalse(budget.allows("all", 100, 0.1))
        self.assertRegex(errors.getvalue(), "^cut: all: some 100 s expected, [0-9]+ s are left for it\n$")

    def test_time_decides_how_often_something_runs(self):
        runs = []
        steps.fastest(lambda: runs.append(time.sleep(0.05)), 12, 0.0)
        self.assertEqual(len(runs), 1)

    def test_a_slow_row_is_foretold_by_its_shortest_texts(self):
        calls = []

        def run(texts, sequences):
            calls.append(sum(map(len, sequences)))
            run.seconds = calls[-1] * 10.0

        sequences = [[1] * length for length in range(1, 101)]
        texts = [""] * len(sequences)
        budget = steps.Budget(600)
        self.assertEqual(encode_peers.foretold(run, texts, sequences, budget), 50_500.0)
        # One token each; a batch of all lengths would have taken hours.
        self.assertEqual(calls, [1, 1])


class Rows(Case):
    def cut(self, *lines):
        (self.folder / steps.CUTS).write_text("".join(json.dumps(line) + "\n" for line in lines))

    @unittest.skipUnless(numpy, "numpy is missing")
    def test_encode(self):
        for runner, rate in (("ours-f32", 800.0), ("ours-int8", 1000.0)):
            one = {"set": "cwe", "texts": 2, "tokens": 9, "tokens_per_s": rate, "batch": 8192}
            ours = {"threads": 2, "linear_parameters": 100, "load_s": 0.1, "loaded_rss_bytes": 1, "load_peak_rss_bytes": 1,
                    "peak_rss_bytes": 1 << 20, "sets": [one]}
            (self.folder / f"{runner}.1.json").write_text(json.dumps(ours))
            numpy.ones(6, dtype="<f4").tofile(self.folder / f"cwe.{runner}.f32")
        (self.folder / "torch-bf16.1.json").write_text(json.dumps({"peak_rss_bytes": 1, "sets": []}))
        self.cut(["torch-bf16.1.json", "cut: cwe in batches of 4 (some 3.0 tokens/s): some 9,000 s expected, 500 s are left for it"],
                 ["torch-f32.1.json", "cut after 600 s"], ["ceiling.1.json", "cut after 600 s"])
        parsed = type("Args", (), {"dir": self.folder})
        table = said(encode_peers.table, parsed)
        self.assertRegex(table, r"ours f32 +800 +1\.00x")
        self.assertRegex(table, r"ours int8 +1,000 +1\.25x +8192 +1\.000000 +1\.000000 +1 MiB")
        self.assertRegex(table, r"PyTorch bf16 +cut: cwe in batches of 4 \(some 3\.0 tokens/s\)")
        self.assertRegex(table, r"PyTorch f32 +cut after 600 s\n")
        (self.folder / "ours-f32.1.json").unlink()
        self.assertRegex(said(encode_peers.table, parsed), r"ours int8 +1,000 +8192 +1 MiB")

    def test_gpu(self):
        (self.folder / "tiny").mkdir()
        row = {"set": "256", "tokens": 512, "tokens_per_s": 1000.0, "batch": 16}
        (self.folder / "tiny/st.json").write_text(json.dumps({"runner": "sentence-transformers", "sets": [row]}))
        self.cut(["qwen3-0.6b/st.json", "cut after 600 s"], ["tiny/ours.json", "cut after 600 s"])
        table = said(gpu_peers.table, type("Args", (), {"dir": self.folder}))
        self.assertIn("qwen3-0.6b/st: cut after 600 s", table)
        self.assertIn("tiny/ours: cut after 600 s", table)
        self.assertRegex(table, "sentence-transformers +1,000 tokens/s   batch 16")

    def test_index(self):
        line = {"system": "scalingnote", "type": "i8", "build": 10.0, "bytes": 10, "sidecar": 0, "open": 1.0,
                "curve": [[64, 0.9, 100.0], [128, 0.98, 50.0]]}
        (self.folder / "glove.ours.1.json").write_text(json.dumps(line) + "\n")
        self.cut(["glove.usearch-f32.1.json", "cut after 1800 s"], ["other.ours.1.json", "cut after 1800 s"])
        table = said(index_peers.table, self.folder, "glove")
        self.assertIn("| scalingnote i8 | 10 |", table)
        self.assertIn("| usearch-f32 | cut after 1800 s |", table)
        self.assertNotIn("other", table)

    def test_claims(self):
        cut = steps.Cut(5)
        answer = {"mean": dict.fromkeys((key for key, _ in claims_report.MEASURES), 0.5)}
        known = {"set": {"rows": [answer, answer], "comparisons": [], "index_recall_10": 1.0}}
        judged = claims_report.Known(raw=known, minilm=known, small=cut, stage1=cut)
        bench = type("Bench", (), {"sets": ["set"]})
        report = "\n".join(claims_report.claim_1(bench, judged))
        self.assertIn("| LLM as released | 0.5000 |", report)
        self.assertIn("| LLM after stage 1 | cut after 5 s |", report)
        self.assertIn("| BM25 | 0.5000 |", report)
        self.assertIn("- not judged: cut after 5 s", report)


class Hanging(Case):
    """Whole benches over a program that never answers: they end, and say what they cut."""

    def setUp(self):
        super().setUp()
        self.program = self.script("program", "exec sleep 60")

    def test_memory(self):
        said = self.run_bench("memory.py", self.program, "--notes", "10")
        self.assertIn("10 notes, 16 shards, fake:64: cut after 0.3 s", said)
        self.assertIn("steps cut: 1 (run)", said)

    def test_daily(self):
        self.assertIn("steps cut: 1 (full run)", self.run_bench("daily.py", self.program, "--notes", "10"))

    def test_scale(self):
        said = self.run_bench("scale.py", self.program, "--notes", "10,20", "--second-day", "10", "--shards", "4", "--shared", "80", "--simulate", "1000")
        self.assertIn("| first day, 20 notes | cut after 0.3 s |", said)
        self.assertIn("| 4 | cut after 0.3 s |", said)
        self.assertIn("steps cut: 5 (", said)

    def test_cluster(self):
        said = self.run_bench("cluster.py", self.program, "fake:8", "--notes", "10", "--rounds", "2")
        self.assertIn("| two executors | cut after 0.6 s |", said)
        self.assertIn("steps cut: 3 (", said)

    @unittest.skipUnless(sys.version_info >= (3, 11), "tomllib is missing")
    def test_e2e(self):
        for name, rows in (("stackexchange-mini/notes", 4), ("debian-pairs/corpus", 4)):
            path = self.folder / "data" / f"{name}.jsonl"
            path.parent.mkdir(parents=True)
            path.write_text("".join(json.dumps({"title": f"{name} {row}", "text": "text"}) + "\n" for row in range(rows)))
        said = self.run_bench("e2e.py", self.program, "--data", str(self.folder / "data"), "--only", "real", "--real-notes", "5")
        self.assertIn("| int8 tower: 5 notes | cut after 0.3 s |", said)
        self.assertIn("steps cut: 1 (", said)

    def test_claims(self):
        for name in ("debian", "tldr", "medquad"):
            (self.folder / "pairs" / f"{name}-pairs").mkdir(parents=True)
        for name, text in (("corpus.jsonl", '{"_id": "1", "text": "t"}\n'), ("queries.jsonl", '{"_id": "1", "text": "t"}\n'),
                           ("qrels.tsv", "query-id\tcorpus-id\tscore\n1\t1\t1\n")):
            for folder in [*(self.folder / "pairs").iterdir(), self.folder / "set"]:
                folder.mkdir(exist_ok=True)
                (folder / name).write_text(text)
        out = self.folder / "out"
        command = ["claims.py", self.program, "--pairs", str(self.folder / "pairs"), "--sets", str(self.folder), "--set-names", "set",
                   "--models", str(self.folder), "--out", str(out), "--depths", "1,2", "--amounts", "2,4", "--mined-start", "1-2"]
        said = self.run_bench(*command, seconds="0.05")
        self.assertIn("steps cut: ", said)
        report = (out / "claims.md").read_text()
        for row in ("| LLM after stage 1 | cut after 0.05 s |", "| 2 | 4 | cut after 0.05 s |", "- no law: ", "## 4. Hard negatives"):
            self.assertIn(row, report)
        # What claims 1 and 2 both need is trained once.
        self.assertEqual(said.count("train-stage1.toml"), 1)

    def test_shell_scripts(self):
        said = self.run_bench("./gpu.sh", SMOKE="1", PEERS="", BENCH=self.program, SHAPES="tiny", MODEL="none")
        self.assertIn("tiny/ours: cut after 0.3 s", said)
        self.assertIn("steps cut: 1 (", said)
        # A Python whose peers hang.
        (self.folder / "peers/bin").mkdir(parents=True)
        self.script("peers/bin/python", f"""case "$1 $2" in
            *"peers.py torch" | *"peers.py st") exec sleep 60 ;;
            *"peers.py ceiling") echo '{{"torch": "none", "gemm": {{}}}}' ;;
            *"peers.py convert" | "-c import torch"*) ;;
            "-c "*) exit 1 ;;
            *) exec "{sys.executable}" "$@" ;;
        esac""")
        environment = {"PEERS": str(self.folder / "peers"), "BENCH": self.program, "CWE": "none", "STACKEXCHANGE": "none"}
        said = self.run_bench("./encode.sh", "none", seconds="1", ROUNDS="2", **environment)
        for name in ("ours-f32", "torch-bf16", "st-f32", "ours-int8"):
            self.assertEqual(said.count(f"{name}.1.json"), 1, said)
            self.assertNotIn(f"{name}.2.json", said)


REPORT = """<script>
DURATION = 30;
const UNIT_DATA = [
  {"i": 0, "name": "datafusion-expr", "version": "55.2.0", "mode": "todo", "target": "", "start": 0.0, "duration": 10.0,
   "unblocked_units": [], "unblocked_rmeta_units": [1], "sections": [["frontend", {"start": 0.0, "end": 4.0}], ["codegen", {"start": 4.0, "end": 10.0}]]},
  {"i": 1, "name": "scalingnote", "version": "0.1.0", "mode": "todo", "target": "", "start": 10.0, "duration": 20.5,
   "unblocked_units": [], "unblocked_rmeta_units": [], "sections": null, "rmeta_time": 15.0},
  {"i": 2, "name": "libc", "version": "0.2.1", "mode": "run-custom-build", "target": " build-script (run)", "start": 1.0, "duration": 0.25,
   "unblocked_units": [], "unblocked_rmeta_units": [], "sections": null},
  {"i": 3, "name": "libc", "version": "0.2.1", "mode": "todo", "target": " \\"];", "start": 2.0, "duration": 0.5,
   "unblocked_units": [], "unblocked_rmeta_units": [], "sections": null}
];
const CONCURRENCY_DATA = [];
</script>"""


class Build(Case):
    def test_seconds_by_crate_and_family(self):
        found = build.analysed(REPORT)
        self.assertEqual((found["wall_s"], found["units_s"]), (30.5, 31.25))
        rows = [(row["name"], row["seconds"], *(row[part] for part in build.PARTS)) for row in found["crates"]]
        self.assertEqual(rows, [("scalingnote", 20.5, 15.0, 5.5, 0.0), ("datafusion-expr", 10.0, 4.0, 6.0, 0.0), ("libc", 0.75, 0.0, 0.0, 0.25)])
        families = {label: one["seconds"] for label, one in found["families"].items() if one["crates"]}
        self.assertEqual(families, {"datafusion": 10.0, "ours": 20.5, "the rest": 0.75})
        self.assertEqual([build.family(name) for name in ("arrow-array", "parquet", "gemm-f16", "sqlparser_derive", "tokio")],
                         ["arrow, parquet", "arrow, parquet", "candle, gemm", "sqlparser", "the rest"])
        with self.assertRaises(ValueError):
            build.analysed("<html></html>")

    def test_two_builds_differ_by_crate(self):
        ours, theirs = build.analysed(REPORT, 20.0), build.analysed(REPORT.replace('"duration": 10.0', '"duration": 12.5'), 40.0)
        self.assertEqual(build.differences(ours, theirs)[0], ("datafusion-expr", 10.0, 12.5))
        for found in (ours, theirs):
            found.update(cpu_s=10.0, program_bytes=100)
        said = "\n".join(build.compared("REV", ours, theirs))
        self.assertIn("wall time 0.50,", said)
        self.assertIn("| datafusion-expr | 10.0 | 12.5 | -2.5 |", said)
        self.assertIn("| datafusion, all | 10.0 | 12.5 | -2.5 |", said)

    def test_a_report_that_is_there_is_read(self):
        (self.folder / "cargo-timing.html").write_text(REPORT)
        said = self.run_bench("build.py", "--timings", str(self.folder / "cargo-timing.html"), "--wall", "90", "--top", "1",
                              "--json", str(self.folder / "found.json"))
        self.assertIn("90.0 s (1 m 30 s) of wall time; 3 crates, whose units add up to 31.2 s, 0.35 at once", said)
        self.assertIn("| scalingnote 0.1.0 | 20.5 | 65.6% | 15.0 | 5.5 | 0.0 |", said)
        self.assertNotIn("| datafusion-expr", said)
        self.assertEqual(json.loads((self.folder / "found.json").read_text())["here"]["wall_s"], 90.0)

    def test_a_unit_test_is_chosen_with_its_file(self):
        listed = "cli::tests::a: test\nstage::plan::tests::b: test\nstage::purge::target::tests::c: test\nstage::ids::tests::d: bench\n\n3 tests"
        there = {"src/stage/purge/target.rs", "src/stage/plan/mod.rs"}.__contains__
        self.assertEqual(build.chosen(listed, "", there), ("stage::plan::tests::b", "src/stage/plan/mod.rs"))
        self.assertEqual(build.chosen(listed, "stage::purge::target::tests::c", there)[1], "src/stage/purge/target.rs")
        with self.assertRaises(SystemExit):
            build.chosen(listed, "stage::ids::tests::d", there)


if __name__ == "__main__":
    unittest.main()
