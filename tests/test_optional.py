"""The package without its optional libraries: it works, and says what is missing."""

import subprocess
import sys

import pytest

from tests.conftest import REPOSITORY

# Runs in a process of its own, in which no optional library can be imported.
PROGRAM = """
import importlib, pkgutil, sys
from pathlib import Path

OPTIONAL = {
    "IPython", "anndata", "fcd", "h5py", "laspy", "lazrs", "pandas",
    "pyarrow", "rdkit", "sklearn", "torch", "torch_fidelity", "torchvision", "trimesh",
    "zarr",
}
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in OPTIONAL:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Blocker())

import jax, numpy as np
jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_disable_most_optimizations", True)
import ncgn_jax
for module in pkgutil.walk_packages(ncgn_jax.__path__, "ncgn_jax."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)

from ncgn_jax.faults import DataError
from ncgn_jax.molecules.atom_classes import import_chem
from ncgn_jax.point_clouds.scans import read_scan

models, folder = Path(sys.argv[1]), Path(sys.argv[2])
made = ncgn_jax.load(models / "point_clouds").sample(2, steps=1)
first = made.save(folder / "cloud.ply")[0]
np.testing.assert_allclose(read_scan(first), made.points[0], rtol=1e-6)
ncgn_jax.load(models / "images").sample(1, steps=4).save(folder / "image.png")
ncgn_jax.load(models / "expression").sample(1, steps=1)

def say(call, *arguments):
    try:
        call(*arguments)
    except DataError as error:
        print(error)
    else:
        print("no error:", call)

(folder / "a.glb").write_bytes(b"glTF")
say(read_scan, folder / "a.glb")
say(import_chem)
assert not OPTIONAL & {name.partition(".")[0] for name in sys.modules}
"""


@pytest.mark.slow
def test_works_without_optional_libraries(tmp_path, fixtures):
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, fixtures / "models", tmp_path],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    for extra, line in zip(["meshes", "molecules"], lines, strict=True):
        assert f"`pip install 'ncgn_jax[{extra}]'`" in line
