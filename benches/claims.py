"""Trains, judges and tabulates what the paper claims, with the recipes in benches/claims/.

    python3 benches/claims.py PROGRAM --pairs PAIRS_DIR --sets SETS_DIR [--only 1,2,3,4] [--out .cache/claims] [--deadline 2h]

1  the LLM after stage 1, the LLM as released, the LLM cut to 4 layers and trained alike
2  two stages (LLM documents, a distilled query tower), end to end (both trained together), small and small; latency
3  the scaling law: depth x data, contrastive entropy of held-out pairs fitted to a power law
4  hard negatives: a further round for a tower of claim 3, with documents mined for it and without them

PAIRS_DIR holds debian-pairs, tldr-pairs and medquad-pairs, SETS_DIR holds scifact and stackexchange-mini, all in BEIR layout.
Nothing that is judged is trained on. Everything is kept under --out and what is finished is not done again: interrupt it, or
give it a --deadline (exit 75), and run the same command to go on. A step that takes longer than STEP_SECONDS (86400) is cut
(steps.py): its row says so, and the same command gives it as long again. Another size of the experiments is another --out. Writes
one table a claim into --report; needs nothing but Python.
"""

import argparse
import hashlib
import itertools
import json
import os
import pathlib
import re
import shutil
import sys
import time

import claims_pairs
import steps
from claims_report import CLAIMS, SYSTEMS, TEMPERATURE, Known, claim_1, claim_2, claim_3, claim_4, header

