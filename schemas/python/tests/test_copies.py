"""Where copies go, and that none is left behind."""

import errno
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import unittest
from unittest import mock

from made import Case, files, vectors

from scalingnote_reader import Snapshot, SnapshotError, _temporary, follow
from scalingnote_reader._root import Root, _Folder
from scalingnote_reader._temporary import temporary

QUERY = vectors(1, seed=9)[0]


class Copies(Case):
    def test_a_cache_that_was_cleaned_up_is_made_again(self):
        self.publish(50)
        with follow(self.made.folder, every=3600, cache=self.cache) as notes:
            shutil.rmtree(self.cache)
            self.assertEqual(len(notes.current.search(QUERY, 5)), 5)
            self.publish(60)
            self.assertTrue(notes.look())
            self.assertEqual(len(files(self.cache)), 3)
        if os.name == "posix":
            self.assertEqual(self.cache.stat().st_mode & 0o777, 0o700)

    def test_what_nothing_has_used_for_a_week_leaves_the_cache(self):
        """Services that are started again every day would fill the disk, killed ones with half copies, too."""

        def age(paths, days):
            for path in paths:
                os.utime(path, (time.time() - days * 86400,) * 2)

        self.publish(50)
        Snapshot.open(self.made.folder, cache=self.cache)
        first = files(self.cache)
        half = [self.cache / "scalingnote-a_b1c2d3.part", self.cache / "scalingnote-recent.part"]
        others = [self.cache / "notes.txt", self.cache / f"{'A' * 64}.f16", self.cache / "tmpabc.part"]
        for path in [*half, *others]:
            path.write_bytes(b"x")
        age([*first, half[0], *others], 8)
        age(half[1:], 6)
        Snapshot.open(self.made.folder, cache=self.cache)  # uses the old ones
        self.assertEqual(files(self.cache), sorted([*first, half[1], *others]))
        self.publish(60)
        Snapshot.open(self.made.folder, cache=self.cache)
        self.assertEqual(len(files(self.cache)), len(first) * 2 + 4, "they were used a moment ago")
        age(first, 8)
        newest = Snapshot.open(self.made.folder, cache=self.cache)
        self.assertEqual(len(files(self.cache)), len(first) + 4)
        self.assertEqual(len(newest.search(QUERY, 5)), 5)

    def test_a_full_disk_is_told_with_its_folder_and_the_way_out(self):
        self.publish()
        for cause, kind, told in [
            (OSError(errno.ENOSPC, "No space left on device"), SnapshotError, f"{self.cache} has no room.*`cache`"),
            (OSError(errno.EIO, "Input/output error"), OSError, "Input/output error"),
        ]:
            full = mock.patch.object(_Folder, "copy", side_effect=cause)
            with self.subTest(told), full, self.assertRaisesRegex(kind, told):
                Snapshot.open(self.made.folder, cache=self.cache)
            self.assertEqual(files(self.cache), [])


@unittest.skipUnless(os.name == "posix", "no locks of folders")
class Temporary(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)
        there = mock.patch.object(tempfile, "tempdir", folder.name)
        there.start()
        self.addCleanup(there.stop)

    def process(self, script):
        """A process that has made a folder, and ends when its input does."""
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "TMPDIR": str(self.folder)}
        script = f"""
import os, sys
from scalingnote_reader._root import Root
root = Root("memory://notes")
folder = root._copies()
(folder / "copy").write_bytes(b"x")
print(folder, flush=True)
{script}
sys.stdin.read()
"""
        command = [sys.executable, "-c", script]
        process = subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)  # noqa: S603
        self.addCleanup(process.wait)
        self.addCleanup(process.stdin.close)
        self.addCleanup(process.stdout.close)
        return process, pathlib.Path(process.stdout.readline().strip())

    def test_the_folder_of_a_killed_process_goes_with_the_next(self):
        alive, kept = self.process("")
        for number in (signal.SIGTERM, signal.SIGKILL):
            killed, left = self.process("")
            killed.send_signal(number)
            killed.wait()
            self.assertTrue((left / "copy").exists(), "nobody could remove it")
            elsewhere = self.folder / "elsewhere"
            elsewhere.mkdir(exist_ok=True)
            (elsewhere / "file").write_bytes(b"x")
            link = self.folder / "scalingnote-reader-link"
            link.unlink(missing_ok=True)
            link.symlink_to(elsewhere)
            mine = temporary(self)
            self.assertEqual(mine.stat().st_mode & 0o777, 0o700)
            self.assertFalse(left.exists())
            self.assertTrue((kept / "copy").exists() and mine.exists() and (elsewhere / "file").exists())
        alive.communicate("")
        self.assertFalse(kept.exists(), "who ends removes its own")

    def test_one_that_goes_before_it_is_locked_is_not_used(self):
        lock, gone = _temporary._lock, []

        def late(folder, *, wait):
            if wait and not gone:
                gone.append(folder)
                folder.rmdir()
            return lock(folder, wait=wait)

        with mock.patch.object(_temporary, "_lock", late):
            folder = temporary(self)
        self.assertTrue(folder.is_dir())
        self.assertNotEqual(gone, [folder])

    @unittest.skipUnless(hasattr(os, "fork"), "nothing forks here")
    def test_a_forked_process_leaves_the_copies_to_the_one_that_made_them(self):
        parent, folder = self.process("""
if os.fork() == 0:
    sys.exit(0)
os.wait()
print(folder.is_dir(), flush=True)
""")
        self.assertEqual(parent.stdout.readline().strip(), "True")
        parent.communicate("")
        self.assertFalse(folder.exists())

    def test_a_root_makes_its_folder_when_it_first_needs_it(self):
        root = Root("memory://notes")
        self.assertEqual(list(self.folder.iterdir()), [])
        folder = root._copies()
        self.assertEqual(root._copies(), folder)
        shutil.rmtree(folder)  # as what cleans up temporary folders does
        self.assertTrue(root._copies().is_dir())
        del root
        self.assertEqual(list(self.folder.iterdir()), [])


if __name__ == "__main__":
    unittest.main()
