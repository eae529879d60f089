#!/usr/bin/env python3
"""How many of the quick start's searches show what they should: hit@3 over pipelines/quickstart/searches.tsv.

    searches.py PROGRAM PIPELINE_OR_ROOT [--depth 3]

The searches were written from the weaknesses' titles before any result was seen; a search may have several right answers. The
snapshot must be there (`make index`). Prints what was missed.
"""

import argparse
import json
import pathlib
import subprocess
import sys

SEARCHES = pathlib.Path(__file__).resolve().parent.parent / "pipelines/quickstart/searches.tsv"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program")
    parser.add_argument("where")
    parser.add_argument("--depth", type=int, default=3)
    args = parser.parse_args()
    found = 0
    searches = [line.split("\t") for line in SEARCHES.read_text().splitlines()[1:]]
    for query, right in searches:
        command = [args.program, "search", args.where, query, "-k", str(args.depth), "--json"]
        run = subprocess.run(command, capture_output=True, text=True)
        if run.returncode:
            sys.exit(run.stderr.strip())
        shown = [str(hit["note_id"]) for hit in json.loads(run.stdout)["hits"]]
        if set(shown) & set(right.split(",")):
            found += 1
        else:
            print(f"missed: {query} (CWE-{right}; shown: {', '.join(shown)})")
    print(f"hit@{args.depth}: {found} of {len(searches)}")


if __name__ == "__main__":
    main()
