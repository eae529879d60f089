"""Trains, judges and tabulates what the paper claims, with the recipes in benches/claims/.

    python3 benches/claims.py PROGRAM --pairs PAIRS_DIR --sets SETS_DIR [--only 1,2,3] [--out .cache/claims] [--deadline 2h]

1  the LLM after stage 1, the LLM as released, the LLM cut to 4 layers and trained alike
2  two stages (LLM documents, a distilled query tower), end to end (both trained together), small and small; latency
3  the scaling law: depth x data, contrastive entropy of held-out pairs fitted to a power law

PAIRS_DIR holds debian-pairs, tldr-pairs and medquad-pairs, SETS_DIR holds scifact and stackexchange-mini, all in BEIR layout.
Nothing that is judged is trained on. Everything is kept under --out and what is finished is not done again: interrupt it, or
give it a --deadline (exit 75), and run the same command to go on. Another size of the experiments is another --out. Writes one
table a claim into --report; needs nothing but Python.
"""

import argparse
import hashlib
import json
import os
import pathlib
import platform
import re
import shutil
import subprocess
import sys
import time

import claims_fit
import claims_pairs

HERE = pathlib.Path(__file__).resolve().parent
RECIPES = HERE / "claims"
MODEL = "../../.cache/models/SmolLM2-135M-Instruct.Q4_1.gguf"
MINILM = "../../.cache/models/minilm"
PAIRS_OF_RECIPE = 7200
BATCH_OF_RECIPE = 48
# Of the training pairs: what claim 3 is judged on.
HELD_OUT = "held-out"
# The recipes'. A tower is as sure as its training's temperature made it; judged at a lower one it is sure of its errors, too.
TEMPERATURE = ("--entropy-temperature", "0.05")

# name -> (title, what it needs trained)
SYSTEMS = {
    "raw": ("LLM as released", []),
    "minilm": ("MiniLM-L6 as released", []),
    "small": ("small LLM, trained alike", ["small"]),
    "stage1": ("LLM after stage 1", ["stage1"]),
    "small-full": ("small/small", ["small-full"]),
    "end-to-end": ("end to end", ["end-to-end"]),
    "two-stage-small": ("two stages, small LLM asks", ["stage1", "distill-small"]),
    "two-stage-minilm": ("two stages, MiniLM asks", ["stage1", "distill-minilm"]),
}
CLAIMS = {
    1: ["raw", "small", "stage1", "minilm"],
    2: ["stage1", "two-stage-small", "two-stage-minilm", "end-to-end", "small-full", "minilm"],
}
MEASURES = [("ndcg_10", "nDCG@10"), ("mrr_10", "MRR@10"), ("recall_10", "R@10"), ("recall_100", "R@100"), ("recall_1000", "R@1000")]


class Stopped(Exception):
    """The time is over; the same command goes on."""


def options():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("program", type=pathlib.Path)
    parser.add_argument("--pairs", type=pathlib.Path, required=True, help="folder of the three sets of training pairs")
    parser.add_argument("--sets", type=pathlib.Path, required=True, help="folder of the judged sets")
    parser.add_argument("--set-names", default="scifact,stackexchange-mini")
    parser.add_argument("--models", type=pathlib.Path, default=HERE.parent / ".cache/models", help="holds the LLM (GGUF) and minilm/")
    parser.add_argument("--model", type=pathlib.Path, help="another LLM: a GGUF file or a folder")
    parser.add_argument("--out", type=pathlib.Path, default=HERE.parent / ".cache/claims")
    parser.add_argument("--report", type=pathlib.Path, help="default: OUT/claims.md; the figure lies beside it")
    parser.add_argument("--only", default="1,2,3", help="which claims (default 1,2,3)")
    parser.add_argument("--threads", type=int, default=0, help="processors used; 0 for all")
    parser.add_argument("--deadline", default="", help="stop cleanly after this time (45m, 2h): exit 75")
    parser.add_argument("--train-pairs", type=int, default=PAIRS_OF_RECIPE, help=f"pairs that each training sees (default {PAIRS_OF_RECIPE})")
    parser.add_argument("--batch", type=int, default=BATCH_OF_RECIPE, help=f"pairs of one step (default {BATCH_OF_RECIPE})")
    parser.add_argument("--distill-steps", type=int, default=2000)
    parser.add_argument("--small-layers", type=int, default=4)
    parser.add_argument("--arithmetic", default="f32", help="of towers when they are judged: f32, bf16, int8")
    parser.add_argument("--train-arithmetic", default="f32", help="of LoRA trainings, where the trainer knows another")
    parser.add_argument("--stage1", type=pathlib.Path, help="a finished stage-1 adapter (PEFT folder), instead of training one")
    parser.add_argument("--depths", default="3,6,12", help="layers, for claim 3")
    parser.add_argument("--amounts", default="2000,4000,8000", help="training pairs, for claim 3")
    parser.add_argument("--scale-sets", default=HELD_OUT, help=f"sets that claim 3 is judged on; {HELD_OUT}: of the training pairs")
    parser.add_argument("--layer-parameters", type=int, default=3_540_096, help="parameters of one layer (default: SmolLM2-135M's)")
    return parser.parse_args()