HERE = pathlib.Path(__file__).resolve().parent
RECIPES = HERE / "claims"
MODEL = "../../.cache/models/SmolLM2-135M-Instruct.Q4_1.gguf"
MINILM = "../../.cache/models/minilm"
PAIRS_OF_RECIPE = 7200
BATCH_OF_RECIPE = 48
# Of the training pairs: what claim 3 is judged on.
HELD_OUT = "held-out"
# Of each source, what negatives are mined among.
MINED_AMONG = 2000


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
    parser.add_argument("--report", type=pathlib.Path, help="default: OUT/claims.md; the figure is beside it")
    parser.add_argument("--only", default="1,2,3,4", help="which claims (default 1,2,3,4)")
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
    parser.add_argument("--mined-start", default="6-4000", help="depth and pairs of the tower that negatives are mined for, for claim 4")
    parser.add_argument("--mined-pairs", type=int, default=1968, help="pairs of claim 4's further round")
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
        self.cuts = {}
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

    def call(self, name, *arguments, out=None):
        """One step of the program; what was cut once is not tried again in this run."""
        if name in self.cuts:
            raise self.cuts[name]
        command = [str(self.program), *map(str, arguments)]
        print("$", " ".join(command), flush=True)
        part = out.with_suffix(".part") if out else os.devnull
        try:
            with open(part, "wb") as stdout:
                code = steps.Step(command, steps.limit(86_400), env=self.environment, stdout=stdout if out else None).wait()
        except steps.Cut as cut:
            print(f"{name}: {cut}", file=sys.stderr, flush=True)
            self.cuts[name] = cut
            raise
        if code == 75:
            raise Stopped
        if code:
            sys.exit(f"error: {' '.join(command)} ended with exit code {code}")
        if out:
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

    def train(self, name, recipe, *hangs_on):
        """Trains (or distils) into OUT/name, unless that is finished; `hangs_on`: of what the recipe only names."""
        folder = self.out / name
        stamp = digest(recipe.read_bytes() + "".join(hangs_on).encode())
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
        self.call(name, command, recipe, "--out", folder, *extra)
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
                answer.stem, "evaluate", recipe, folder_of_set, "--name", title, "--vectors", self.out / vectors,
                "--index", "--json", *more, *compare, out=answer,
            )
            stamp.write_text(inputs)
        return answer

    def judged(self, names):
        """name -> set -> answer, in the order of SYSTEMS, each compared with those before it."""
        found, judged = {}, Known()
        for name in (name for name in SYSTEMS if name in names):
            title, needs = SYSTEMS[name]
            try:
                for need in needs:
                    self.trained(need)
                recipe, answers = self.recipe(name), {}
                for set_name in self.sets:
                    before = [sets[set_name] for sets in found.values()]
                    folder = self.given.sets.resolve() / set_name
                    answers[set_name] = self.evaluate(name, title, recipe, folder, before)
            except steps.Cut as cut:
                judged[name] = cut
                continue
            found[name] = answers
            judged[name] = {set_name: json.loads(path.read_text()) for set_name, path in answers.items()}
        return judged

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
                path.stem, "evaluate", recipe, folder, "--vectors", self.out / "vectors",
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
                name, sets = f"scale-{depth}-{pairs}", Known()
                seen = pairs
                try:
                    folder = self.train(name, self.recipe("train-scale", name, depth, pairs))
                    tower = self.tower_of(folder)
                    report = json.loads((folder / "report.json").read_text())
                    seen = sum(step["pairs"] for step in report["steps"])
                    for set_name, set_folder in folders.items():
                        path = self.evaluate(name, f"{depth} layers, {seen} pairs", tower, set_folder, [], "vectors", *TEMPERATURE)
                        sets[set_name] = json.loads(path.read_text())
                except steps.Cut as cut:
                    sets = Known.fromkeys(folders, cut)
                cells.append((depth, seen, sets))
        beside = Known()
        for name, folder in folders.items():
            try:
                path = self.evaluate("scale-minilm", SYSTEMS["minilm"][0], self.recipe("minilm"), folder, [], "vectors", *TEMPERATURE)
                beside[name] = json.loads(path.read_text())
            except steps.Cut as cut:
                beside[name] = cut
        return cells, beside

    def tower_of(self, folder):
        """The towers' file of a cut model that was trained whole."""
        tower = self.recipe("scale", f"{folder.name}-tower")
        text = tower.read_text(encoding="utf-8").replace(f"{self.out}/scale/model", f"{folder}/model")
        tower.write_text(text, encoding="utf-8")
        return tower

    # --- Hard negatives ---------------------------------------------------------------------------------------

    def mined(self):
        """[(title, seconds of training, evaluation)]: the tower before, after a round without negatives, after one with them;
        (title, None, `steps.Cut`) where it was cut."""
        held_out = claims_pairs.split(self.given.pairs.resolve(), self.out)
        depth, pairs = map(int, self.given.mined_start.split("-"))
        name = f"scale-{depth}-{pairs}"
        start = self.train(name, self.recipe("train-scale", name, depth, pairs))
        # What is mined among: some pairs of every source, of which `train` then draws its batches.
        among = self.recipe("train-scale", "mine", depth, pairs)
        some = self.out / "mined-pairs"
        some.mkdir(exist_ok=True)
        for source in sorted((self.out / "scale-pairs").glob("*.jsonl")):
            with open(source, encoding="utf-8") as lines:
                (some / source.name).write_text("".join(itertools.islice(lines, MINED_AMONG)), encoding="utf-8")
        text = among.read_text(encoding="utf-8").replace(f"{self.out}/scale-pairs", str(some))
        among.write_text(text, encoding="utf-8")
        held = b"".join(file.read_bytes() for file in sorted(some.glob("*.jsonl")))
        folder, stamp = self.out / "mined", digest(text.encode() + (start / "finished").read_bytes() + held)
        done = folder / "finished"
        if not (done.is_file() and done.read_text() == stamp):
            self.left()
            self.call("mined", "mine", among, "--adapter", start, "--out", folder, "--keep", 2)
            done.write_text(stamp)
        found, before = [], []
        for title, negatives in (("before", None), ("without hard negatives", 0), ("with two hard negatives a pair", 2)):
            folder = start
            try:
                if negatives is not None:
                    recipe = self.recipe("train-mined", f"train-mined-{negatives}", pairs=self.given.mined_pairs)
                    text = recipe.read_text(encoding="utf-8").replace("hard_negatives = 2", f"hard_negatives = {negatives}")
                    recipe.write_text(text.replace(f"{self.out}/mined-start", str(start)), encoding="utf-8")
                    folder = self.train(f"mined-{negatives}", recipe, stamp)
                tower = self.tower_of(folder)
                path = self.evaluate(f"round-{folder.name}", title, tower, held_out, before, "vectors", *TEMPERATURE)
            except steps.Cut as cut:
                return [*found, (title, None, cut)]
            report = json.loads((folder / "report.json").read_text())
            found.append((title, report["seconds"], json.loads(path.read_text())))
            before = [*before, path]
        return found


def digest(data):
    return hashlib.sha256(data).hexdigest()


def main():
    given = options()
    bench = Bench(given)
    wanted = sorted({int(number) for number in given.only.split(",")})
    if 3 in wanted and min(len(set(given.depths.split(","))), len(set(given.amounts.split(",")))) < 2:
        sys.exit("error: claim 3 fits a law, for which --depths and --amounts need two values each, e.g. 3,6 and 1000,2000")
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
    if 4 in wanted:
        lines += claim_4(bench)
    report.parent.mkdir(parents=True, exist_ok=True)
    report.write_text("\n".join(lines).rstrip() + "\n", encoding="utf-8")
    print(f"written: {report}")
    print(steps.said(bench.cuts.items()))


if __name__ == "__main__":
    try:
        main()
    except Stopped:
        print("stopped in time; run the same command again to go on", file=sys.stderr)
        sys.exit(75)
    except KeyboardInterrupt:
        sys.exit(130)
