#!/usr/bin/env python3
"""Runs a command with a CUDA compiler: the installed one, or NVIDIA's own from their Python wheels.

    cuda_toolkit.py FOLDER -- COMMAND...      the wheels are unpacked into FOLDER where no nvcc is on the PATH
    cuda_toolkit.py FOLDER --check PROGRAM    which libraries a built program needs, where they are, and what has them

What the wheels lack is made up: the linker's names of the libraries, a libcuda to link against (the real one comes with a
driver; ours answers every call with CUDA_ERROR_STUB_LIBRARY), and, for feature `flash-attn`, a CUTLASS checkout such as
candle-flash-attn would fetch, from the wheel of that very release. A program built so runs where a driver and the CUDA 13
libraries are (LIBRARIES). The word @rpath in COMMAND becomes the linker's option that lets it find them.

What is compiled is for the card of this machine, or, where there is none, for compute capability 9.0 (Hopper and nothing else);
another one is CUDA_COMPUTE_CAP=80, say, which is the oldest that knows bf16: candle's kernels then run on every younger card, too,
those of `flash-attn` on cards of that very capability only.

The kernels of flash-attn are hours of nvcc. With EMPTY_KERNELS=1 in the environment they become empty files: enough to compile
the library, not to link a program. With HEAD_DIMS="64 128" only the causal ones for heads up to those widths are compiled; a
program that calls another one aborts, so that is for a bench whose shapes are known.
"""

import ctypes
import os
import pathlib
import re
import shlex
import shutil
import subprocess
import sys
import zipfile

RELEASE = "13.0.*"
PARTS = ["cuda-nvcc", "cuda-runtime", "cuda-crt", "nvvm", "cuda-cccl", "cublas", "cuda-nvrtc"]
PACKAGES = [f"nvidia-{part}=={RELEASE}" for part in PARTS] + ["nvidia-curand==10.4.*"]
# candle-flash-attn 0.11.1 asks for this commit, which is release 3.5.0.
CUTLASS, CUTLASS_COMMIT = "nvidia-cutlass==3.5.0.0", "7d49e6c7e2f8896c47f586706e67e1fb215529dc"
# Where neither the environment nor a card says it.
COMPUTE_CAP = "90"
# What a program with feature `cuda` needs when it runs: the package of NVIDIA's repositories for Debian and Ubuntu, and the wheel.
LIBRARIES = {
    "libcuda.so.1": ("the driver, 580 or newer", None),
    "libcudart.so.13": ("cuda-cudart-13-0", "nvidia-cuda-runtime"),
    "libcublas.so.13": ("libcublas-13-0", "nvidia-cublas"),
    "libcublasLt.so.13": ("libcublas-13-0", "nvidia-cublas"),
    "libcurand.so.10": ("libcurand-13-0", "nvidia-curand"),
    "libnvrtc.so.13": ("cuda-nvrtc-13-0", "nvidia-cuda-nvrtc"),
}
KERNELS = pathlib.Path(__file__).resolve().parent.parent.parent / "src/tower/tensor/fused/kernels.cu"
# Beside the program, and where CUDA's own packages put them.
RPATH = ["$ORIGIN/lib", "/usr/local/cuda/lib64"]


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


def instead_of_nvcc(folder, name, body, nvcc):
    """An nvcc that handles some files itself, and a folder for what becomes of flash-attn then."""
    built = folder / name / "built"
    built.mkdir(parents=True, exist_ok=True)
    script = folder / name / "nvcc"
    script.write_text(f'#!/bin/sh\n{body}exec {shlex.quote(str(nvcc))} "$@"\n')
    script.chmod(0o755)
    return script, built


def empty_kernels(folder, nvcc):
    """Compiles everything but flash-attn."""
    body = """case "$*" in
*kernels/flash_*.cu)
    while [ "$1" != -o ]; do shift; done
    exec cc -x c -c /dev/null -o "$2" ;;
esac
"""
    return instead_of_nvcc(folder, "empty", body, nvcc)


def few_kernels(folder, nvcc, head_dims):
    """Compiles of flash-attn's kernels the causal ones of some widths; the others abort when they are called."""
    kept = "|".join(f"*kernels/flash_fwd_hdim{width}_*_causal_sm80.cu*" for width in head_dims.split())
    body = f"""case "$*" in
{kept}) ;;
*kernels/flash_fwd_*.cu*)
    for word; do case $word in *kernels/flash_fwd_*.cu) source=$word ;; esac; done
    stub={shlex.quote(str(folder / "few"))}/$(basename "$source")
    {{ printf '#include <cstdlib>\\n#include <cutlass/numeric_types.h>\\n#include "flash.h"\\n'
      sed -e '/#include/d' -e 's/^    run_mha.*/    abort();/' "$source"; }} > "$stub"
    count=$#
    while [ $count -gt 0 ]; do
        word=$1
        shift
        [ "$word" = "$source" ] && word=$stub
        set -- "$@" "$word"
        count=$((count - 1))
    done
    set -- "$@" "-I$(dirname "$source")" ;;
esac
"""
    return instead_of_nvcc(folder, "few", body, nvcc)


