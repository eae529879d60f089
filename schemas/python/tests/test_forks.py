"""What a forked child does with what its parent opened. Each test forks in a process of its own."""

import os
import pathlib
import subprocess
import sys
import tempfile
import unittest

try:
    import fsspec
except ImportError:
    fsspec = None

BEGIN = """
import os, pathlib, signal, sys, time
from made import Made, numbered, vectors
from scalingnote_reader import Snapshot, follow

QUERY = vectors(1, seed=9)[0]
folder = pathlib.Path(sys.argv[1])
made = Made(folder / "root")

def publish(count):
    made.publish([[made.segment(numbered(count))]], notes=count)

def forked(child):
    \"\"\"Runs it in a child that is killed when it hangs; returns how it ended.\"\"\"
    sys.stdout.flush()
    if pid := os.fork():
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    signal.alarm(30)
    child()
    sys.stdout.flush()
    os._exit(0)

def wait_for(notes, number):
    while notes.current.number != number:
        time.sleep(0.01)

publish(50)
"""


@unittest.skipUnless(hasattr(os, "fork"), "nothing forks here")
class Forks(unittest.TestCase):
    def run_script(self, script):
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(pathlib.Path(__file__).parent), *sys.path])}
        with tempfile.TemporaryDirectory() as folder:
            environment["TMPDIR"] = folder
            command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", BEGIN + script, folder]
            done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=90, check=False)  # noqa: S603
            self.assertEqual((done.returncode, done.stderr), (0, ""))
            return done.stdout.split()

    def test_a_child_follows_from_its_first_use(self):
        said = self.run_script("""
import threading
notes = follow(made.folder, every=0.01)

def child():
    print(threading.active_count())  # none of its own until it is used
    publish(60)
    wait_for(notes, 2)
    print(notes.current.notes, threading.active_count())
    notes.close()
    notes.close()
    publish(70)
    time.sleep(0.1)
    print(notes.current.number, threading.active_count())

print(forked(child))
made.number = 3
wait_for(notes, 3)  # the parent goes on
notes.close()
print(forked(lambda: print(notes.current.number, threading.active_count())))  # what was closed stays closed
""")
        self.assertEqual(said, "1 60 2 2 1 0 3 1 0".split())

    def test_locks_that_others_held_are_free_in_the_child(self):
        """The parent's thread checks a newer snapshot while the parent forks."""
        said = self.run_script("""
notes = follow(made.folder, every=3600)
segment = notes.current._segments[0]

def child():
    publish(60)
    print(notes.look(), len(notes.current.search(QUERY, 5)), segment.vectors is notes.current._segments[0].vectors)
    print(len(segment.vectors.search(QUERY, 5, None)[0]), len(segment.notes.table()))

with notes._looking, notes._starting, segment.vectors._one_at_a_time, segment.notes._reading:
    print(forked(child))
""")
        self.assertEqual(said, "True 5 False 5 50 0".split())

    @unittest.skipUnless(fsspec, "fsspec is not installed")
    def test_a_child_has_its_own_connection_and_its_own_copies(self):
        """Connections of a parent are not a child's, and its temporary folder goes when the parent ends."""
        said = self.run_script("""
import fsspec
from fsspec.implementations.memory import MemoryFileSystem

class Bucket(MemoryFileSystem):
    protocol = "bucket"

    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        self.process = os.getpid()

    @classmethod
    def _strip_protocol(cls, path):
        return super()._strip_protocol(path.replace("bucket://", "memory://"))

    def ls(self, path, detail=True, **options):
        assert self.process == os.getpid()
        return super().ls(path, detail, **options)

fsspec.register_implementation("bucket", Bucket)

def upload():
    for path in made.folder.rglob("*"):
        if path.is_file():
            fsspec.filesystem("memory").pipe_file(f"/b/{path.relative_to(made.folder)}", path.read_bytes())

upload()
notes = follow("bucket://b", every=3600)
folder = notes._root._temporary

def child():
    publish(60)
    upload()
    print(notes.look(), notes.failure, notes.current.number)
    print(notes._root._temporary not in (None, folder), len(list(notes._root._temporary.iterdir())))

print(forked(child), len(list(folder.iterdir())))
""")
        self.assertEqual(said, "True None 2 True 3 0 3".split())


if __name__ == "__main__":
    unittest.main()
