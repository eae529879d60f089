"""Judges a TREC run with pytrec_eval: python judge_run.py QRELS.tsv RUN [--ignore-identical-ids].

Prints JSON: query -> measure -> value. With the option it does what BEIR's EvaluateRetrieval.evaluate does with
ignore_identical_ids: documents with the query's own id leave the results, judgements stay. QRELS is in BEIR's layout; as
in BEIR's own loader the last of repeated judgements counts.
"""

import csv
import json
import sys

import pytrec_eval

qrels, run = {}, {}
with open(sys.argv[1], encoding="utf-8-sig", newline="") as lines:
    for query, document, grade in csv.reader(lines, delimiter="\t"):
        if grade != "score":
            qrels.setdefault(query, {})[document] = int(float(grade))
with open(sys.argv[2], encoding="utf-8") as lines:
    for line in lines:
        query, _, document, _, score, _ = line.split()
        run.setdefault(query, {})[document] = float(score)
if "--ignore-identical-ids" in sys.argv:
    for query, results in run.items():
        results.pop(query, None)
top10 = {q: dict(sorted(r.items(), key=lambda e: (e[1], e[0]), reverse=True)[:10]) for q, r in run.items()}
full = pytrec_eval.RelevanceEvaluator(qrels, {"ndcg_cut.10", "recall.10,100,1000"}).evaluate(run)
cut = pytrec_eval.RelevanceEvaluator(qrels, {"recip_rank"}).evaluate(top10)
names = {"ndcg_10": "ndcg_cut_10", "recall_10": "recall_10", "recall_100": "recall_100", "recall_1000": "recall_1000"}
print(json.dumps({q: {"mrr_10": cut[q]["recip_rank"], **{ours: m[theirs] for ours, theirs in names.items()}} for q, m in full.items()}))
