"""Searches a snapshot with the package of schemas/python and prints the hits as JSON.

python search_snapshot.py ROOT NUMBER < queries
"""

import dataclasses
import json
import sys

import pyarrow.compute as pc
from scalingnote_reader import Snapshot

snapshot = Snapshot.open(sys.argv[1], int(sys.argv[2]))
assert snapshot.check_canaries() > 0
answers = []
for query in json.load(sys.stdin):
    where = None
    if query.get("where"):
        column, value = query["where"]
        where = pc.field(column) == value
    hits = snapshot.search(query["vector"], query["k"], where=where, exact=query.get("exact", False))
    answers.append([dataclasses.asdict(hit) for hit in hits])
json.dump(answers, sys.stdout)
