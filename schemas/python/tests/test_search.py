"""What a search finds, against a plain comparison with every vector."""

import concurrent.futures
import tempfile
import unittest

import numpy as np
import pyarrow.compute as pc
from made import Made, numbered, vectors

from scalingnote_reader import Snapshot
from scalingnote_reader._rotation import rotate

QUERIES = vectors(20, seed=9)


def nearest(rows, query, k):
    """The notes with the greatest scores, each by its best chunk, equal scores by id."""
    best = {}
    for tagged, _, vector in rows:
        note = int(tagged[2:]) if tagged.startswith("i:") else tagged[2:]
        score = float(vector.astype(np.float16).astype(np.float32) @ query)
        best[note] = max(best.get(note, -2.0), score)
    return sorted(best.items(), key=lambda hit: (-hit[1], isinstance(hit[0], str), hit[0]))[:k]


class Search(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = folder.name

    def check(self, snapshot, rows, k=10, least=0.97, **options):
        """Finds at least this share of the exact hits, with exact scores, best first."""
        there = total = 0
        for query in QUERIES:
            expected = dict(nearest(rows, query, k))
            found = snapshot.search(query * 3, k, **options)
            self.assertEqual(len({hit.note_id for hit in found}), len(expected))
            scores = [hit.score for hit in found]
            self.assertEqual(scores, sorted(scores, reverse=True))
            for hit in found:
                if hit.note_id in expected:
                    self.assertAlmostEqual(hit.score, expected[hit.note_id], delta=1e-5)
            there += sum(hit.note_id in expected for hit in found)
            total += len(expected)
        self.assertGreaterEqual(there / total, least)

    def test_every_quantisation_finds_what_is_there(self):
        rows = numbered(800)
        for quantization, least in [
            ("f32", 0.99),
            ("f16", 0.99),
            ("bf16", 0.99),
            ("i8", 0.97),
            ("b1", 0.6),
            ("b1r", 0.9),
        ]:
            with self.subTest(quantization):
                made = Made(f"{self.folder}/{quantization}", quantization)
                made.publish([[made.segment(rows[:300])], [], [made.segment(rows[300:])]], notes=len(rows))
                snapshot = Snapshot.open(made.folder)
                self.check(snapshot, rows, least=least)
                self.check(snapshot, rows, least=1.0, exact=True)

    def test_without_rescoring_scores_are_the_indexs_own(self):
        rows = numbered(500)
        for quantization, delta in [("f32", 1e-3), ("i8", 0.02), ("bf16", 0.01), ("b1", 0.5), ("b1r", 0.5)]:
            with self.subTest(quantization):
                made = Made(f"{self.folder}/{quantization}", quantization, rescore=0)
                made.publish([[made.segment(rows)]], notes=len(rows))
                snapshot = Snapshot.open(made.folder)
                for query in QUERIES:
                    best, exact = snapshot.search(query, 1)[0], nearest(rows, query, 1)[0]
                    self.assertAlmostEqual(best.score, exact[1], delta=delta)

    def test_the_rotation_is_the_one_of_the_program(self):
        self.assertEqual(rotate(np.arange(6, dtype=np.float32), 1).tolist(), [4, -4.5, -2.25, 1.75, 1.75, 2.75])

    def test_removed_and_replaced_vectors_do_not_count(self):
        made = Made(self.folder)
        rows = numbered(400)
        # Note 3 went, notes 5 to 14 have another text, 900 to 909 came.
        later = numbered(10, seed=4, first=5) + numbered(10, seed=5, first=900)
        gone = [("i:3", 0)] + [(f"i:{note}", 0) for note in range(5, 15)]
        segments = [made.segment(rows, removed=gone), made.segment(later)]
        made.publish([segments], notes=409)
        snapshot = Snapshot.open(self.folder)
        live = [row for row in rows if (row[0], 0) not in gone] + later
        self.check(snapshot, live, least=0.99)
        self.check(snapshot, live, least=0.99, k=60)
        with self.assertRaises(KeyError):
            snapshot.vector(3)
        np.testing.assert_allclose(snapshot.vector(5), later[0][2], atol=1e-3)
        self.assertEqual(snapshot.search(snapshot.vector(5), 1)[0].note_id, 5)
        everything = {hit.note_id for hit in snapshot.search(QUERIES[0], 10_000)}
        self.assertEqual(everything, {int(tagged[2:]) for tagged, _, _ in live})

    def test_a_note_counts_by_its_best_chunk(self):
        made = Made(self.folder)
        # One long note has most of the nearest chunks.
        near = vectors(1, seed=9)[0]
        random = np.random.default_rng(3)
        long = [("s:long", chunk, near + 0.01 * random.normal(size=near.shape)) for chunk in range(80)]
        long = [(note, chunk, (row / np.linalg.norm(row)).astype(np.float32)) for note, chunk, row in long]
        rows = long + [(f"s:{at}", at % 2, row) for at, row in enumerate(vectors(100))]
        made.publish([[made.segment(rows)]], notes=101)
        snapshot = Snapshot.open(self.folder)
        self.check(snapshot, rows)
        found = snapshot.search(near, 5)
        best = max(long, key=lambda row: float(row[2].astype(np.float16).astype(np.float32) @ near))
        self.assertEqual((found[0].note_id, found[0].chunk, len(found)), ("long", best[1], 5))

    def test_equal_scores_stand_by_note_id(self):
        made = Made(self.folder)
        same = vectors(1)[0]
        rows = [(note, 0, same) for note in ["s:b", "i:10", "s:a", "i:9", "i:-3", "s:Z"]]
        made.publish([[made.segment(rows[:3])], [made.segment(rows[3:])]], notes=6)
        found = [hit.note_id for hit in Snapshot.open(self.folder).search(same, 6)]
        self.assertEqual(found, [-3, 9, 10, "Z", "a", "b"])

    def test_conditions_choose_among_stored_columns(self):
        made = Made(self.folder)
        rows = numbered(1_800)
        stored = {
            "third": lambda note: int(note[2:]) % 3,
            "rare": lambda note: None if int(note[2:]) % 2 else int(note[2:]) % 100,
            "tags": lambda note: ["even"] if int(note[2:]) % 2 == 0 else [],
        }
        made.publish([[made.segment(rows, stored=stored)]], notes=len(rows))
        snapshot = Snapshot.open(self.folder)
        wanted = [row for row in rows if int(row[0][2:]) % 3 != 1]
        self.check(snapshot, wanted, where=pc.field("third") != 1)
        self.check(snapshot, wanted, least=1.0, where=lambda t: pc.not_equal(t["third"], 1), exact=True)
        # What is null passes neither a condition nor its opposite.
        few = [row for row in rows if int(row[0][2:]) % 100 == 42]
        self.check(snapshot, few, least=1.0, where=pc.field("rare") == 42)
        many = [row for row in rows if int(row[0][2:]) % 2 == 0 and int(row[0][2:]) % 100 != 42]
        self.check(snapshot, many, where=pc.field("rare") != 42)
        passing = snapshot.passing(lambda table: table["third"].to_numpy() == 2)
        found = snapshot.search(QUERIES[0], 7, where=passing)
        self.assertEqual([hit.stored["third"] for hit in found], [2] * 7)
        for hit in found:
            self.assertEqual(hit.stored["tags"], [] if hit.note_id % 2 else ["even"])
        self.assertEqual(snapshot.search(QUERIES[0], where=pc.field("third") == 7), [])
        with self.assertRaisesRegex(ValueError, "not a bool"):
            snapshot.search(QUERIES[0], where=lambda table: table["third"])
        made.publish([[made.segment(rows[:10])]], notes=10)
        with self.assertRaisesRegex(ValueError, "another snapshot"):
            Snapshot.open(self.folder).search(QUERIES[0], where=passing)

    def test_queries_that_make_no_sense_are_refused(self):
        made = Made(self.folder)
        made.publish([[made.segment(numbered(10))]], notes=10)
        snapshot = Snapshot.open(self.folder)
        for wrong in [np.zeros(32), np.full(32, np.nan), np.ones(31), np.ones((1, 32)), [np.inf] * 32]:
            with self.assertRaises(ValueError):
                snapshot.search(wrong)
        self.assertEqual(snapshot.search(np.ones(32), 0), [])
        self.assertEqual(len(snapshot.search([1e30] * 32, 1_000)), 10)

    def test_several_threads_may_search(self):
        made = Made(self.folder)
        rows = numbered(2_000)
        made.publish([[made.segment(rows)]], notes=len(rows))
        snapshot = Snapshot.open(self.folder)
        alone = [snapshot.search(query, 5) for query in QUERIES]
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            together = list(pool.map(lambda at: snapshot.search(QUERIES[at % 20], 5), range(400)))
        self.assertEqual(together, alone * 20)


if __name__ == "__main__":
    unittest.main()
