#!/usr/bin/env python3
"""Runs a command with a CUDA compiler at hand: the installed one, or NVIDIA's own from their Python wheels.

    cuda_toolkit.py FOLDER -- COMMAND...      the wheels are unpacked into FOLDER where no nvcc is on the PATH

What the wheels lack is made up: the linker's names of the libraries, a libcuda to link against (the real one comes with a
driver; ours answers every call with CUDA_ERROR_STUB_LIBRARY), and, for feature `flash-attn`, a CUTLASS checkout such as
candle-flash-attn would fetch, from the wheel of that very release. A program built so runs where a driver and the CUDA 13
libraries are.

With EMPTY_KERNELS=1 in the environment the kernels of flash-attn, hours of nvcc, become empty files: enough to compile
the library, not to link a program.
"""

import ctypes
import os
import pathlib
import re
import shutil
import subprocess
import sys
import zipfile

RELEASE = "13.0.*"
PARTS = ["cuda-nvcc", "cuda-runtime", "cuda-crt", "nvvm", "cuda-cccl", "cublas", "cuda-nvrtc"]
PACKAGES = [f"nvidia-{part}=={RELEASE}" for part in PARTS] + ["nvidia-curand==10.4.*"]
# candle-flash-attn 0.11.1 asks for this commit, which is release 3.5.0.
CUTLASS, CUTLASS_COMMIT = "nvidia-cutlass==3.5.0.0", "7d49e6c7e2f8896c47f586706e67e1fb215529dc"
# Of the GPUs that know bf16, the oldest: its PTX runs on younger ones too, its machine code (flash-attn) does not.
COMPUTE_CAP = "80"


def pip(*arguments):
    command = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", *arguments]
    environment = {**os.environ, "PIP_ROOT_USER_ACTION": "ignore"}
    subprocess.run(command, check=True, env=environment)


def write_stub(home):
    """A libcuda with every function that cuda.h declares, under the names that programs link to."""
    flags = [[], ["-D__CUDA_API_VERSION_INTERNAL"], ["-DCUDA_API_PER_THREAD_DEFAULT_STREAM"]]
    names = set()
    for flag in flags:
        read = ["cc", "-E", "-P", *flag, f"-I{home}/include", "-x", "c", str(home / "include/cuda.h")]
        header = subprocess.run(read, check=True, capture_output=True, text=True).stdout
        names.update(re.findall(r"\bCUresult\s+(?:__attribute__\S+\s+)?(cu\w+)\s*\(", header))
    assert len(names) > 300, f"cuda.h declares {len(names)} functions only"
    stubs = home / "lib/stubs"
    stubs.mkdir(exist_ok=True)
    source = "".join(f"int {name}(void) {{ return 34; }}\n" for name in sorted(names))
    link = ["cc", "-shared", "-fPIC", "-Wl,-soname,libcuda.so.1", "-x", "c", "-", "-o", str(stubs / "libcuda.so.1")]
    subprocess.run(link, input=source, text=True, check=True)
    (stubs / "libcuda.so").symlink_to("libcuda.so.1")


def install(folder):
    """The toolkit's home."""
    home = folder / "nvidia/cu13"
    if (home / "lib/stubs/libcuda.so").exists():
        return home
    print(f"no nvcc on the PATH: unpacking {', '.join(PACKAGES)} into {folder} (1 GB)", flush=True)
    shutil.rmtree(folder, ignore_errors=True)
    pip("install", "--no-deps", "--target", str(folder), *PACKAGES)
    for library in (home / "lib").glob("lib*.so.*"):
        plain = library.with_name(library.name.split(".so")[0] + ".so")
        if ".alt." not in library.name and not plain.exists():
            plain.symlink_to(library.name)
    write_stub(home)
    return home


def cutlass(folder):
    """A CUDAFORGE_HOME whose CUTLASS is the wheel's, at the commit that the build asks for."""
    cache = folder / "cudaforge"
    checkout = cache / f"git/checkouts/cutlass-{CUTLASS_COMMIT[:16]}"
    if not (checkout / ".git/HEAD").exists():
        shutil.rmtree(checkout, ignore_errors=True)
        pip("download", "--no-deps", "--dest", str(folder), CUTLASS)
        (wheel,) = folder.glob("nvidia_cutlass-*.whl")
        source = "cutlass_library/source/"
        with zipfile.ZipFile(wheel) as archive:
            for name in archive.namelist():
                if name.startswith((f"{source}include/", f"{source}tools/util/include/")) and not name.endswith("/"):
                    to = checkout / name[len(source) :]
                    to.parent.mkdir(parents=True, exist_ok=True)
                    to.write_bytes(archive.read(name))
        wheel.unlink()
        subprocess.run(["git", "init", "--quiet", str(checkout)], check=True)
        # The build compares this line with the commit that it wants, and then fetches nothing.
        (checkout / ".git/HEAD").write_text(CUTLASS_COMMIT + "\n")
    return cache


def empty_kernels(folder, nvcc):
    """An nvcc that compiles everything but the kernels of flash-attn, and a folder for what becomes of those."""
    built = folder / "empty/built"
    built.mkdir(parents=True, exist_ok=True)
    script = folder / "empty/nvcc"
    script.write_text(f"""#!/bin/sh
case "$*" in
*kernels/flash_*.cu)
    while [ "$1" != -o ]; do shift; done
    exec cc -x c -c /dev/null -o "$2" ;;
esac
exec {nvcc} "$@"
""")
    script.chmod(0o755)
    return script, built


def has_driver():
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    return True


def main():
    if len(sys.argv) < 4 or sys.argv[2] != "--":
        sys.exit(__doc__)
    folder, command = pathlib.Path(sys.argv[1]).resolve(), sys.argv[3:]
    environment = dict(os.environ)
    environment.setdefault("CUDA_COMPUTE_CAP", COMPUTE_CAP)
    if shutil.which("nvcc") is None:
        home = install(folder)
        environment["CUDA_HOME"] = str(home)
        environment["PATH"] = f"{home}/bin:{environment['PATH']}"
        paths = [environment.get("LD_LIBRARY_PATH"), f"{home}/lib", None if has_driver() else f"{home}/lib/stubs"]
        environment["LD_LIBRARY_PATH"] = ":".join(filter(None, paths))
    if "flash-attn" in " ".join([*command, environment.get("FEATURES", "")]) and "CUDAFORGE_HOME" not in environment:
        environment["CUDAFORGE_HOME"] = str(cutlass(folder))
    if environment.get("EMPTY_KERNELS") == "1":
        nvcc = shutil.which("nvcc", path=environment["PATH"])
        environment["NVCC"], environment["CANDLE_FLASH_ATTN_BUILD_DIR"] = map(str, empty_kernels(folder, nvcc))
    print("with", subprocess.run(["nvcc", "--version"], env=environment, capture_output=True, text=True, check=True)
          .stdout.strip().splitlines()[-1], flush=True)
    sys.exit(subprocess.run(command, env=environment, check=False).returncode)


if __name__ == "__main__":
    main()