def seconds(text):
    units = {"s": 1, "m": 60, "h": 3600}
    found = re.fullmatch(r"(\d+)([smh])", text)
    if not found:
        sys.exit(f"error: --deadline {text} is not like 90s, 45m or 2h")
    return int(found[1]) * units[found[2]]


class Bench:
    def __init__(self, given):
        self.given = given
        self.out = given.out.resolve()
        self.program = given.program.resolve()
        self.recipes = self.out / "recipes"
        self.recipes.mkdir(parents=True, exist_ok=True)
        self.end = time.monotonic() + seconds(given.deadline) if given.deadline else None
        self.sets = given.set_names.split(",")
        self.environment = dict(os.environ)
        if given.threads:
            os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: given.threads])
            self.environment["RAYON_NUM_THREADS"] = str(given.threads)

    def left(self):
        """Seconds until the deadline; raises where none are left."""
        if self.end is None:
            return None
        left = self.end - time.monotonic()
        if left < 5:
            raise Stopped
        return left

    def call(self, *arguments, out=None):
        command = [str(self.program), *map(str, arguments)]
        print("$", " ".join(command), flush=True)
        done = subprocess.run(command, env=self.environment, stdout=subprocess.PIPE if out else None, check=False)
        if done.returncode == 75:
            raise Stopped
        if done.returncode:
            sys.exit(f"error: {' '.join(command)} ended with exit code {done.returncode}")
        if out:
            part = out.with_suffix(".part")
            part.write_bytes(done.stdout)
            os.replace(part, out)

    # --- Recipes: the committed ones, with this run's places and sizes ---------------------------------------

    def recipe(self, name, target=None, depth=None, pairs=None):
        """Writes the recipe as this run uses it; gives its path."""
        given = self.given
        model = (given.model or given.models / pathlib.Path(MODEL).name).resolve()
        tokenizer = model / "tokenizer.json" if model.is_dir() else model
        text = (RECIPES / f"{name}.toml").read_text(encoding="utf-8")
        text = text.replace(f'tokenizer = "{MODEL}"', f'tokenizer = "{tokenizer}"').replace(f'"{MODEL}"', f'"{model}"')
        text = text.replace(MINILM, str((given.models / "minilm").resolve()))
        text = text.replace("../../.cache/pairs", str(given.pairs.resolve())).replace("../../.cache/claims", str(self.out))
        text = text.replace("layers = 4\n", f"layers = {given.small_layers}\n")
        if name.startswith("train-"):
            pairs = pairs or given.train_pairs
            if name != "train-scale":
                # A law over the amount wants the same mixture at every amount; the steps bound what is seen.
                limit = lambda found: f"limit = {max(1, round(int(found[1]) * pairs / PAIRS_OF_RECIPE))}"
                text = re.sub(r"limit = (\d+)", limit, text)
            steps = max(1, pairs // given.batch)
            text = re.sub(r"(?m)^steps = \d+", f"steps = {steps}", text)
            # A short training must not be all warm-up.
            text = re.sub(r"(?m)^warmup_steps = (\d+)", lambda found: f"warmup_steps = {min(int(found[1]), steps // 5)}", text)
            text = text.replace(f"batch_pairs = {BATCH_OF_RECIPE}", f"batch_pairs = {given.batch}")
            held = min(96, max(2, pairs // 10))
            text = text.replace("pairs = 96\n", f"pairs = {held}\n")
            if given.train_arithmetic != "f32":
                text = text.replace("[tower]\n", f'[tower]\narithmetic = "{given.train_arithmetic}"\n')
        elif name.startswith("distill-"):
            text = re.sub(r"(?m)^steps = \d+", f"steps = {given.distill_steps}", text)
            text = re.sub(r"(?m)^batch = \d+", f"batch = {min(64, given.batch * 2)}", text)
            # The teacher is of the space that is judged; how the student is trained is another matter.
            text = text.replace("[teacher]\n", f'[teacher]\narithmetic = "{given.arithmetic}"\n')
            student = "[student.tower]\n" if "[student.tower]" in text else "[student]\n"
            text = text.replace(student, f'{student}arithmetic = "{given.train_arithmetic}"\n')
            text = text.replace("pairs = 256\n", f"pairs = {min(256, given.batch * 6)}\n")
        elif given.arithmetic != "f32":
            text = re.sub(r'(?m)^(pooling = ".*")$', rf'\1\narithmetic = "{given.arithmetic}"', text)
        if given.stage1:
            text = text.replace(f"{self.out}/stage1/adapter", str(given.stage1.resolve()))
        if depth:
            text = text.replace("layers = 6\n", f"layers = {depth}\n")
        path = self.recipes / f"{target or name}.toml"
        path.write_text(text, encoding="utf-8")
        return path

    # --- Training ---------------------------------------------------------------------------------------------

    def train(self, name, recipe):
        """Trains (or distils) into OUT/name, unless that is finished."""
        folder = self.out / name
        stamp = digest(recipe.read_bytes())
        done = folder / "finished"
        if done.is_file() and done.read_text() == stamp:
            return folder
        command = "distill" if recipe.name.startswith("distill-") else "train"
        if command == "distill" and not (folder / "teacher").is_dir():
            # Every student has the same teacher and queries: what it encoded for another one is looked up, not encoded again.
            for other in sorted(self.out.glob("distill-*/finished")):
                shutil.copytree(other.parent / "teacher", folder / "teacher")
                break
        left = self.left()
        extra = ["--deadline", f"{int(left)}s"] if left else []
        self.call(command, recipe, "--out", folder, *extra)
        done.write_text(stamp)
        return folder

    def trained(self, name):
        if name == "stage1" and self.given.stage1:
            return self.given.stage1
        if name.startswith("distill-"):
            self.trained("stage1")
            return self.train(name, self.recipe(name))
        return self.train(name, self.recipe(f"train-{name}"))

    # --- Judging ----------------------------------------------------------------------------------------------

    def inputs(self, recipe, before, folder_of_set, more=()):
        """What an evaluation hangs on: the towers' file, what was trained, the set, the evaluations it is compared with."""
        text = recipe.read_text(encoding="utf-8")
        parts = [text, digest((folder_of_set / "qrels.tsv").read_bytes()), *more]
        for path in re.findall(r'"(/[^"]+)"', text):
            if pathlib.Path(path).is_relative_to(self.out) or self.given.stage1 and path == str(self.given.stage1.resolve()):
                files = sorted(pathlib.Path(path).glob("*.safetensors"))
                parts += [digest(file.read_bytes()) for file in files]
        parts += [digest(file.read_bytes()) for file in before]
        return digest("\n".join(parts).encode())

    def evaluate(self, name, title, recipe, folder_of_set, before, vectors="vectors", *more):
        """The evaluation of a system on a set, with intervals against those `before` it."""
        set_name = folder_of_set.name
        folder = self.out / "evaluations"
        folder.mkdir(exist_ok=True)
        answer, stamp = folder / f"{name}.{set_name}.json", folder / f"{name}.{set_name}.inputs"
        inputs = self.inputs(recipe, before, folder_of_set, more)
        if not (answer.is_file() and stamp.is_file() and stamp.read_text() == inputs):
            self.left()
            compare = [argument for file in before for argument in ("--compare", file)]
            self.call(
                "evaluate", recipe, folder_of_set, "--name", title, "--vectors", self.out / vectors,
                "--index", "--json", *more, *compare, out=answer,
            )
            stamp.write_text(inputs)
        return answer

    def judged(self, names):
        """name -> set -> answer, in the order of SYSTEMS, each compared with those before it."""
        found = {}
        for name in (name for name in SYSTEMS if name in names):
            title, needs = SYSTEMS[name]
            for need in needs:
                self.trained(need)
            recipe = self.recipe(name)
            found[name] = {}
            for set_name in self.sets:
                before = [found[other][set_name] for other in found if other != name]
                folder = self.given.sets.resolve() / set_name
                found[name][set_name] = self.evaluate(name, title, recipe, folder, before)
        return {name: {s: json.loads(path.read_text()) for s, path in sets.items()} for name, sets in found.items()}

    def latency(self, name):
        """Times of the query tower, and of the document tower in the same run."""
        path = self.out / "evaluations" / f"{name}.latency.json"
        recipe = self.recipe(name)
        stamp = path.with_suffix(".inputs")
        folder = self.given.sets.resolve() / self.sets[-1]
        inputs = self.inputs(recipe, [], folder)
        if not (path.is_file() and stamp.is_file() and stamp.read_text() == inputs):
            self.left()
            self.call(
                "evaluate", recipe, folder, "--vectors", self.out / "vectors",
                "--latency", "--json", out=path,
            )
            stamp.write_text(inputs)
        return json.loads(path.read_text())["latency"]

    # --- Claim 3 ----------------------------------------------------------------------------------------------

    def scaling(self):
        held_out = claims_pairs.split(self.given.pairs.resolve(), self.out)
        folders = {name: held_out if name == HELD_OUT else self.given.sets.resolve() / name for name in self.given.scale_sets.split(",")}
        cells = []
        for depth in map(int, self.given.depths.split(",")):
            for pairs in map(int, self.given.amounts.split(",")):
                name = f"scale-{depth}-{pairs}"
                folder = self.train(name, self.recipe("train-scale", name, depth, pairs))
                tower = self.recipe("scale", f"{name}-tower")
                text = tower.read_text(encoding="utf-8").replace(f"{self.out}/scale/model", f"{folder}/model")
                tower.write_text(text, encoding="utf-8")
                report = json.loads((folder / "report.json").read_text())
                seen = sum(step["pairs"] for step in report["steps"])
                sets = {}
                for set_name, set_folder in folders.items():
                    path = self.evaluate(name, f"{depth} layers, {seen} pairs", tower, set_folder, [], "vectors", *TEMPERATURE)
                    sets[set_name] = json.loads(path.read_text())
                cells.append((depth, seen, sets))
        beside = {name: json.loads(self.evaluate("scale-minilm", SYSTEMS["minilm"][0], self.recipe("minilm"), folder, [], "vectors", *TEMPERATURE).read_text()) for name, folder in folders.items()}
        return cells, beside


def digest(data):
    return hashlib.sha256(data).hexdigest()


# --- The report ---------------------------------------------------------------------------------------------------


def row_of(answer, title, system):
    values = " | ".join(f"{answer['mean'][key]:.4f}" for key, _ in MEASURES)
    entropy = answer.get("contrastive_entropy")
    return f"| {title} | {values} | {'' if entropy is None else f'{entropy:.4f}'} | {system} |"


def against(answer, title):
    """The interval of nDCG@10 against the system of this title, as text."""
    for versus in answer["comparisons"]:
        if versus["first"] == title or versus["first"].startswith(title + " ("):
            row = versus["measures"][0]
            sure = "" if row["significant"] else ", may be chance"
            return f"{row['difference']:+.4f} [{row['low']:+.4f}, {row['high']:+.4f}]{sure}"
    return ""


def table(judged, names, set_name, reference):
    """All rows of a set; the last column is nDCG@10 less the reference's, with its 95% interval."""
    title = SYSTEMS[reference][0]
    lines = [f"| {set_name} | " + " | ".join(label for _, label in MEASURES) + f" | entropy | nDCG@10 against {title} |"]
    lines.append("|---|" + "--:|" * (len(MEASURES) + 2))
    for name in names:
        answer = judged[name][set_name]
        interval = against(answer, title)
        if not interval and name != reference:
            # The reference came later in the order: turn its interval round.
            interval = turned(judged[reference][set_name], SYSTEMS[name][0])
        lines.append(row_of(answer["rows"][0], SYSTEMS[name][0], interval))
    bm25 = judged[reference][set_name]["rows"][-1]
    lines.append(row_of(bm25, "BM25", turned(judged[reference][set_name], "BM25")))
    return "\n".join(lines)


def turned(answer, title):
    for versus in answer["comparisons"]:
        if versus["first"] == title or versus["first"].startswith(title + " ("):
            row = versus["measures"][0]
            sure = "" if row["significant"] else ", may be chance"
            return f"{-row['difference']:+.4f} [{-row['high']:+.4f}, {-row['low']:+.4f}]{sure}"
    return ""


def ndcg(judged, name, set_name):
    return judged[name][set_name]["rows"][0]["mean"]["ndcg_10"]


def goal(text, reached):
    return f"- {'reached' if reached else '**not reached**'}: {text}"


def claim_1(bench, judged):
    lines = ["## 1. Does stage 1 make a retriever of the LLM, and does size help?", ""]
    for set_name in bench.sets:
        lines += [table(judged, CLAIMS[1], set_name, "raw"), ""]
        raw, trained = ndcg(judged, "raw", set_name), ndcg(judged, "stage1", set_name)
        lines.append(goal(f"stage 1 at least doubles the released LLM on {set_name}: {raw:.4f} to {trained:.4f}", trained >= 2 * raw))
        bm25 = judged["stage1"][set_name]["rows"][-1]["mean"]["ndcg_10"]
        lines.append(goal(f"stage 1 passes BM25 on {set_name}: {bm25:.4f}, {trained:.4f}", trained > bm25))
        lines.append(f"- stage 1 less the small LLM trained alike: {against(judged['stage1'][set_name], SYSTEMS['small'][0])}")
        index = judged["stage1"][set_name]
        lines.append(f"- through the index: nDCG@10 {index['rows'][1]['mean']['ndcg_10']:.4f}; it finds {100 * index['index_recall_10']:.2f}% of the exact 10 nearest")
        lines.append("")
    return lines


def claim_2(bench, judged):
    lines = ["## 2. Two stages, end to end, or small and small?", ""]
    times = {name: bench.latency(name) for name in CLAIMS[2]}
    lines += ["| query tower of | median ms | 95% ms | tokens a query | LLM in the same run, median ms | its share |", "|---|--:|--:|--:|--:|--:|"]
    for name in CLAIMS[2]:
        own, other = times[name][0], times[name][-1]
        llm = f"{other['median_ms']:.2f} | {own['median_ms'] / other['median_ms']:.3f}" if len(times[name]) > 1 else " | "
        lines.append(f"| {SYSTEMS[name][0]} | {own['median_ms']:.2f} | {own['p95_ms']:.2f} | {own['mean_tokens']:.1f} | {llm} |")
    lines += ["", f"One thread, one query at a time, {times['stage1'][0]['queries']} queries of {bench.sets[-1]}; towers of one row take turns.", ""]
    for set_name in bench.sets:
        lines += [table(judged, CLAIMS[2], set_name, "stage1"), ""]
        whole = ndcg(judged, "stage1", set_name)
        for name in ("two-stage-small", "two-stage-minilm"):
            kept = ndcg(judged, name, set_name) / whole if whole else 0.0
            title = SYSTEMS[name][0]
            lines.append(goal(f"{title}: keeps 95% of the LLM query tower's nDCG@10 on {set_name}: {100 * kept:.1f}%", kept >= 0.95))
        end = SYSTEMS["end-to-end"][0]
        difference = ndcg(judged, "two-stage-small", set_name) - ndcg(judged, "end-to-end", set_name)
        interval = against(judged["two-stage-small"][set_name], end)
        lines.append(goal(f"the distilled small LLM beats the end-to-end one of equal size on {set_name}: {interval}", difference > 0))
        lines.append("")
    for name in ("two-stage-small", "two-stage-minilm"):
        share = times[name][0]["median_ms"] / times[name][-1]["median_ms"]
        lines.append(goal(f"{SYSTEMS[name][0]}: a query takes at most 1/8 of the LLM's time: 1/{1 / share:.1f}", share <= 1 / 8))
    return lines + [""]


def claim_3(bench, cells, beside, report):
    lines = ["## 3. The scaling law", ""]
    parameters = bench.given.layer_parameters
    for set_name in bench.given.scale_sets.split(","):
        points = [(depth * parameters, pairs, sets[set_name]["rows"][0]["contrastive_entropy"]) for depth, pairs, sets in cells]
        lines += [f"| {set_name}: layers | pairs | contrastive entropy | power law | residual | nDCG@10 |", "|--:|--:|--:|--:|--:|--:|"]
        law = claims_fit.fit(points)
        for (depth, pairs, sets), (n, d, loss) in zip(cells, points):
            said = claims_fit.predict(law, n, d)
            lines.append(f"| {depth} | {pairs} | {loss:.4f} | {said:.4f} | {loss - said:+.4f} | {sets[set_name]['rows'][0]['mean']['ndcg_10']:.4f} |")
        rows = beside[set_name]["rows"]
        for title, answer in ((SYSTEMS["minilm"][0], rows[0]), ("BM25", rows[-1])):
            entropy = answer.get("contrastive_entropy")
            lines.append(f"| {title} | | {'' if entropy is None else f'{entropy:.4f}'} | | | {answer['mean']['ndcg_10']:.4f} |")
        floor = claims_fit.fit(points, floor=True)
        lines += [
            "",
            f"{set_name}: entropy = {law['C']:.3g} N^-{law['a']:.4f} D^-{law['b']:.4f} (N parameters of the layers, D pairs; at a temperature of {TEMPERATURE[1]}), "
            f"R² {law['r2']:.4f} over {len(points)} points; with a floor of {floor['delta']:.4f} the exponents are {floor['a']:.4f} and "
            f"{floor['b']:.4f}, R² {floor['r2']:.4f}. Chance is ln 257 = 5.5491.",
            "",
        ]
        path = report.with_name(f"scaling-{set_name}.svg")
        path.write_text(claims_fit.figure(points, law), encoding="utf-8")
        lines += [f"![contrastive entropy over size and data on {set_name}]({path.name})", ""]
    return lines


def header(bench):
    given = bench.given
    commit = subprocess.run(["git", "-C", str(HERE), "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False).stdout.strip()
    processor = platform.processor() or platform.machine()
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            processor = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), processor)
    except OSError:
        pass
    sizes = f"{given.train_pairs} pairs in batches of {given.batch}, {given.distill_steps} steps of distillation, small = {given.small_layers} layers"
    return [
        "# What the paper claims, measured",
        "",
        f"Written by `benches/claims.py` ({time.strftime('%Y-%m-%d')}, commit {commit or 'unknown'}, {processor}, {len(os.sched_getaffinity(0))} processors). "
        f"{sizes}; towers judged in {given.arithmetic}. Intervals: paired bootstrap over queries, 95%. entropy: contrastive entropy in nats, lower is better.",
        "",
    ]


def main():
    given = options()
    bench = Bench(given)
    wanted = sorted({int(number) for number in given.only.split(",")})
    report = (given.report or bench.out / "claims.md").resolve()
    lines = header(bench)
    names = {name for claim in wanted for name in CLAIMS.get(claim, [])}
    judged = bench.judged(names)
    if 1 in wanted:
        lines += claim_1(bench, judged)
    if 2 in wanted:
        lines += claim_2(bench, judged)
    if 3 in wanted:
        lines += claim_3(bench, *bench.scaling(), report)
    report.parent.mkdir(parents=True, exist_ok=True)
    report.write_text("\n".join(lines).rstrip() + "\n", encoding="utf-8")
    print(f"written: {report}")


if __name__ == "__main__":
    try:
        main()
    except Stopped:
        print("stopped in time; run the same command again to go on", file=sys.stderr)
        sys.exit(75)
    except KeyboardInterrupt:
        sys.exit(130)
