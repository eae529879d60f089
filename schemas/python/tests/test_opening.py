"""What is refused, and how a newer snapshot takes over."""

import hashlib
import json
import logging
import pathlib
import shutil
import tempfile
import time
import unittest
from unittest import mock

import numpy as np
from made import Made, numbered, vectors

from scalingnote_reader import CorruptError, NotFoundError, Snapshot, SnapshotError, UnsupportedError, follow
from scalingnote_reader._root import Root

try:
    import fsspec
except ImportError:
    fsspec = None

logging.getLogger("scalingnote_reader").addHandler(logging.NullHandler())
logging.getLogger("scalingnote_reader").propagate = False
QUERY = vectors(1, seed=9)[0]


def files(folder):
    return sorted(path for path in pathlib.Path(folder).rglob("*") if path.is_file())


class Opening(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)
        self.made = Made(self.folder / "root")

    def publish(self, count=50, seed=1, **options):
        segment = self.made.segment(numbered(count, seed), removed=[("i:0", 0)])
        return self.made.publish([[segment]], notes=count - 1, **options)

    def test_the_newest_or_a_number(self):
        with self.assertRaisesRegex(NotFoundError, "no snapshot"):
            Snapshot.open(self.made.folder)
        self.publish(50)
        self.publish(60)
        self.assertEqual(Snapshot.open(self.made.folder).number, 2)
        uri = self.made.folder.as_uri()
        self.assertEqual((Snapshot.open(uri, 1).notes, Snapshot.open(uri).notes), (49, 59))
        with self.assertRaises(NotFoundError):
            Snapshot.open(self.made.folder, 3)
        with self.assertRaises(TypeError):  # as it stands in sys.argv
            Snapshot.open(self.made.folder, "2")
        with self.assertRaisesRegex(ValueError, "write file:///path"):
            Snapshot.open(f"file:/{self.made.folder}")

    def test_a_purge_while_it_is_opened_leads_to_the_newer_one(self):
        """A purge publishes what it left, and takes all older snapshots with it."""
        for what in ("snapshots", "indexes"):
            number = self.publish(50)
            read = Root.manifest

            def purge(root, asked, number=number, read=read, what=what):
                manifest = read(root, asked)
                if asked != number:
                    return manifest
                shutil.rmtree(self.made.folder / what)
                self.publish(60, seed=number)
                return read(root, asked) if what == "snapshots" else manifest

            with self.subTest(what), mock.patch.object(Root, "manifest", purge):
                opened = Snapshot.open(self.made.folder)
                self.assertEqual((opened.number, opened.notes), (number + 1, 59))
                with self.assertRaises(NotFoundError):
                    Snapshot.open(self.made.folder, number)

    def test_a_file_that_goes_while_it_is_opened_is_told(self):
        fetch = Root.fetch
        for suffix in (".usearch", ".f16", ".parquet"):

            def gone(root, file, *, check, suffix=suffix):
                path = fetch(root, file, check=check)
                if path.suffix == suffix:
                    path.unlink()
                return path

            self.publish()
            told = self.assertRaisesRegex(NotFoundError, f"went while.*{suffix}")
            with self.subTest(suffix), mock.patch.object(Root, "fetch", gone), told:
                Snapshot.open(self.made.folder)

    def test_a_flipped_bit_or_a_missing_file_is_told(self):
        self.publish()
        for path in files(self.made.folder / "indexes"):
            original = path.read_bytes()
            damaged = bytearray(original)
            damaged[len(damaged) // 2] ^= 4
            for wrong in [bytes(damaged), original[:-1], original + b"\0"]:
                path.write_bytes(wrong)
                with self.assertRaisesRegex(CorruptError, path.name):
                    Snapshot.open(self.made.folder)
                with self.assertRaisesRegex(CorruptError, path.name):
                    Snapshot.open(self.made.folder, cache=self.folder / "cache")
            path.unlink()
            with self.assertRaisesRegex(NotFoundError, path.name):
                Snapshot.open(self.made.folder)
            path.write_bytes(original)
            shutil.rmtree(self.folder / "cache")
        self.assertEqual(Snapshot.open(self.made.folder).check_canaries(), 1)

    def test_an_altered_manifest_is_refused(self):
        path = self.made.folder / f"snapshots/{self.publish():020}.json"
        text = path.read_text(encoding="utf-8")
        for old, new in [
            ('"notes": 49', '"notes": 48'),
            ("240.0", "240.1"),
            ("0.00125", "0.001250"),
            ("é", "e"),
        ]:
            self.assertIn(old, text)
            path.write_text(text.replace(old, new), encoding="utf-8")
            with self.assertRaisesRegex(CorruptError, "altered"):
                Snapshot.open(self.made.folder)
        deep = ['{"version": 1, "number": 1, "content": ' + "[" * n + "]" * n + "}" for n in (900, 100_000)]
        for wrong in ["{}", "[]", "", text[:100], '{"version": 1, "number": 1, "content": []}', *deep]:
            path.write_text(wrong, encoding="utf-8")
            with self.assertRaises(CorruptError):
                Snapshot.open(self.made.folder)
        path.write_text(text, encoding="utf-8")
        shutil.copy(path, path.with_name(f"{7:020}.json"))
        with self.assertRaisesRegex(CorruptError, "number 1, its name 7"):
            Snapshot.open(self.made.folder)

    def test_what_a_newer_release_wrote_is_refused(self):
        def shard(document):
            return document["content"]["shards"][0]

        changes = {
            "version 2": lambda document: document.update(version=2),
            "'weather'": lambda document: document["content"].update(weather=1),
            "'hidden'": lambda document: shard(document).update(hidden=[]),
            "'metric'": lambda document: document["content"]["index"]["options"].update(metric="l2"),
            "quantised": lambda document: document["content"]["index"]["options"].update(quantization="i4"),
        }
        for told, change in changes.items():
            number = self.publish(change=change)
            with self.subTest(told), self.assertRaisesRegex(UnsupportedError, told):
                Snapshot.open(self.made.folder, number)

    def test_a_manifest_with_anything_anywhere_is_refused_or_opened(self):
        """Whose hash fits, too: a root may come from anybody."""

        def places(value, at=()):
            if isinstance(value, list):
                value = dict(enumerate(value[:2]))
            for key, part in value.items() if isinstance(value, dict) else ():
                yield (*at, key)
                yield from places(part, (*at, key))

        made = Made(self.folder / "b1r", "b1r")
        segments = [made.segment(numbered(20), removed=[("i:0", 0)]), made.segment(numbered(5, first=90))]
        made.publish([segments], notes=24)
        content = Snapshot.open(made.folder).manifest["content"]
        refused = 0
        for place in list(places(content)):
            for value in (None, "x", -1, 1.5, [], {}, 10**400):

                def put(document, place=place, value=value):
                    document["content"].clear()
                    document["content"].update(json.loads(json.dumps(content)))
                    inside = document["content"]
                    for key in place[:-1]:
                        inside = inside[key]
                    inside[place[-1]] = value

                number = made.publish([], notes=0, change=put)
                with self.subTest(place=place, value=str(value)[:9]):
                    try:
                        Snapshot.open(made.folder, number).search(QUERY, 5)
                    except SnapshotError:
                        refused += 1
        self.assertGreater(refused, 300)

    def test_no_path_leads_out_of_the_root(self):
        names = ["", "a//b", "a/", "a b", "a\0b", "C:/x", "x" * 513]
        for path in ["../secret", "/etc/passwd", "indexes/../../x", "a\\..\\b", ".", *names]:

            def lead_out(document, path=path):
                document["content"]["shards"][0]["index"]["path"] = path

            number = self.publish(change=lead_out)
            with self.subTest(path), self.assertRaisesRegex(CorruptError, "not a key"):
                Snapshot.open(self.made.folder, number)

    def test_no_copy_leads_out_of_the_cache(self):
        """A copy is named by its SHA-256, which the manifest says."""
        victim = self.folder / "victim.usearch"
        for sha256 in ["../victim", str(victim.with_suffix("")), "0" * 63, "A" * 64]:

            def lead_out(document, sha256=sha256):
                index = document["content"]["shards"][0]["index"]
                victim.write_bytes((self.made.folder / index["path"]).read_bytes())
                index["sha256"] = sha256

            number = self.publish(change=lead_out)
            for check in (True, False):
                with self.subTest(sha256), self.assertRaisesRegex(CorruptError, "SHA-256"):
                    Snapshot.open(self.made.folder, number, cache=self.folder / "cache", check=check)
        self.assertEqual(files(self.folder / "cache"), [])

    def test_files_that_do_not_belong_together_are_told(self):
        rows = numbered(50)
        whole = self.made.segment(rows)
        other = self.made.segment(
            [(note, 0, vector) for (note, _, _), vector in zip(rows, vectors(50, 7), strict=True)]
        )
        fewer = self.made.segment(rows[1:])
        stranger = self.made.segment(rows, removed=[("i:99", 0)])["removed"]
        for mixed, told in [
            (whole | {"sidecar": other["sidecar"]}, "canary"),  # the same keys: only the answers differ
            (whole | {"index": other["index"]}, "canary"),
            (whole | {"sidecar": fewer["sidecar"]}, "is not the index of"),
            (whole | {"ids": fewer["ids"]}, "are not those of the index"),
            (whole | {"removed": stranger}, "no vector"),
            (whole | {"sidecar": self.made.put("f16", b"SNF16")}, "is not an f16 sidecar"),
            (whole | {"index": self.made.put("usearch", b"junk" * 100)}, "is not a usearch index"),
            (whole | {"ids": self.made.put("ids.parquet", b"PAR1")}, "not the Parquet file"),
            (whole | {"ids": stranger["file"]}, "not the Parquet file"),
            (whole | {"removed": stranger | {"file": self.made.put("removed.parquet", b"x")}}, "not the Parquet file"),
        ]:
            notes = 50 - ("removed" in mixed)
            number = self.made.publish([[mixed]], notes=notes)
            with self.subTest(told), self.assertRaisesRegex(CorruptError, told):
                Snapshot.open(self.made.folder, number)

    def test_a_newer_snapshot_takes_over_by_itself(self):
        self.publish(50)
        with follow(self.made.folder, every=0.01) as notes:
            held = notes.current
            self.publish(60, seed=2)
            deadline = time.monotonic() + 30
            while notes.current.number != 2 and time.monotonic() < deadline:
                time.sleep(0.01)
            self.assertEqual((notes.current.number, notes.current.notes, notes.failure), (2, 59, None))
            # What somebody holds answers on, even when gc has deleted its files.
            expected = held.search(QUERY, 5)
            shutil.rmtree(self.made.folder)
            self.assertEqual(held.search(QUERY, 5), expected)
            self.assertEqual(len(notes.current.search(QUERY, 5)), 5)

    def test_a_broken_newer_snapshot_leaves_the_old_one_in_service(self):
        self.publish(50)
        with follow(self.made.folder, every=3600) as notes:
            number = self.publish(60)
            path = self.made.folder / self.index_of(number)
            whole = path.read_bytes()
            path.write_bytes(whole[:-1])
            self.assertFalse(notes.look())
            self.assertEqual(notes.current.number, 1)
            self.assertRegex(str(notes.failure), "bytes")
            # It is tried again later, not at every look; a yet newer one at once.
            path.write_bytes(whole)
            self.assertFalse(notes.look())
            self.publish(70)
            self.assertTrue(notes.look())
            self.assertEqual((notes.current.number, notes.failure), (3, None))
        with self.assertRaises(NotFoundError):
            follow(self.folder / "nowhere")
        for every in (0, -1, float("nan"), float("inf")):
            with self.assertRaisesRegex(ValueError, "every"):
                follow(self.made.folder, every=every)

    def test_a_root_that_is_gone_is_told_and_the_snapshot_stays(self):
        """A disk that is not mounted any more is an empty folder."""
        self.publish(50)
        with follow(self.made.folder, every=3600) as notes:
            self.made.folder.rename(self.folder / "unmounted")
            self.assertFalse(notes.look())
            self.assertIsInstance(notes.failure, NotFoundError)
            self.assertEqual(len(notes.current.search(QUERY, 5)), 5)
            (self.folder / "unmounted").rename(self.made.folder)
            self.assertFalse(notes.look())
            self.assertIsNone(notes.failure)

    def index_of(self, number):
        return Snapshot.open(self.made.folder, number).manifest["content"]["shards"][0]["index"]["path"]

    def test_indexes_that_stay_are_not_opened_again_and_copies_of_others_go(self):
        base = numbered(50)
        first, second = self.made.segment(base), self.made.segment(numbered(10, 3, first=100))
        self.made.publish([[first]], notes=50)
        cache = self.folder / "cache"
        with follow(self.made.folder, every=3600, cache=cache) as notes:
            self.assertEqual(len(files(cache)), 3)
            vectors_before = notes.current._segments[0].vectors
            self.made.publish([[first, second]], notes=60)
            self.assertTrue(notes.look())
            self.assertIs(notes.current._segments[0].vectors, vectors_before)
            self.assertEqual(len(files(cache)), 6)
            held = notes.current
            self.made.publish([[second]], notes=10)
            self.assertTrue(notes.look())
            kept = {file.sha256 for file in notes.current.files()}
            self.assertEqual({path.stem for path in files(cache)}, kept)
            self.assertEqual(len(held.search(QUERY, 60)), 60)
        # A copy that somebody changed is fetched again.
        path = files(cache)[0]
        path.write_bytes(b"?" * path.stat().st_size)
        Snapshot.open(self.made.folder, cache=cache)
        self.assertEqual(hashlib.sha256(path.read_bytes()).hexdigest(), path.stem)

    @unittest.skipUnless(fsspec, "fsspec is not installed")
    def test_a_bucket_is_read_through_fsspec(self):
        bucket = fsspec.filesystem("memory")
        self.publish(50)

        def upload():
            for path in files(self.made.folder):
                bucket.pipe_file(f"/bucket/notes/{path.relative_to(self.made.folder)}", path.read_bytes())

        upload()
        with follow("memory://bucket/notes/", every=3600) as notes:
            local = Snapshot.open(self.made.folder)
            self.assertEqual(notes.current.search(QUERY, 5), local.search(QUERY, 5))
            self.publish(60, seed=2)
            upload()
            self.assertTrue(notes.look())
            self.assertEqual(notes.current.notes, 59)
            name = next(name for name in bucket.find("/bucket/notes/indexes") if name.endswith(".usearch"))
        bucket.pipe_file(name, bucket.cat_file(name)[:-1])
        with self.assertRaises(CorruptError):
            for number in (1, 2):
                Snapshot.open("memory://bucket/notes", number)

    def test_vectors_are_those_of_the_notes(self):
        self.publish(50)
        snapshot = Snapshot.open(self.made.folder)
        for seven in (7, np.int64(7), np.uint8(7)):
            np.testing.assert_allclose(snapshot.vector(seven), numbered(50)[7][2], atol=1e-3)
        for missing in (0, 50, "7"):
            with self.assertRaises(KeyError):
                snapshot.vector(missing)


if __name__ == "__main__":
    unittest.main()
