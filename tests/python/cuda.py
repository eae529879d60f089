"""How a build for GPUs chooses what it compiles for, and what it says about libraries.

python3 tests/python/cuda.py; tests/it/house/scripts.rs runs it.
"""

import contextlib
import io
import os
import pathlib
import stat
import subprocess
import sys
import tempfile
import unittest

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
sys.dont_write_bytecode = True

import cuda_toolkit


class Toolkit(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)

    def program(self, name, prints):
        path = self.folder / name
        path.write_text(f"#!/bin/sh\ncat <<'END'\n{prints}\nEND\n")
        path.chmod(path.stat().st_mode | stat.S_IXUSR)

    def test_the_card_says_what_is_compiled_for(self):
        path = {"PATH": f"{self.folder}:/usr/bin:/bin"}
        if not cuda_toolkit.shutil.which("nvidia-smi", path=path["PATH"]):
            self.assertEqual(cuda_toolkit.compute_cap(path)[0], "90")
        self.program("nvidia-smi", "8.9")
        self.assertEqual(cuda_toolkit.compute_cap(path), ("89", "the card of this machine"))
        self.program("nvidia-smi", "9.0\n9.0")
        self.assertEqual(cuda_toolkit.compute_cap(path), ("90", "the card of this machine"))
        self.program("nvidia-smi", "9.0\n8.6\n10.0")
        self.assertEqual(cuda_toolkit.compute_cap(path), ("80", "the cards of this machine differ"))
        self.program("nvidia-smi", "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver.")
        self.assertEqual(cuda_toolkit.compute_cap(path), ("90", "no card is here"))
        self.assertEqual(cuda_toolkit.compute_cap({**path, "CUDA_COMPUTE_CAP": "80"}), ("80", "CUDA_COMPUTE_CAP"))

    def test_libraries_are_named_by_the_program(self):
        lines = [f"\t{name} => not found" for name in cuda_toolkit.LIBRARIES]
        lines[1] = "\tlibcudart.so.13 => /usr/local/cuda/lib64/libcudart.so.13 (0x00007f)"
        lines += ["\tlinux-vdso.so.1 (0x00007ffc)", "\tlibc.so.6 => /lib/libc.so.6 (0x00007f)"]
        self.program("ldd", "\n".join(lines))
        environment, said = {"PATH": f"{self.folder}:{os.environ['PATH']}"}, io.StringIO()
        with unittest.mock.patch.dict(os.environ, environment), contextlib.redirect_stdout(said):
            cuda_toolkit.check("program", environment)
        self.assertIn("libcudart.so.13    /usr/local/cuda/lib64/libcudart.so.13  (cuda-cudart-13-0", said.getvalue())
        self.assertIn("libcublas.so.13    not here  (libcublas-13-0; wheel nvidia-cublas)", said.getvalue())
        self.program("ldd", "\n".join(lines[1:] + ["\tlibnvrtx.so.3 => not found"]))
        with unittest.mock.patch.dict(os.environ, environment), contextlib.redirect_stdout(io.StringIO()):
            with self.assertRaisesRegex(SystemExit, "differ in libcuda.so.1, libnvrtx.so.3"):
                cuda_toolkit.check("program", environment)

    def test_folders_may_have_spaces(self):
        folder = self.folder / "a folder"
        source = folder / "kernels/flash_fwd_hdim96_bf16_sm80.cu"
        source.parent.mkdir(parents=True)
        source.write_text("#include <x>\n    run_mha_fwd();\n")
        self.program("a folder/nvcc", "$*")
        for script, _ in (
            cuda_toolkit.few_kernels(folder, folder / "nvcc", "64 128"),
            cuda_toolkit.empty_kernels(folder, folder / "nvcc"),
        ):
            for word in (source, "other.cu"):
                command = [script, "-c", "-o", folder / f"{script.parent.name}.o", word]
                subprocess.run(command, check=True, capture_output=True)
        self.assertIn("abort();", (folder / "few" / source.name).read_text())
        self.assertTrue((folder / "empty.o").exists())

    def test_the_image_has_every_library(self):
        """The Containerfile's runtime stage installs the packages that the list names, and no compiler."""
        text = (HERE.parent.parent / "pipelines/kubernetes/Containerfile").read_text(encoding="utf-8")
        stage = text.split(" AS gpu\n")[1].split("\nFROM ")[0]
        for package, wheel in cuda_toolkit.LIBRARIES.values():
            if wheel:
                self.assertIn(package, stage)
        self.assertNotIn("devel", stage)
        self.assertIn("CUDA_CACHE_PATH=/cache/", stage)


if __name__ == "__main__":
    import unittest.mock

    unittest.main()
