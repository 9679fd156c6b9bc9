"""Spoilt files: every reader says what is wrong, and does nothing else.

A valid file of each kind is cut, flipped, doubled and written over at random. What a
reader makes of it must be data or the project's own error; no other exception, no file
written beside it. `NCGN_FUZZ=2000 python -m pytest tests/test_fuzz.py` tries more, and
other, files.
"""

import io
import os
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ncgn_jax.config import apply_overrides, config_to_json, load_config
from ncgn_jax.convert import check_parity
from ncgn_jax.expression.cell_files import load_cells
from ncgn_jax.expression.sets import load_profiles
from ncgn_jax.faults import CheckpointError, ConfigError, DataError
from ncgn_jax.generate import read_run_config
from ncgn_jax.images.arrays import load_arrays
from ncgn_jax.images.folders import load_folder
from ncgn_jax.images.latent_shards import load_latents
from ncgn_jax.molecules.files import load_molecules
from ncgn_jax.molecules.qm9 import load_qm9
from ncgn_jax.point_clouds.files import load_point_files
from ncgn_jax.point_clouds.modelnet import load_modelnet
from ncgn_jax.run.checkpoint import Checkpoints

REPOSITORY = Path(__file__).resolve().parent.parent
SMOKE = REPOSITORY / "configs" / "smoke.py"
EXPECTED = (DataError, ConfigError, CheckpointError, DataError)
NUM_EXAMPLES = int(os.environ.get("NCGN_FUZZ", "0"))
try_many = settings(
    max_examples=NUM_EXAMPLES or 30,
    # In a plain test run the same files every time.
    derandomize=not NUM_EXAMPLES,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)

# What readers trip over: signs, ends, huge and special numbers, names that lead out.
TOKENS = (
    b"", b"\0", b"\xff\xfe", b"\n", b"\r\n", b",", b"\t", b"nan", b"inf", b"-1",
    b"1e999", b"99999999999999999999", b"0", b" ", b"../../evil", b"#", b'"', b"[",
    b"}", b"%s", b"OFF", b"end_header", b"M  END", b"$$$$", b"\x93NUMPY",
)  # fmt: skip


# What tests put beside a spoilt file.
BESIDES = ("photos", "cat", "a.png", "b.png", "c.png", "latents", "meshes",
           "latents-00000.npy", "latents-00001.npy",
           *(f"{name}.{kind}" for name in ("good", "spoilt")
             for kind in ("off", "ply", "obj", "stl")))  # fmt: skip


class Kind(NamedTuple):
    """A kind of file: a valid one, where it lies, and what reads it."""

    name: str
    content: Callable[[], bytes]
    read: Callable[[Path], object]
    needs: str | None = None


@st.composite
def damage(draw):
    """A change of bytes, as a function of them."""
    edits = draw(
        st.lists(
            st.tuples(
                st.sampled_from(("flip", "cut", "put", "over", "double", "drop")),
                st.floats(0, 1),
                st.floats(0, 1),
                st.sampled_from(TOKENS) | st.binary(min_size=1, max_size=8),
                st.integers(0, 7),
            ),
            min_size=1,
            max_size=4,
        )
    )

    def apply(content: bytes) -> bytes:
        for what, start, length, token, bit in edits:
            at = min(int(start * len(content)), max(0, len(content) - 1))
            stop = at + int(length**3 * (len(content) - at))
            if what == "flip" and content:
                flipped = bytes([content[at] ^ (1 << bit)])
                content = content[:at] + flipped + content[at + 1 :]
            elif what == "cut":
                content = content[:at]
            elif what == "put":
                content = content[:at] + token + content[at:]
            elif what == "over":
                content = content[:at] + token + content[at + len(token) :]
            elif what == "double":
                content = content[:stop] + content[at:stop] + content[stop:]
            elif what == "drop":
                content = content[:at] + content[stop:]
        return content

    return apply


def npz(**arrays) -> bytes:
    stream = io.BytesIO()
    np.savez(stream, **arrays)
    return stream.getvalue()


def npy(array) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def mesh(kind: str) -> bytes:
    """A tetrahedron of five points in a format of meshes."""
    import trimesh

    vertices = [[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 1.5]]
    faces = [[0, 1, 2], [0, 1, 3], [1, 2, 3], [2, 3, 4]]
    data = trimesh.Trimesh(vertices, faces, process=False).export(file_type=kind)
    return data if isinstance(data, bytes) else data.encode()


