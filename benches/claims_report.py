"""The report of claims.py: one table a claim, with intervals and the goals that were reached or not."""

import os
import pathlib
import platform
import subprocess
import time

import claims_fit
import steps

HERE = pathlib.Path(__file__).resolve().parent
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


class Known(dict):
    """What was found, by name; what was cut (`steps.Cut`) raises it."""

    def __getitem__(self, name):
        found = super().__getitem__(name)
        if isinstance(found, steps.Cut):
            raise found
        return found


def part(write):
    """Some lines of the report, or what was cut of them."""
    try:
        return write()
    except steps.Cut as cut:
        return [f"- not judged: {cut}"]


def row_of(answer, title, system):
    values = " | ".join(f"{answer['mean'][key]:.4f}" for key, _ in MEASURES)
    entropy = answer.get("contrastive_entropy")
    return f"| {title} | {values} | {'' if entropy is None else f'{entropy:.4f}'} | {system} |"


def against(answer, title, sign=1):
    """The interval of nDCG@10 against the system of this title, as text; with a sign of -1 that system's against this one."""
    for versus in answer["comparisons"]:
        if versus["first"] == title or versus["first"].startswith(title + " ("):
            row = versus["measures"][0]
            low, high = sorted((sign * row["low"], sign * row["high"]))
            sure = "" if row["significant"] else ", may be chance"
            return f"{sign * row['difference']:+.4f} [{low:+.4f}, {high:+.4f}]{sure}"
    return ""


def table(judged, names, set_name, reference):
    """All rows of a set; the last column is nDCG@10 less the reference's, with its 95% interval."""
    title = SYSTEMS[reference][0]
    lines = [f"| {set_name} | " + " | ".join(label for _, label in MEASURES) + f" | entropy | nDCG@10 against {title} |"]
    lines.append("|---|" + "--:|" * (len(MEASURES) + 2))
    try:
        base = judged[reference][set_name]
    except steps.Cut:
        base = {"rows": [], "comparisons": []}
    for name in names:
        try:
            answer = judged[name][set_name]
        except steps.Cut as cut:
            lines.append(f"| {SYSTEMS[name][0]} | {cut} |" + " |" * (len(MEASURES) + 1))
            continue
        interval = against(answer, title)
        if not interval and name != reference:
            # The reference came later in the order: turn its interval round.
            interval = against(base, SYSTEMS[name][0], -1)
        lines.append(row_of(answer["rows"][0], SYSTEMS[name][0], interval))
    for bm25 in base["rows"][-1:]:
        lines.append(row_of(bm25, "BM25", against(base, "BM25", -1)))
    return "\n".join(lines)


def ndcg(judged, name, set_name):
    return judged[name][set_name]["rows"][0]["mean"]["ndcg_10"]


def goal(text, reached):
    return f"- {'reached' if reached else '**not reached**'}: {text}"


def claim_1(bench, judged):
    lines = ["## 1. Does stage 1 make a retriever of the LLM, and does size help?", ""]
    for set_name in bench.sets:
        lines += [table(judged, CLAIMS[1], set_name, "raw"), ""]
        lines += part(lambda: goals_1(judged, set_name)) + [""]
    return lines


def goals_1(judged, set_name):
    raw, trained = ndcg(judged, "raw", set_name), ndcg(judged, "stage1", set_name)
    stage1 = judged["stage1"][set_name]
    bm25 = stage1["rows"][-1]["mean"]["ndcg_10"]
    return [
        goal(f"stage 1 at least doubles the released LLM on {set_name}: {raw:.4f} to {trained:.4f}", trained >= 2 * raw),
        goal(f"stage 1 passes BM25 on {set_name}: {bm25:.4f}, {trained:.4f}", trained > bm25),
        f"- stage 1 less the small LLM trained alike: {against(stage1, SYSTEMS['small'][0])}",
        f"- through the index: nDCG@10 {stage1['rows'][1]['mean']['ndcg_10']:.4f}; it finds {100 * stage1['index_recall_10']:.2f}% of the exact 10 nearest",
    ]


def claim_2(bench, judged):
    lines = ["## 2. Two stages, end to end, or small and small?", ""]
    times = Known()
    lines += ["| query tower of | median ms | 95% ms | tokens a query | LLM in the same run, median ms | its share |", "|---|--:|--:|--:|--:|--:|"]
    for name in CLAIMS[2]:
        try:
            # Raises where it was cut: what was not trained cannot be timed.
            judged[name]
            times[name] = bench.latency(name)
        except steps.Cut as cut:
            times[name] = cut
            lines.append(f"| {SYSTEMS[name][0]} | {cut} | | | | |")
            continue
        own, other = times[name][0], times[name][-1]
        llm = f"{other['median_ms']:.2f} | {own['median_ms'] / other['median_ms']:.3f}" if len(times[name]) > 1 else " | "
        lines.append(f"| {SYSTEMS[name][0]} | {own['median_ms']:.2f} | {own['p95_ms']:.2f} | {own['mean_tokens']:.1f} | {llm} |")
    asked = lambda: f"One thread, one query at a time, {times['stage1'][0]['queries']} queries of {bench.sets[-1]}; towers of one row take turns."
    lines += ["", *part(lambda: [asked()]), ""]
    for set_name in bench.sets:
        lines += [table(judged, CLAIMS[2], set_name, "stage1"), ""]
        for name in ("two-stage-small", "two-stage-minilm"):
            lines += part(lambda: [goal_kept(judged, name, set_name)])
        lines += part(lambda: [goal_distilled(judged, set_name)]) + [""]
    for name in ("two-stage-small", "two-stage-minilm"):
        lines += part(lambda: [goal_quick(times, name)])
    return lines + [""]


