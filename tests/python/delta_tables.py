"""Writes Delta tables for the tests, with the `deltalake` package.

    delta_tables.py FOLDER STEP

Each STEP is one commit of the table in FOLDER, or a table of its own; what it holds then is said beside it.
"""

import json
import os
import pathlib
import random
import struct
import sys

import pyarrow
from deltalake import DeltaTable, write_deltalake


def batch(ids, **more):
    """Notes with these ids: `edition` makes their texts differ, `lang` is where they lie."""
    edition, lang = more.get("edition", 1), more.get("lang", "en")
    columns = {
        "id": pyarrow.array(ids, pyarrow.int64()),
        "body": [f"note {number} in edition {edition}" for number in ids],
        "lang": [lang] * len(ids),
    }
    if "stars" in more:
        columns["stars"] = pyarrow.array([more["stars"]] * len(ids), pyarrow.int64())
    return pyarrow.table(columns)


def z85(data):
    digits = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.-:+=^!/*?&<>()[]{}@%$#"
    text = ""
    for at in range(0, len(data), 4):
        number, part = int.from_bytes(data[at:at + 4], "big"), ""
        for _ in range(5):
            number, digit = divmod(number, 85)
            part = digits[digit] + part
        text += part
    return text


def deletion_vector(rows):
    """A few rows of a file's first 65,536, as the protocol writes them into the log itself."""
    bitmap = struct.pack("<IIHHI", 12346, 1, 0, len(rows) - 1, 16) + struct.pack(f"<{len(rows)}H", *rows)
    data = struct.pack("<IQI", 1681511377, 1, 0) + bitmap
    assert len(data) % 4 == 0, "an even number of rows"
    return {"storageType": "i", "pathOrInlineDv": z85(data), "sizeInBytes": len(data), "cardinality": len(rows)}


def deleted(folder):
    """Notes 0 to 9 in one file, of which a deletion vector takes 3 and 7; no writer of the package can."""
    write_deltalake(folder, batch(range(10)))
    log = pathlib.Path(folder) / "_delta_log"
    actions = [json.loads(line) for line in (log / f"{0:020}.json").read_text().splitlines()]
    add = next(action["add"] for action in actions if "add" in action)
    protocol = {
        "minReaderVersion": 3, "minWriterVersion": 7,
        "readerFeatures": ["deletionVectors"], "writerFeatures": ["deletionVectors"],
    }
    removed = {key: add[key] for key in ("path", "size", "partitionValues")}
    removed |= {"dataChange": True, "deletionTimestamp": 1, "extendedFileMetadata": True}
    added = add | {"deletionVector": deletion_vector([3, 7])}
    lines = [{"protocol": protocol}, {"remove": removed}, {"add": added}]
    (log / f"{1:020}.json").write_text("".join(json.dumps(line) + "\n" for line in lines))


def anything(folder, chance):
    """What writers do to a table with a change data feed, of which some changes no note and some the table itself."""
    table = DeltaTable(folder)
    first = chance.randrange(1000)
    some = f"id >= {first} AND id < {first + chance.randrange(1, 40)}"
    what = chance.choice(["edit", "edit", "move", "delete", "append", "merge", "twice", "compact", "replace", "evolve"])
    ids = range(first, first + 10)
    if what == "edit":
        table.update(updates={"body": f"concat('{step_of(chance)} ', body)"}, predicate=some)
    elif what == "move":
        table.update(updates={"lang": chance.choice(["'en'", "'zh'"])}, predicate=some)
    elif what == "delete":
        table.delete(some)
    elif what == "append":
        newest = table.to_pyarrow_table(columns=["id"])["id"].to_pylist()
        write_deltalake(folder, batch(range(max(newest) + 1, max(newest) + 6)), mode="append", schema_mode="merge")
    elif what == "merge":
        source = batch(ids, edition=step_of(chance))
        merge = table.merge(source, predicate="s.id = t.id", source_alias="s", target_alias="t")
        columns = {name: f"s.{name}" for name in ("id", "body", "lang")}
        merge.when_matched_update(updates=columns).when_not_matched_insert(updates=columns).execute()
    elif what == "twice":  # deleted, and there again
        table.delete("id >= {0} AND id < {1}".format(first, first + 10))
        write_deltalake(folder, batch(ids, edition=step_of(chance)), mode="append", schema_mode="merge")
    elif what == "compact":
        table.optimize.compact()
    elif what == "replace":
        write_deltalake(folder, batch(ids, edition=step_of(chance)), mode="overwrite", schema_mode="merge",
                        predicate=f"id >= {ids[0]} AND id <= {ids[-1]}")
    elif what == "evolve":
        newest = table.to_pyarrow_table(columns=["id"])["id"].to_pylist()
        write_deltalake(folder, batch([max(newest) + 1], stars=1), mode="append", schema_mode="merge")
    print(what, file=sys.stderr)


def step_of(chance):
    return chance.randrange(10**6)


def main():
    folder, step = sys.argv[1:]
    options = None
    if "://" in folder:  # the S3 server of tests/python/stores.py
        options = {"AWS_ENDPOINT_URL": os.environ["AWS_ENDPOINT"], "AWS_ALLOW_HTTP": "true"}
    write = lambda table, **more: write_deltalake(folder, table, storage_options=options, **more)
    if step == "new":  # 1 and 2 in English, 3 in Chinese
        write(pyarrow.concat_tables([batch([1, 2]), batch([3], lang="zh")]), partition_by=["lang"])
    elif step == "append":  # and 4, with a column that the others have not
        write(batch([4], stars=5), mode="append", schema_mode="merge")
    elif step == "edit":  # 2 in its second edition
        DeltaTable(folder, storage_options=options).update(
            updates={"body": "'note 2 in edition 2'"}, predicate="id = 2")
    elif step == "delete":  # without 1
        DeltaTable(folder, storage_options=options).delete("id = 1")
    elif step == "compact":  # the same rows in other files, and a checkpoint
        table = DeltaTable(folder, storage_options=options)
        table.optimize.compact()
        table.create_checkpoint()
    elif step == "vacuum":  # without the files of earlier versions
        DeltaTable(folder, storage_options=options).vacuum(
            retention_hours=0, dry_run=False, enforce_retention_duration=False)
    elif step == "deleted":
        deleted(folder)
    elif step == "feed":  # notes 0 to 999, with a change data feed
        write(batch(range(1000)), configuration={"delta.enableChangeDataFeed": "true"})
    elif step.startswith("random-"):  # a commit or two of any kind, by seed
        anything(folder, random.Random(step))
    elif step == "feed-edit":  # ten edited, five deleted, five new
        table = DeltaTable(folder, storage_options=options)
        table.update(updates={"body": "'edited'"}, predicate="id >= 10 AND id < 20")
        table.delete("id >= 100 AND id < 105")
        write(batch(range(1000, 1005)), mode="append")
    elif step == "feed-move":  # some to another language, so that a filter does not take them any more
        DeltaTable(folder).update(updates={"lang": "'zh'"}, predicate="id >= 30 AND id < 40")
    elif step == "feed-evolve":  # one more, with a column that the others have not
        write(batch([5000], stars=5), mode="append", schema_mode="merge")
    elif step == "feed-back":
        DeltaTable(folder).update(updates={"lang": "'en'"}, predicate="id >= 35 AND id < 45")
    else:
        sys.exit(f"no step {step}")
    print(DeltaTable(folder, storage_options=options).version() if step != "deleted" else 1)


main()