def modelnet_zip() -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for split in ("train", "test"):
            for number in range(2):
                archive.writestr(
                    f"ModelNet10/chair/{split}/chair_{number}.off", mesh("off")
                )
    return stream.getvalue()


def picture() -> bytes:
    from PIL import Image

    stream = io.BytesIO()
    pixels = np.arange(64, dtype=np.uint8).reshape(8, 8)
    Image.fromarray(pixels).save(stream, format="PNG")
    return stream.getvalue()


def clouds() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(6, 8, 3)).astype(np.float32)


def meshes(path: Path) -> object:
    """Reads a folder of a good mesh and the spoilt one."""
    root = path.parent / "meshes"
    root.mkdir(exist_ok=True)
    (root / f"good{path.suffix}").write_bytes(mesh(path.suffix[1:]))
    (root / f"spoilt{path.suffix}").write_bytes(path.read_bytes())
    return load_point_files(root, 4)


def photos(path: Path) -> object:
    """Reads a folder of three pictures of which one is spoilt."""
    root = path.parent / "photos" / "cat"
    root.mkdir(parents=True, exist_ok=True)
    (root / "a.png").write_bytes(picture())
    (root / "b.png").write_bytes(picture())
    (root / "c.png").write_bytes(path.read_bytes())
    return load_folder(root.parent, 8)


def shards(path: Path) -> object:
    root = path.parent / "latents"
    root.mkdir(exist_ok=True)
    good = np.random.default_rng(0).normal(size=(6, 4, 4, 2)).astype(np.float32)
    np.save(root / "latents-00000.npy", good)
    (root / "latents-00001.npy").write_bytes(path.read_bytes())
    data = load_latents(root)
    return data.take(np.arange(len(data.train)))


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


def qm9_wheel() -> bytes:
    """Makes a wheel with the three tables of QM9, of three molecules each."""
    header = "SMILES,Dipole_debye,Polarizability_bohr3,HOMO_LUMO_gap_au\n"
    rows = "CCO,1.,2,0.25\nC#N,2.,1,0.5\nc1cc[nH]c1,0.5,3,0.125\n"
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for part in (1, 2, 3):
            archive.writestr(f"qm9pack/data/qm9_part{part}.csv", header + rows)
    return stream.getvalue()


CELLS = b"ID\tX\tY\tGad2\tTtr\na\t0.5\t1\t0\t2\nb\t1.5\t-2\t3\t5\nc\t7\t8\t9\t-1\n"
SMILES = b"CCO ethanol\nC1CC1\nc1ccccc1\nC#N\nOC=O\n"
TABLE = b"name,smiles,gap\na,CCO,0.1\nb,C#N,0.2\nc,CC(=O)O,\n"
RECORD = b"""ethanol
     RDKit          2D

  3  2  0  0  0  0  0  0  0  0999 V2000
    0.0000    0.0000    0.0000 C   0  0  0  0  0  0  0  0  0  0  0  0
    1.2990    0.7500    0.0000 C   0  0  0  0  0  0  0  0  0  0  0  0
    2.5981   -0.0000    0.0000 O   0  0  0  0  0  0  0  0  0  0  0  0
  1  2  1  0
  2  3  1  0
M  END
>  <gap>  (1)
0.25

$$$$
"""

KINDS = (
    Kind("a.off", lambda: mesh("off"), meshes),
    Kind("a.ply", lambda: mesh("ply"), meshes),
    Kind("a.obj", lambda: mesh("obj"), meshes),
    Kind("a.stl", lambda: mesh("stl"), meshes),
    Kind("a.npz", lambda: npz(points=clouds()), lambda p: load_point_files(p, 4)),
    Kind("a.npy", lambda: npy(clouds()), lambda p: load_point_files(p, 4)),
    Kind("m.zip", modelnet_zip, lambda p: load_modelnet(p, 4)),
    Kind(
        "i.npz",
        lambda: npz(
            x_train=np.arange(640, dtype=np.uint8).reshape(10, 8, 8) % 255,
            y_train=np.arange(10) % 2,
        ),
        lambda p: load_arrays(p, test_fraction=0.4),
    ),
    Kind("c.png", picture, photos),
    Kind("l.npy", lambda: npy(np.ones((5, 4, 4, 2), np.float32)), shards),
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
    Kind("s.smi", lambda: SMILES, lambda p: load_molecules(p, max_atoms=9), "rdkit"),
    Kind(
        "t.csv",
        lambda: TABLE,
        lambda p: load_molecules(p, max_atoms=9, property_columns=("gap",)),
        "rdkit",
    ),
    Kind("r.sdf", lambda: RECORD, lambda p: load_molecules(p, max_atoms=9), "rdkit"),
    Kind(
        "q.whl",
        qm9_wheel,
        lambda p: load_qm9(p, num_train=4, num_validation=1),
        "rdkit",
    ),
)