def compute_cap(environment):
    """The capability to compile for, and who says so."""
    given = environment.get("CUDA_COMPUTE_CAP")
    if given:
        return given, "CUDA_COMPUTE_CAP"
    smi = shutil.which("nvidia-smi", path=environment.get("PATH"))
    if smi:
        query = [smi, "--query-gpu=compute_cap", "--format=csv,noheader"]
        said = subprocess.run(query, env=environment, capture_output=True, text=True, check=False).stdout
        found = sorted({int(cap.replace(".", "")) for cap in re.findall(r"^\s*(\d+\.\d)\s*$", said, re.MULTILINE)})
        if found:
            if len(found) == 1:
                return str(found[0]), "the card of this machine"
            # What is made for 9.0 and above runs nowhere else.
            return str(min(80, found[0])), "the cards of this machine differ"
    return COMPUTE_CAP, "no card is here"


def needed(ldd):
    """CUDA's libraries among what `ldd` prints: name -> where it is, or None."""
    found = re.findall(r"^\s*(lib(?:cu|nv)\S+) => (not found|\S+)", ldd, re.MULTILINE)
    return {name: None if path == "not found" else path for name, path in found}


def check_kernels(nvrtc):
    """The program's own kernels, compiled as it does when a card first needs them (fused/launch.rs); needs no card."""
    # NVRTC opens it by its bare name, which finds what is open already.
    for builtins in pathlib.Path(nvrtc).parent.glob("libnvrtc-builtins.so.*.*"):
        if ".alt." not in builtins.name:
            ctypes.CDLL(str(builtins), ctypes.RTLD_GLOBAL)
    library, program, size = ctypes.CDLL(nvrtc), ctypes.c_void_p(), ctypes.c_size_t()
    created = library.nvrtcCreateProgram(ctypes.byref(program), KERNELS.read_bytes(), None, 0, None, None)
    option = (ctypes.c_char_p * 1)(b"--gpu-architecture=compute_75")
    if created or library.nvrtcCompileProgram(program, 1, option):
        library.nvrtcGetProgramLogSize(program, ctypes.byref(size))
        log = ctypes.create_string_buffer(size.value + 1)
        library.nvrtcGetProgramLog(program, log)
        sys.exit(f"error: {KERNELS.name} does not compile with {nvrtc}: {log.value.decode()}")
    print(f"  {KERNELS.name} compiles with NVRTC")


def check(program, environment):
    """Prints what the program needs; fails where that is not what LIBRARIES, and with it the README and the image, say."""
    said = subprocess.run(["ldd", program], env=environment, capture_output=True, text=True, check=True).stdout
    found = needed(said)
    for name, path in sorted(found.items()):
        package, wheel = LIBRARIES.get(name, ("?", None))
        print(f"  {name:18} {path or 'not here'}  ({package}{f'; wheel {wheel}' if wheel else ''})")
    if set(found) != set(LIBRARIES):
        wrong = sorted(set(found) ^ set(LIBRARIES))
        sys.exit(f"error: {program} and the list LIBRARIES differ in {', '.join(wrong)}; correct the list and pipelines/kubernetes/Containerfile")
    if found["libnvrtc.so.13"]:
        check_kernels(found["libnvrtc.so.13"])


def has_driver():
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    return True


def main():
    if len(sys.argv) < 4 or sys.argv[2] not in ("--", "--check"):
        sys.exit(__doc__)
    folder, command = pathlib.Path(sys.argv[1]).resolve(), sys.argv[3:]
    environment = dict(os.environ)
    rpath = list(RPATH)
    if shutil.which("nvcc") is None:
        home = install(folder)
        rpath.append(f"{home}/lib")
        environment["CUDA_HOME"] = str(home)
        environment["PATH"] = f"{home}/bin:{environment['PATH']}"
        paths = [environment.get("LD_LIBRARY_PATH"), f"{home}/lib", None if has_driver() else f"{home}/lib/stubs"]
        environment["LD_LIBRARY_PATH"] = ":".join(filter(None, paths))
    if sys.argv[2] == "--check":
        return check(command[0], environment)
    environment["CUDA_COMPUTE_CAP"], by = compute_cap(environment)
    print(f"compute capability {environment['CUDA_COMPUTE_CAP']}: {by}", flush=True)
    # The older kind of entry holds for what the libraries need and open themselves, too: cublasLt, NVRTC's builtins.
    link = f"-Clink-arg=-Wl,--disable-new-dtags,-rpath,{':'.join(rpath)}"
    command = [link if word == "@rpath" else word for word in command]
    if "flash-attn" in " ".join([*command, environment.get("FEATURES", "")]) and "CUDAFORGE_HOME" not in environment:
        environment["CUDAFORGE_HOME"] = str(cutlass(folder))
    nvcc, instead = shutil.which("nvcc", path=environment["PATH"]), None
    if environment.get("EMPTY_KERNELS") == "1":
        instead = empty_kernels(folder, nvcc)
    elif environment.get("HEAD_DIMS"):
        instead = few_kernels(folder, nvcc, environment["HEAD_DIMS"])
    if instead:
        environment["NVCC"], environment["CANDLE_FLASH_ATTN_BUILD_DIR"] = map(str, instead)
    print("with", subprocess.run(["nvcc", "--version"], env=environment, capture_output=True, text=True, check=True)
          .stdout.strip().splitlines()[-1], flush=True)
    sys.exit(subprocess.run(command, env=environment, check=False).returncode)


if __name__ == "__main__":
    main()
