"""The Makefile's targets, as `make -n` prints them: paths with spaces, and environments that were installed by half.

python3 tests/python/targets.py; tests/it/house/scripts.rs runs it.
"""

import os
import pathlib
import re
import shlex
import shutil
import subprocess
import tempfile
import unittest

CHECKOUT = pathlib.Path(__file__).resolve().parent.parent.parent


@unittest.skipUnless(shutil.which("make"), "make is missing")
class Targets(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.bin = pathlib.Path(folder.name) / "bin"
        self.checkout = pathlib.Path(folder.name) / "a checkout"
        for made in (self.bin, self.checkout):
            made.mkdir()
        shutil.copy(CHECKOUT / "Makefile", self.checkout)
        self.script(self.bin / "cargo", f"""echo '{{"target_directory":"{folder.name}/a target"}}'""")

    def script(self, path, text):
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)

    def make(self, *arguments):
        """Exit code and output."""
        # Nothing of what the make or the cargo around this test has set.
        environment = {"PATH": f"{self.bin}:{os.environ['PATH']}"}
        done = subprocess.run(["make", *arguments], cwd=self.checkout, env=environment, capture_output=True, text=True)
        return done.returncode, done.stdout + done.stderr

    def test_folders_may_have_spaces(self):
        text = (CHECKOUT / "Makefile").read_text(encoding="utf-8")
        targets = re.findall(r"^([a-z-]+):[^#\n]*## ", text, re.MULTILINE)
        self.assertGreater(len(targets), 30)
        places = 0
        for target in sorted(set(targets) - {"help"}):
            code, said = self.make("-n", target)
            self.assertEqual(code, 0, said)
            for line in said.replace("\\\n", "").splitlines():
                for word in shlex.split(line):
                    places += "a target/" in word or "a checkout/" in word
                    self.assertFalse(word.startswith(("target/", "checkout/")), f"make {target}: {line}")
        self.assertGreater(places, 20)

    def test_a_cargo_that_does_not_run_is_told_before_anything_is_fetched(self):
        self.script(self.bin / "cargo", "echo 'error: rustup could not choose a version of cargo to run' >&2; exit 1")
        code, said = self.make("index")
        self.assertEqual(code, 2)
        self.assertIn("could not choose a version", said)
        self.assertIn("error: cargo does not run", said)
        self.assertNotIn("fetch_quickstart", said)

    def test_an_environment_that_was_installed_by_half_is_made_again(self):
        mark, offline = self.checkout / ".cache/models-venv/installed", self.checkout / "offline"
        self.script(self.bin / "pip", "test ! -e offline")
        self.script(self.bin / "python", 'eval mkdir -p "\\${$#}/bin" && eval cp "$(dirname "$0")/pip" "\\${$#}/bin/python"')
        install = (".cache/models-venv/installed", f"PYTHON={self.bin}/python")
        offline.touch()
        code, said = self.make(*install)
        self.assertNotEqual(code, 0, said)
        self.assertTrue((mark.parent / "bin/python").exists())
        self.assertFalse(mark.exists())
        offline.unlink()
        self.assertIn("sentence-transformers>=5", self.make("-n", "test-models")[1])
        code, said = self.make(*install)
        self.assertEqual(code, 0, said)
        self.assertNotIn("pip install", self.make("-n", "test-models")[1])
        # Who names an interpreter has installed what it takes.
        mark.unlink()
        for target, setting in [("test-models", "MODELS_PYTHON"), ("test-sources", "SOURCES_PYTHON")]:
            self.assertIn("pip install", self.make("-n", target)[1])
            self.assertNotIn("pip install", self.make("-n", target, f"{setting}=/opt/python")[1])


if __name__ == "__main__":
    unittest.main()
