"""Files of cells and profiles to spoil."""

import tempfile
from pathlib import Path

import numpy as np

from ncgn_jax.expression.cell_files import load_cells
from ncgn_jax.expression.sets import load_profiles
from tests.spoilt_files import Kind, npz


def annotated() -> bytes:
    """Makes an AnnData file of three cells."""
    import anndata
    import pandas

    content = anndata.AnnData(
        X=np.arange(6, dtype=np.float32).reshape(3, 2),
        obs=pandas.DataFrame(
            {"age": [1.0, 2.0, 2.0], "stage": pandas.Categorical(["a", "b", "b"])},
            index=["c1", "c2", "c3"],
        ),
        var=pandas.DataFrame(index=["Gad2", "Ttr"]),
    )
    content.obsm["spatial"] = np.array([[0.0, 1.0], [2.0, 0.5], [1.0, 3.0]])
    with tempfile.TemporaryDirectory() as folder:
        content.write_h5ad(Path(folder) / "a.h5ad")
        return (Path(folder) / "a.h5ad").read_bytes()


CELLS = b"ID\tX\tY\tGad2\tTtr\na\t0.5\t1\t0\t2\nb\t1.5\t-2\t3\t5\nc\t7\t8\t9\t-1\n"

KINDS = (
    Kind("c.tsv", lambda: CELLS, load_cells),
    Kind(
        "p.npz",
        lambda: npz(
            expression=np.random.default_rng(0).random((6, 20, 2)),
            time=np.arange(6.0),
            genes=np.array(["a", "b"]),
        ),
        lambda p: load_profiles(p, num_nodes=5),
    ),
    Kind("c.h5ad", annotated, lambda p: load_cells(p, time_column="age"), "anndata"),
)