def goal_kept(judged, name, set_name):
    whole = ndcg(judged, "stage1", set_name)
    kept = ndcg(judged, name, set_name) / whole if whole else 0.0
    return goal(f"{SYSTEMS[name][0]}: keeps 95% of the LLM query tower's nDCG@10 on {set_name}: {100 * kept:.1f}%", kept >= 0.95)


def goal_distilled(judged, set_name):
    difference = ndcg(judged, "two-stage-small", set_name) - ndcg(judged, "end-to-end", set_name)
    interval = against(judged["two-stage-small"][set_name], SYSTEMS["end-to-end"][0])
    return goal(f"the distilled small LLM beats the end-to-end one of equal size on {set_name}: {interval}", difference > 0)


def goal_quick(times, name):
    share = times[name][0]["median_ms"] / times[name][-1]["median_ms"]
    return goal(f"{SYSTEMS[name][0]}: a query takes at most 1/8 of the LLM's time: 1/{1 / share:.1f}", share <= 1 / 8)


def claim_3(bench, cells, beside, report):
    lines = ["## 3. The scaling law", ""]
    for set_name in bench.given.scale_sets.split(","):
        lines += law_of(bench.given.layer_parameters, cells, beside, set_name, report)
    return lines


def law_of(parameters, cells, beside, set_name, report):
    """The points of a set, their law and its picture."""
    lines = [f"| {set_name}: layers | pairs | contrastive entropy | power law | residual | nDCG@10 |", "|--:|--:|--:|--:|--:|--:|"]
    points, judged = [], []
    for depth, pairs, sets in cells:
        try:
            row = sets[set_name]["rows"][0]
        except steps.Cut as cut:
            lines.append(f"| {depth} | {pairs} | {cut} | | | |")
            continue
        points.append((depth * parameters, pairs, row["contrastive_entropy"]))
        judged.append((depth, pairs, row))
    try:
        law, floor = claims_fit.fit(points), claims_fit.fit(points, floor=True)
    except ValueError as error:
        return [*lines, "", f"- no law: {error}", ""]
    for (depth, pairs, row), (n, d, loss) in zip(judged, points):
        said = claims_fit.predict(law, n, d)
        lines.append(f"| {depth} | {pairs} | {loss:.4f} | {said:.4f} | {loss - said:+.4f} | {row['mean']['ndcg_10']:.4f} |")
    try:
        rows = beside[set_name]["rows"]
        for title, answer in ((SYSTEMS["minilm"][0], rows[0]), ("BM25", rows[-1])):
            entropy = answer.get("contrastive_entropy")
            lines.append(f"| {title} | | {'' if entropy is None else f'{entropy:.4f}'} | | | {answer['mean']['ndcg_10']:.4f} |")
    except steps.Cut as cut:
        lines.append(f"| {SYSTEMS['minilm'][0]} | | {cut} | | | |")
    path = report.with_name(f"scaling-{set_name}.svg")
    path.write_text(claims_fit.figure(points, law), encoding="utf-8")
    return lines + [
        "",
        f"{set_name}: entropy = {law['C']:.3g} N^-{law['a']:.4f} D^-{law['b']:.4f} (N parameters of the layers, D pairs; at a temperature of {TEMPERATURE[1]}), "
        f"R² {law['r2']:.4f} over {len(points)} points; with a floor of {floor['delta']:.4f} the exponents are {floor['a']:.4f} and "
        f"{floor['b']:.4f}, R² {floor['r2']:.4f}. Chance is ln 257 = 5.5491.",
        "",
        f"![contrastive entropy over size and data on {set_name}]({path.name})",
        "",
    ]


def claim_4(bench):
    return ["## 4. Hard negatives", "", *part(lambda: rounds(bench.mined())), ""]


def rounds(found):
    lines = ["| held-out | " + " | ".join(label for _, label in MEASURES) + " | entropy | seconds of training | nDCG@10 against the tower before | against the round without |"]
    lines.append("|---|" + "--:|" * (len(MEASURES) + 4))
    for title, seconds, answer in found:
        if seconds is None:
            lines.append(f"| {title} | {answer} |" + " |" * (len(MEASURES) + 3))
            continue
        without = against(answer, found[1][0]) if len(found) > 1 else ""
        lines.append(row_of(answer["rows"][0], title, f"{seconds:.0f} | {against(answer, found[0][0])} | {without}"))
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
