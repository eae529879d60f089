"""What is refused."""

import json
import logging
import shutil
import unittest
from unittest import mock

import numpy as np
from made import Case, Made, files, numbered, vectors

from scalingnote_reader import CorruptError, NotFoundError, Snapshot, SnapshotError, UnsupportedError, follow
from scalingnote_reader._root import Root

try:
    import fsspec
except ImportError:
    fsspec = None

logging.getLogger("scalingnote_reader").addHandler(logging.NullHandler())
logging.getLogger("scalingnote_reader").propagate = False
QUERY = vectors(1, seed=9)[0]


class Opening(Case):
    def test_the_newest_or_a_number(self):
        with self.assertRaisesRegex(NotFoundError, "no snapshot"):
            Snapshot.open(self.made.folder)
        self.publish(50)
        self.publish(60)
        self.assertEqual(Snapshot.open(self.made.folder).number, 2)
        uri = self.made.folder.as_uri()
        self.assertEqual((Snapshot.open(uri, 1).notes, Snapshot.open(uri).notes), (49, 59))
        with self.assertRaisesRegex(NotFoundError, "snapshot 3 is not in .*, which has snapshots 1 to 2"):
            Snapshot.open(self.made.folder, 3)
        with self.assertRaises(TypeError):  # as it stands in sys.argv
            Snapshot.open(self.made.folder, "2")
        with self.assertRaisesRegex(ValueError, "write file:///path"):
            Snapshot.open(f"file:/{self.made.folder}")

    def test_a_password_is_in_no_error(self):
        """Errors go to logs."""
        for uri, shown in [
            ("ftp://reader:secret@host/notes", "ftp://reader:***@host/notes"),
            ("ftp://:se@cret@host", "ftp://:***@host"),
            ("az://container@account/notes", "az://container@account/notes"),
        ]:
            root = Root(uri, cache=self.cache)
            missing = mock.patch("importlib.import_module", side_effect=ImportError("Install adlfs"))
            with self.subTest(uri), missing, self.assertRaisesRegex(UnsupportedError, "Install adlfs") as raised:
                root.numbers()
            self.assertIn(f"reading {shown} takes", str(raised.exception))
            self.assertEqual(root.uri, shown)

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
