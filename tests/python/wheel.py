"""Installs the wheels of `make wheel` into a clean environment and runs the quick start from them.

python wheel.py FOLDER CHECKOUT

FOLDER has the two wheels; CHECKOUT is the package's folder, with the parts that `make index` fetches.
"""

import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import venv
import zipfile

wheels, checkout = (pathlib.Path(argument).resolve() for argument in sys.argv[1:])
program = next(wheels.glob("scalingnote-*.whl"))
reader = next(wheels.glob("scalingnote_reader-*.whl"))

version = re.search(r'^version = "(.*)"$', (checkout / "Cargo.toml").read_text(), re.MULTILINE)[1]
name, tagged, *_, platform = program.stem.split("-")
assert (name, tagged) == ("scalingnote", version), program.name
with zipfile.ZipFile(program) as archive:
    assert archive.testzip() is None
    binary = archive.read(f"scalingnote-{version}.data/scripts/scalingnote")
    assert any(entry.endswith("LICENSE") for entry in archive.namelist()), "the licence comes along"
if sys.platform == "linux":
    promised = re.match(r"manylinux_(\d+)_(\d+)_", platform)
    assert promised, f"{program.name} says nothing about the systems that it runs on"
    asked = max(tuple(map(int, found)) for found in re.findall(rb"GLIBC_(\d+)\.(\d+)", binary))
    assert asked <= tuple(map(int, promised.groups())), f"{program.name} asks for glibc {asked}"
    print(f"{program.name}: {program.stat().st_size / 2**20:.1f} MiB, glibc {asked[0]}.{asked[1]} or newer")

with tempfile.TemporaryDirectory() as folder:
    venv.create(f"{folder}/venv", with_pip=True)
    # Nothing else is on the PATH: no compiler, no other copy of the program.
    environment = {"PATH": f"{folder}/venv/bin", "HOME": folder, "LC_ALL": "C.UTF-8"}
    # Where pip finds its index, should it be another than usual.
    environment |= {key: value for key, value in os.environ.items() if key.startswith(("PIP_", "SSL_"))}

    def run(*arguments):
        command = [f"{folder}/venv/bin/{arguments[0]}", *arguments[1:]]
        done = subprocess.run(command, cwd=folder, env=environment, check=False, capture_output=True, text=True)
        assert done.returncode == 0, f"{' '.join(arguments)}: exit code {done.returncode}\n{done.stderr}"
        return done.stdout

    run("python", "-m", "pip", "install", "--no-index", "--quiet", str(program))
    assert run("scalingnote", "--version").split() == ["scalingnote", version]
    root = f"{folder}/root"
    pipeline = str(checkout / "pipelines/quickstart.toml")
    run("scalingnote", "run", pipeline, "--set", f"publish.root={root}")
    found = json.loads(run("scalingnote", "search", root, "a password is in the source code", "-k", "3", "--json"))
    print("\n".join(f"{hit['score']:.3f} {hit['stored']['title']}" for hit in found["hits"]))
    assert len(found["hits"]) == 3
    # What a newcomer searches for: with the student adapted 44 of 53 were found.
    program_file = f"{folder}/venv/bin/scalingnote"
    shown = subprocess.run([sys.executable, str(checkout / "benches/searches.py"), program_file, root], check=True,
                           capture_output=True, text=True).stdout
    print(shown, end="")
    assert int(re.search(r"^hit@3: (\d+) of 53$", shown, re.MULTILINE)[1]) >= 40
    assert "attacker runs SQL" not in shown, "the first search of `make index` misses CWE-89"

    run("python", "-m", "pip", "install", "--quiet", str(reader))
    note = found["hits"][0]["note_id"]
    script = "import sys, scalingnote_reader as reader; snapshot = reader.Snapshot.open(sys.argv[1])"
    script += f"; print(snapshot.number, snapshot.search(snapshot.vector({note!r}), 1)[0].note_id)"
    assert run("python", "-c", script, root).split() == ["1", str(note)]
print("installed, built a snapshot, searched it from the command line and from Python")
