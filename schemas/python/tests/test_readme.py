"""What the README shows runs."""

import contextlib
import io
import pathlib
import re
import tempfile
import unittest

from made import Made, numbered, vectors


class Readme(unittest.TestCase):
    def test_its_example_runs(self):
        text = (pathlib.Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
        examples = re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
        self.assertEqual(len(examples), 1)
        with tempfile.TemporaryDirectory() as folder:
            made = Made(folder)
            stored = {"lang": lambda note: "en" if int(note[2:]) % 2 else "de"}
            made.publish([[made.segment(numbered(60), stored=stored)]], notes=60)
            said = io.StringIO()
            names = {"root": folder, "vector": vectors(1, seed=9)[0]}
            with contextlib.redirect_stdout(said):
                exec(compile(examples[0], "README.md", "exec"), names)  # noqa: S102 - that is the point
        self.assertEqual(len(said.getvalue().splitlines()), 10)
        self.assertEqual(len(names["hits"]), 10)
