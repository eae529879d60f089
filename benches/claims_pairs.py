"""Training pairs for claim 3, and a retrieval set of those that are held out.

A law of loss over size and data is about the distribution that is trained on, so it is judged there: some pairs of every set become
a set of their own, in BEIR layout, and whatever shares a document or a question with them is not trained on.
"""

import gzip
import hashlib
import json
import lzma

SETS = ("debian", "tldr", "medquad")
# Of every set, but at most a tenth of it.
HELD_OUT = 400
# SmolLM2 knows little Chinese.
LEFT_OUT = "zh-"


def lines(folder, name):
    """The lines of a file, which may be compressed."""
    for ending, opened in (("", open), (".xz", lzma.open), (".gz", gzip.open)):
        path = folder / (name + ending)
        if path.is_file():
            with opened(path, "rt", encoding="utf-8-sig") as file:
                yield from file
            return
    raise SystemExit(f"error: {folder} has no {name}")


def judgements(folder):
    """Query and document of every judgement above 0, by the rules of src/dataset/qrels.rs: a header is a first line whose
    third field is not a number, and a line that is repeated counts once."""
    seen = set()
    for number, line in enumerate(line for line in lines(folder, "qrels.tsv") if line.strip()):
        fields = [field.strip('"') for field in line.rstrip("\r\n").split("\t")]
        if len(fields) != 3:
            raise SystemExit(f"error: {folder}/qrels.tsv: {len(fields)} fields, where query, document and grade are expected")
        query, document, grade = fields
        try:
            relevant = float(grade) > 0
        except ValueError:
            if number == 0:
                continue
            raise SystemExit(f"error: {folder}/qrels.tsv: a grade is not a number") from None
        if relevant and (query, document) not in seen:
            seen.add((query, document))
            yield query, document


def draw(text):
    return hashlib.sha256(text.encode()).digest()


def split(pairs, out):
    """Writes `out`/held-out (BEIR layout) and `out`/scale-pairs/NAME.jsonl, unless they are there."""
    held_out, trained = out / "held-out", out / "scale-pairs"
    if (held_out / "qrels.tsv").is_file():
        return held_out
    for folder in (held_out, trained):
        folder.mkdir(parents=True, exist_ok=True)
    corpus, queries, judged = [], [], ["query-id\tcorpus-id\tscore"]
    for name in SETS:
        folder = pairs / f"{name}-pairs"
        texts = {row["_id"]: row for row in map(json.loads, lines(folder, "corpus.jsonl"))}
        asked = {row["_id"]: row["text"] for row in map(json.loads, lines(folder, "queries.jsonl"))}
        found = [pair for pair in judgements(folder) if not pair[1].startswith(LEFT_OUT)]
        # Judgements of what is not there are passed over, as `scalingnote` does.
        found = [(query, document) for query, document in found if query in asked and document in texts]
        found.sort(key=lambda pair: draw(f"{name} {pair[0]} {pair[1]}"))
        documents, questions, some = {}, set(), []
        for query, document in found:
            if len(some) < min(HELD_OUT, len(found) // 10) and document not in documents and asked[query] not in questions:
                documents[document] = f"{name}-{document}"
                questions.add(asked[query])
                some.append((query, document))
        for query, document in some:
            row = {"_id": documents[document], "title": texts[document].get("title") or "", "text": texts[document]["text"]}
            corpus.append(json.dumps(row, ensure_ascii=False))
            queries.append(json.dumps({"_id": f"{name}-{query}", "text": asked[query]}, ensure_ascii=False))
            judged.append(f"{name}-{query}\t{documents[document]}\t1")
        with open(trained / f"{name}.jsonl", "w", encoding="utf-8") as file:
            for query, document in found:
                if document not in documents and asked[query] not in questions:
                    row = {"query": asked[query], "title": texts[document].get("title") or "", "text": texts[document]["text"]}
                    file.write(json.dumps(row, ensure_ascii=False) + "\n")
    # The judgements last: they say that all of it is there.
    for name, rows in (("corpus.jsonl", corpus), ("queries.jsonl", queries), ("qrels.tsv", judged)):
        (held_out / name).write_text("\n".join(rows) + "\n", encoding="utf-8")
    return held_out
