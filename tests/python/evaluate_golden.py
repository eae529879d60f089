"""Writes tests/it/golden/evaluate.json: a random run with ties, judged by pytrec_eval.

pip install pytrec_eval-terrier; python tests/python/evaluate_golden.py
"""

import json
import pathlib
import random

import pytrec_eval

random.seed(7)
qrels, run = {}, {}
for q in range(16):
    docs = [f"d{n}" for n in random.sample(range(3000), 1200 if q < 2 else 110)]
    judged = random.sample(docs, random.randint(1, 30)) + [f"x{n}" for n in range(random.randint(0, 3))]
    qrels[f"q{q}"] = {d: random.choice([0, 1, 1, 2, 3]) for d in judged}
    # Few distinct scores (multiples of 1/64: exact in f32), so ties matter.
    scores = random.choice([16, 64, 4096])
    run[f"q{q}"] = {d: random.randint(0, scores) / 64 + (random.randint(0, scores) / 64 if d in qrels[f"q{q}"] else 0) for d in docs}
qrels = {q: j for q, j in qrels.items() if any(g > 0 for g in j.values())}
run = {q: run[q] for q in qrels}
# Nothing relevant; grades below 0; both zeros, which tie; a judged query without results.
qrels |= {"r0": {"a": 0, "b": -1}, "r1": {"a": 1, "b": -1, "c": -2, "d": 3}, "r2": {"b": 1, "c": 1}, "r3": {"a": 1}}
scores = {"a": 0.5, "b": 0.75, "c": 1.0, "d": 0.25}
run |= {"r0": scores, "r1": scores, "r2": {"a": 0.0, "b": -0.0, "c": -0.0, "d": 0.0}, "r3": {}}

top10 = {q: dict(sorted(r.items(), key=lambda e: (e[1], e[0]), reverse=True)[:10]) for q, r in run.items()}
full = pytrec_eval.RelevanceEvaluator(qrels, {"ndcg_cut.10", "recall.10,100,1000"}).evaluate(run)
cut = pytrec_eval.RelevanceEvaluator(qrels, {"recip_rank"}).evaluate(top10)
expected = {
    q: {
        "ndcg_10": m["ndcg_cut_10"],
        "mrr_10": cut[q]["recip_rank"],
        "recall_10": m["recall_10"],
        "recall_100": m["recall_100"],
        "recall_1000": m["recall_1000"],
    }
    for q, m in full.items()
}
# Documents as numbers keep the file small.
target = pathlib.Path(__file__).parents[1] / "it" / "golden" / "evaluate.json"
target.parent.mkdir(exist_ok=True)
target.write_text(json.dumps({"qrels": qrels, "run": {q: [[d, s] for d, s in r.items()] for q, r in run.items()}, "expected": expected}, separators=(",", ":")))
print(target.stat().st_size, "bytes")
