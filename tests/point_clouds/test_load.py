"""The one door: what is found where, and what is refused."""

import zipfile

import numpy as np
import pytest

from ncgn_jax.faults import DataError
from ncgn_jax.point_clouds.load import find_data, load_point_dataset

MESH = "OFF\n4 4 0\n0 0 0\n1 0 0\n0 1 0\n0 0 1\n3 0 1 2\n3 0 1 3\n3 0 2 3\n3 1 2 3\n"


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("NCGN_DATA", raising=False)


def write_zip(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as file:
        for split in ("train", "test"):
            file.writestr(f"ModelNet10/bed/{split}/bed_0001.off", MESH)
    return path


def load(source="auto", path=None, **settings):
    settings = {"num_points": 4, "num_train": 16, "num_test": 16} | settings
    return load_point_dataset(source, path, **settings)


def test_auto_falls_back_to_the_embedded_set_and_says_so():
    data = load()
    assert data.name == "embedded parametric shapes"
    assert data.train.shape == (16, 4, 3)


def test_auto_looks_in_the_usual_places(tmp_path, monkeypatch):
    write_zip(tmp_path / "data" / "ModelNet10.zip")
    assert load().name.startswith("ModelNet10")
    np.save(tmp_path / "mine.npy", np.random.default_rng(0).normal(size=(5, 9, 3)))
    monkeypatch.setenv("NCGN_DATA", str(tmp_path / "mine.npy"))
    assert load().name.startswith("mine.npy")
    assert load(path=tmp_path / "data").name.startswith("ModelNet10")


def test_auto_tells_modelnet_folders_from_others(tmp_path):
    for place in ("train", "test"):
        (tmp_path / "set" / "bed" / place).mkdir(parents=True)
        (tmp_path / "set" / "bed" / place / "a.off").write_text(MESH)
    assert "mesh vertices" in load(path=tmp_path / "set").name
    assert "mesh vertices" not in load("files", path=tmp_path / "set").name
    assert load("modelnet", tmp_path / "set", sampling="surface").test.shape == (
        1,
        4,
        3,
    )


def test_what_is_named_but_absent_is_an_error(tmp_path, monkeypatch):
    with pytest.raises(DataError, match=r"data\.path='nowhere': no such"):
        load(path="nowhere")
    monkeypatch.setenv("NCGN_DATA", "gone")
    with pytest.raises(DataError, match="NCGN_DATA='gone'"):
        load()
    monkeypatch.delenv("NCGN_DATA")
    assert find_data(None) is None
    with pytest.raises(DataError, match=r"needs data\.path, NCGN_DATA or one of"):
        load("modelnet")
    with pytest.raises(DataError, match="allowed: auto, modelnet, files"):
        load("modelnet40")
    with pytest.raises(DataError, match="num_points=1"):
        load(num_points=1)


def test_primitives_keep_their_coordinates():
    data = load("primitives", num_points=30, seed=1)
    again = load("primitives", num_points=30, seed=1)
    np.testing.assert_array_equal(data.train, again.train)
    assert not np.array_equal(data.train, data.test)
    assert data.class_names == ("sphere", "torus", "box")
