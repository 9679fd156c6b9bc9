"""Files of cells and profiles to spoil."""

import gzip
import io
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from ncgn_jax.expression.cell_files import load_cells
from ncgn_jax.expression.recognise import recognise
from ncgn_jax.expression.sets import load_profiles
from ncgn_jax.expression.tissue import load_tissue
from tests.expression.cell_tables import write_zarr
from tests.spoilt_files import Kind, npz

CELLS = b"ID\tX\tY\tGad2\tTtr\na\t0.5\t1\t0\t2\nb\t1.5\t-2\t3\t5\nc\t7\t8\t9\t-1\n"
TISSUE = b"cell,x_centroid,y_centroid,sample,Gad2,Ttr\n" + b"".join(
    b"c%d,%d,%d.5,%s,%d,%d\n" % (i, i * 7 % 5, i, b"uv"[i // 6 : i // 6 + 1], i % 4, i)
    for i in range(12)
)
MATRIX = b"gene,a,b,c\nGad2,0,3,9\nTtr,2,5,1\n"
PLACES = b"barcode,x,y,library_id\na,0.5,1,u\nb,1.5,-2,u\nc,7,8,u\n"
SPOTS = b"a,1,0,0,1,5\nb,1,1,1,-2,15\nc,0,2,2,8,7\n"
MARKET = b"""%%MatrixMarket matrix coordinate integer general
2 3 4
1 2 3
1 3 9
2 1 2
2 2 5
"""
FEATURES = b"E1\tGad2\tGene Expression\nE2\tTtr\tGene Expression\n"
BARCODES = b"a\nb\nc\n"


def annotated() -> bytes:
    """Makes an AnnData file of three cells."""
    with tempfile.TemporaryDirectory() as folder:
        _annotated().write_h5ad(Path(folder) / "a.h5ad")
        return (Path(folder) / "a.h5ad").read_bytes()


def _annotated():
    import anndata
    import pandas
    import scipy.sparse

    content = anndata.AnnData(
        X=scipy.sparse.csr_matrix(np.arange(6, dtype=np.float32).reshape(3, 2)),
        obs=pandas.DataFrame(
            {"age": [1.0, 2.0, 2.0], "stage": pandas.Categorical(["a", "b", "b"])},
            index=["c1", "c2", "c3"],
        ),
        var=pandas.DataFrame(index=["Gad2", "Ttr"]),
    )
    content.obsm["spatial"] = np.array([[0.0, 1.0], [2.0, 0.5], [1.0, 3.0]])
    content.layers["counts"] = content.X.toarray()
    return content


def hdf5_10x() -> bytes:
    """Makes a matrix of 10x of three cells."""
    import h5py
    import scipy.sparse

    matrix = scipy.sparse.csc_matrix(np.arange(6).reshape(2, 3))
    stream = io.BytesIO()
    with h5py.File(stream, "w") as file:
        group = file.create_group("matrix")
        group["barcodes"] = np.array(["a", "b", "c"], "S")
        group["shape"] = matrix.shape
        for name in ("data", "indices", "indptr"):
            group[name] = getattr(matrix, name)
        features = group.create_group("features")
        features["name"] = features["id"] = np.array(["Gad2", "Ttr"], "S")
        features["feature_type"] = np.array(["Gene Expression"] * 2, "S")
    return stream.getvalue()


def parquet() -> bytes:
    """Makes a table of three cells."""
    import pandas

    stream = io.BytesIO()
    pandas.read_csv(io.BytesIO(CELLS), sep="\t").to_parquet(stream)
    return stream.getvalue()


def beside(files: dict[str, bytes], read: Callable[[Path], object], name: str):
    """Returns a reader of a spoilt file that lies among others, `name` among them."""

    def load(path: Path) -> object:
        with tempfile.TemporaryDirectory() as folder:
            for other, content in {**files, name: path.read_bytes()}.items():
                (Path(folder) / other).parent.mkdir(parents=True, exist_ok=True)
                (Path(folder) / other).write_bytes(content)
            recognise(Path(folder))
            return read(Path(folder))

    return load


def tissue(path: Path) -> object:
    """Recognises cells and cuts them into patches."""
    recognise(path)
    return load_tissue(path, num_nodes=2, num_train=3, num_test=2)


TENX = {
    "matrix.mtx": MARKET,
    "features.tsv": FEATURES,
    "barcodes.tsv": BARCODES,
    "spatial/tissue_positions_list.csv": SPOTS,
}


def in_zarr(name: str, form: int) -> Kind:
    """Returns a file of a zarr folder as a kind."""
    made: dict[str, bytes] = {}

    def files() -> dict[str, bytes]:
        if not made:
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / "a.zarr"
                write_zarr(_annotated(), path, form)
                made.update(
                    {
                        p.relative_to(path).as_posix(): p.read_bytes()
                        for p in path.rglob("*")
                        if p.is_file()
                    }
                )
        return made

    def read(path: Path) -> object:
        return beside(files(), load_cells, name)(path)

    kind = f"zarr{form}-{name.replace('/', '-')}"
    return Kind(kind, lambda: files()[name], read, "zarr")


KINDS = (
    Kind("c.tsv", lambda: CELLS, load_cells),
    Kind("tissue.csv", lambda: TISSUE, tissue),
    Kind("c.csv.gz", lambda: gzip.compress(CELLS, mtime=0), load_cells),
    Kind(
        "matrix.csv",
        lambda: MATRIX,
        beside(
            {"coordinates.csv": PLACES},
            lambda p: load_cells(
                p / "matrix.csv", coordinates=p / "coordinates.csv", drop_missing=True
            ),
            "matrix.csv",
        ),
    ),
    Kind(
        "coordinates.csv",
        lambda: PLACES,
        beside({"counts.csv": MATRIX}, load_cells, "coordinates.csv"),
    ),
    *(
        Kind(
            f"10x-{Path(name).name}",
            lambda n=name: TENX[n],
            beside(TENX, load_cells, name),
        )
        for name in TENX
    ),
    Kind(
        "filtered_feature_bc_matrix.h5",
        hdf5_10x,
        beside(
            {"spatial/tissue_positions_list.csv": SPOTS},
            load_cells,
            "filtered_feature_bc_matrix.h5",
        ),
        "h5py",
    ),
    Kind("c.parquet", parquet, load_cells, "pyarrow"),
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
    in_zarr("X/indptr/.zarray", 2),
    in_zarr("obs/.zattrs", 2),
    in_zarr("obsm/spatial/0.0", 2),
    in_zarr("zarr.json", 3),
    in_zarr("X/data/zarr.json", 3),
    in_zarr("X/data/c/0", 3),
)
