"""How a newer snapshot takes over, and what is told when it does not."""

import hashlib
import logging
import shutil
import threading
import time
import unittest
from unittest import mock

from made import Case, files, numbered, vectors

from scalingnote_reader import NotFoundError, Snapshot, _follow, follow
from scalingnote_reader._root import Root

logging.getLogger("scalingnote_reader").addHandler(logging.NullHandler())
logging.getLogger("scalingnote_reader").propagate = False
QUERY = vectors(1, seed=9)[0]


class Following(Case):
    def index_of(self, number):
        return Snapshot.open(self.made.folder, number).manifest["content"]["shards"][0]["index"]["path"]

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

    def test_indexes_that_stay_are_not_opened_again_and_copies_of_others_go(self):
        base = numbered(50)
        first, second = self.made.segment(base), self.made.segment(numbered(10, 3, first=100))
        self.made.publish([[first]], notes=50)
        with follow(self.made.folder, every=3600, cache=self.cache) as notes:
            self.assertEqual(len(files(self.cache)), 3)
            vectors_before = notes.current._segments[0].vectors
            self.made.publish([[first, second]], notes=60)
            self.assertTrue(notes.look())
            self.assertIs(notes.current._segments[0].vectors, vectors_before)
            self.assertEqual(len(files(self.cache)), 6)
            held = notes.current
            self.made.publish([[second]], notes=10)
            self.assertTrue(notes.look())
            kept = {file.sha256 for file in notes.current.files()}
            self.assertEqual({path.stem for path in files(self.cache)}, kept)
            self.assertEqual(len(held.search(QUERY, 60)), 60)
        # A copy that somebody changed is fetched again.
        path = files(self.cache)[0]
        path.write_bytes(b"?" * path.stat().st_size)
        Snapshot.open(self.made.folder, cache=self.cache)
        self.assertEqual(hashlib.sha256(path.read_bytes()).hexdigest(), path.stem)

    def test_a_purge_at_the_first_look_leads_to_the_newer_one(self):
        number = self.publish(50)
        read = Root.manifest

        def purge(root, asked):
            if asked == number:
                shutil.rmtree(self.made.folder / "snapshots")
                self.publish(60)
            return read(root, asked)

        with mock.patch.object(Root, "manifest", purge), follow(self.made.folder, every=3600) as notes:
            self.assertEqual((notes.current.number, notes.current.notes, notes.failure), (2, 59, None))

    def test_a_root_that_was_replaced_is_told(self):
        """Its numbers begin again, and none of them will be greater for a long time."""
        for count in (50, 60):
            self.publish(count)
        with follow(self.made.folder, every=3600) as notes:
            (self.made.folder / f"snapshots/{2:020}.json").unlink()
            self.assertFalse(notes.look())
            self.assertRegex(str(notes.failure), "is 1, and 2 was there before.*`follow` again")
            self.assertEqual(notes.current.number, 2)

    def test_what_fails_at_every_look_is_logged_once_in_ten_minutes(self):
        self.publish(50)
        with follow(self.made.folder, every=3600) as notes, self.assertLogs("scalingnote_reader", "DEBUG") as logs:
            away = self.folder / "away"
            for _ in range(2):
                self.made.folder.rename(away)
                for _ in range(3):
                    notes.look()
                away.rename(self.made.folder)
                notes.look()
            self.made.folder.rename(away)
            notes.look()
            notes._said = (notes._said[0], time.monotonic() - 1)
            notes.look()
            with mock.patch.object(Root, "newest", side_effect=KeyError("Contents")):
                notes.look()
        levels = [record.levelname[0] for record in logs.records]
        self.assertEqual("".join(levels), "EDDI" * 2 + "EEE")
        told = f"no newer snapshot is found, <Snapshot 1 of {self.made.folder}.*stays in service: NotFoundError: there"
        self.assertRegex(logs.output[0], told)
        self.assertIn("up to date again", logs.output[3])
        # What nobody thought of comes with where it came from.
        self.assertRegex(logs.output[-1], r"(?s)KeyError: 'Contents'.*Traceback")
        self.assertNotIn("Traceback", "".join(logs.output[:-1]))

    def test_a_download_does_not_hold_up_who_leaves(self):
        self.publish(50)
        begun, end = threading.Event(), threading.Event()

        def hang(*_):
            begun.set()
            end.wait(30)
            raise OSError("the connection is lost")

        notes = follow(self.made.folder, every=0.01)
        with mock.patch.object(Root, "newest", hang), mock.patch.object(_follow, "_LAST_LOOK", 0.05):
            self.assertTrue(begun.wait(30))
            before = time.monotonic()
            notes.close()
            self.assertLess(time.monotonic() - before, 20)
            end.set()
            notes._thread.join()


if __name__ == "__main__":
    unittest.main()
