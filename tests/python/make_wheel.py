"""Packs a built program as a Python wheel, named by the oldest systems that it runs on.

python make_wheel.py BINARY FOLDER

The wheel holds the program and its licence, nothing of the machine that built it. What it asks of glibc and of the C++ library
decides its `manylinux` tag: build on an old system for many.
"""

import base64
import hashlib
import pathlib
import platform
import re
import subprocess
import sys
import sysconfig
import zipfile

CHECKOUT = pathlib.Path(__file__).resolve().parents[2]
# The C++ library that systems with this glibc have (PEP 600; the policies of auditwheel).
CXX_LIBRARY = {17: 19, 24: 22, 27: 24, 31: 28, 34: 29, 35: 30, 39: 33}  # glibc 2.x: GLIBCXX_3.4.y
EVERYWHERE = {"libc", "libm", "libmvec", "libdl", "librt", "libpthread", "libgcc_s", "libstdc++", "ld-linux-x86-64"}
EVERYWHERE |= {"ld-linux-aarch64"}


def described():
    """Name, version and description, as Cargo.toml has them."""
    text = (CHECKOUT / "Cargo.toml").read_text(encoding="utf-8").split("[package]", 1)[1]
    found = (re.search(rf'^{key} = "(.*)"$', text, re.MULTILINE) for key in ("name", "version", "description"))
    name, version, description = (match[1] for match in found)
    # Cargo's `1.0.0-rc.1` is Python's `1.0.0rc1`.
    parts = re.fullmatch(r"(\d+\.\d+\.\d+)(?:-(alpha|beta|rc)\.?(\d+))?", version)
    if not parts:
        sys.exit(f"error: Cargo.toml's version {version} has no form that Python knows")
    stage = {None: "", "alpha": "a", "beta": "b", "rc": "rc"}[parts[2]]
    return name, parts[1] + stage + (parts[3] or ""), description


def tag(binary):
    """The platforms that the program runs on."""
    if sys.platform != "linux":
        return re.sub(r"[-.]", "_", sysconfig.get_platform())
    asked = subprocess.run(["readelf", "-dVW", str(binary)], check=True, capture_output=True, text=True).stdout
    needed = {name.split(".so")[0] for name in re.findall(r"\(NEEDED\).*\[(.*)\]", asked)}
    if needed - EVERYWHERE:
        sys.exit(f"error: {binary} needs {', '.join(sorted(needed - EVERYWHERE))}, which not every system has")
    minor = {
        library: max(map(int, re.findall(rf"\b{library}_{major}\.(\d+)", asked)), default=0)
        for library, major in (("GLIBC", "2"), ("GLIBCXX", r"3\.4"))
    }
    fits = [glibc for glibc, cxx in CXX_LIBRARY.items() if cxx >= minor["GLIBCXX"]]
    if not fits:
        sys.exit(f"error: {binary} asks for GLIBCXX_3.4.{minor['GLIBCXX']}: say in {__file__} which systems have it")
    return f"manylinux_2_{max(minor['GLIBC'], min(fits))}_{platform.machine()}"


def main():
    """Write the wheel and print where it is."""
    binary, folder = map(pathlib.Path, sys.argv[1:])
    name, version, description = described()
    where = f"py3-none-{tag(binary)}"
    info = f"{name}-{version}.dist-info"
    metadata = f"Metadata-Version: 2.4\nName: {name}\nVersion: {version}\nSummary: {description}\n"
    metadata += "License-Expression: Apache-2.0\nLicense-File: LICENSE\n"
    wheel = f"Wheel-Version: 1.0\nGenerator: {name}\nRoot-Is-Purelib: false\nTag: {where}\n"
    files = {
        f"{name}-{version}.data/scripts/{name}": binary.read_bytes(),
        f"{info}/METADATA": metadata.encode(),
        f"{info}/WHEEL": wheel.encode(),
        f"{info}/licenses/LICENSE": (CHECKOUT / "LICENSE").read_bytes(),
    }
    record = ""
    for path, data in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).decode().rstrip("=")
        record += f"{path},sha256={digest},{len(data)}\n"
    files[f"{info}/RECORD"] = f"{record}{info}/RECORD,,\n".encode()
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / f"{name}-{version}-{where}.whl"
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for path, data in files.items():
            entry = zipfile.ZipInfo(path)  # of 1980: the same program makes the same wheel
            entry.external_attr = (0o100755 if "/scripts/" in path else 0o100644) << 16
            archive.writestr(entry, data, zipfile.ZIP_DEFLATED)
    print(target)


main()