def is_read_or_refused(read, expected) -> bool:
    """Says whether all is well; an error other than those expected goes on up."""
    try:
        read()
    except expected as error:
        return bool(str(error))
    return True


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS, ids=[kind.name for kind in KINDS])
@try_many
@given(change=damage())
def test_spoilt_data_files_are_refused_in_words(kind, change, tmp_path):
    if kind.needs:
        pytest.importorskip(kind.needs)
    path = tmp_path / "two" / "down" / kind.name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(change(kind.content()))
    assert is_read_or_refused(lambda: kind.read(path), DataError)
    written = {entry.name for entry in tmp_path.rglob("*") if entry.name != "down"}
    assert written <= {"two", kind.name, *BESIDES}


@pytest.mark.parametrize("kind", KINDS, ids=[kind.name for kind in KINDS])
def test_the_files_that_are_spoilt_are_good_ones(kind, tmp_path):
    if kind.needs:
        pytest.importorskip(kind.needs)
    path = tmp_path / kind.name
    path.write_bytes(kind.content())
    kind.read(path)


@pytest.mark.slow
@try_many
@given(change=damage())
def test_spoilt_stored_configurations(change, tmp_path):
    text = config_to_json(load_config(SMOKE)).encode()
    (tmp_path / "config.json").write_bytes(change(text))
    assert is_read_or_refused(lambda: read_run_config(tmp_path), EXPECTED)


@pytest.mark.slow
@try_many
@given(change=damage(), which=st.integers(0, 1000))
def test_spoilt_overrides(change, which):
    overrides = (
        b"dmp.schedule=exp", b"train.batch_size=16", b"dmp.table=((0.0,0.1),(1.0,1.0))",
        b"sample.data_limit=4.0", b"train.spare_unused=True", b"data.categories=chair,",
    )  # fmt: skip
    text = change(overrides[which % len(overrides)]).decode("utf-8", "replace")
    assert is_read_or_refused(
        lambda: apply_overrides(load_config(SMOKE), [text]), ConfigError
    )


@pytest.mark.slow
@try_many
@given(change=damage())
def test_spoilt_parity_files(change, tmp_path):
    content = (REPOSITORY / "tests/fixtures/ncgn_gcn_transcriptomics.npz").read_bytes()
    path = tmp_path / "parity.npz"
    path.write_bytes(change(content))
    assert is_read_or_refused(lambda: check_parity(path), EXPECTED)


@pytest.mark.slow
@try_many
@given(change=damage(), which=st.integers(0, 1000))
def test_spoilt_checkpoints_are_never_taken_for_whole_ones(
    change, which, tmp_path_factory
):
    """The one before is used, or nothing: never other numbers than were saved."""
    folder = tmp_path_factory.mktemp("run")
    states = {
        step: {"w": np.full((3, 4), float(step), np.float32), "n": np.int32(step)}
        for step in (1, 2)
    }
    store = Checkpoints(folder, "{}", 3)
    for step, state in states.items():
        store.save(step, state)
        store.wait()
    store.close()
    files = sorted(
        path for path in (folder / "checkpoints" / "2").rglob("*") if path.is_file()
    )
    path = files[which % len(files)]
    path.write_bytes(change(path.read_bytes()))
    store = Checkpoints(folder, "{}", 3)
    restored = []
    assert is_read_or_refused(
        lambda: restored.append(store.restore(states[1])), CheckpointError
    )
    store.close()
    if not restored:
        return
    [(state, step)] = restored
    np.testing.assert_array_equal(state["w"], states[step]["w"])
    assert int(state["n"]) == step
