"""ModelNet folders and zips: layout, protocols, cache and refusals."""

import zipfile

import numpy as np
import pytest

from ncgn_jax.data.cache import cached_arrays
from ncgn_jax.faults import DataError
from ncgn_jax.point_clouds.modelnet import load_modelnet


def write_off(num_vertices: int, seed: int) -> str:
    vertices = np.random.default_rng(seed).normal(size=(num_vertices, 3))
    faces = [f"3 {i} {i + 1} {i + 2}" for i in range(num_vertices - 2)]
    rows = [" ".join(f"{x:.6f}" for x in vertex) for vertex in vertices]
    return "\n".join([f"OFF{num_vertices} {len(faces)} 0", *rows, *faces])


@pytest.fixture
def members():
    """Two categories, four shapes each; one chair has too few vertices."""
    content = {}
    for category, offset in (("chair", 0), ("table", 10)):
        for index, split in enumerate(("train", "train", "test", "test")):
            count = 20 if (category, index) == ("chair", 1) else 60
            name = f"ModelNet40/{category}/{split}/{category}_{index:04d}.off"
            content[name] = write_off(count, offset + index)
    return content


@pytest.fixture
def folder(members, tmp_path):
    for name, text in members.items():
        file = tmp_path / "data" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return tmp_path / "data" / "ModelNet40"


@pytest.fixture
def archive(members, tmp_path):
    path = tmp_path / "ModelNet40.zip"
    with zipfile.ZipFile(path, "w") as file:
        for name, text in members.items():
            file.writestr(name, text)
        file.writestr("__MACOSX/ModelNet40/chair/train/._chair_0000.off", b"\x00")
        file.writestr("ModelNet40/chair/.DS_Store", b"\x00")
    return path


def test_zip_and_folder_agree(folder, archive):
    one, two = load_modelnet(folder, 30), load_modelnet(archive, 30)
    np.testing.assert_array_equal(one.train, two.train)
    np.testing.assert_array_equal(one.test, two.test)
    assert one.class_names == ("chair", "table")
    np.testing.assert_array_equal(one.train_labels, [0, 1, 1])
    np.testing.assert_array_equal(one.test_labels, [0, 0, 1, 1])
    assert one.train.shape == (3, 30, 3)
    assert "1 meshes with fewer than 30 vertices" in str(one.report)
    assert one.name == "ModelNet40 (OFF, 30 mesh vertices)"


def test_vertices_are_drawn_from_the_mesh(folder, members):
    text = members["ModelNet40/chair/train/chair_0000.off"].splitlines()
    vertices = np.array([line.split() for line in text[1:61]], float)
    cloud = load_modelnet(folder, 60).train[0]  # all of them, in another order
    unit = vertices - vertices.mean(0)
    unit /= np.abs(unit).max()
    np.testing.assert_allclose(
        cloud[np.lexsort(cloud.T)], unit[np.lexsort(unit.T)], atol=1e-6
    )


def test_surface_keeps_small_shapes(folder):
    data = load_modelnet(folder, 100, "surface")
    assert data.train.shape == data.test.shape == (4, 100, 3)
    assert "fewer than" not in str(data.report)


def test_seeded_and_independent_of_other_categories(folder):
    everything = load_modelnet(folder, 30, seed=3)
    tables = load_modelnet(folder, 30, categories=["table"], seed=3)
    np.testing.assert_array_equal(everything.train[1:], tables.train)
    assert tables.class_names == ("table",)
    assert not np.array_equal(
        tables.train, load_modelnet(folder, 30, categories=["table"], seed=4).train
    )
    with pytest.raises(DataError, match=r"\['stool'\] unknown; allowed: chair, table"):
        load_modelnet(folder, 30, categories=["stool"])


@pytest.mark.parametrize(
    "name",
    ["/tmp/chair/train/a.off", "../chair/train/a.off", "a/../../b.off", "C:\\x\\a.off"],
)
def test_unsafe_member_is_refused_before_anything_is_read(archive, name, monkeypatch):
    with zipfile.ZipFile(archive, "a") as file:
        file.writestr(name, "OFF\n")
    monkeypatch.setattr(
        zipfile.ZipFile, "read", lambda *_: pytest.fail("a member was read")
    )
    with pytest.raises(DataError, match="unsafe member path"):
        load_modelnet(archive, 30)


def test_bad_archives(tmp_path, archive):
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"empty: no file matches category/"):
        load_modelnet(tmp_path / "empty", 30)
    with pytest.raises(DataError, match="no such file or folder"):
        load_modelnet(tmp_path / "absent.zip", 30)
    (tmp_path / "text.zip").write_text("hello")
    with pytest.raises(DataError, match="not a readable zip"):
        load_modelnet(tmp_path / "text.zip", 30)
    content = bytearray(archive.read_bytes())
    content[200] ^= 0xFF  # inside the first member's text
    archive.write_bytes(content)
    with pytest.raises(DataError, match=r"chair_0000\.off: damaged member"):
        load_modelnet(archive, 30)


def test_members_that_begin_before_the_archive(archive):
    content = bytearray(archive.read_bytes())
    field = content.rindex(b"PK\5\6") + 16  # where the list of members begins
    offset = int.from_bytes(content[field : field + 4], "little")
    content[field : field + 4] = (offset + 10).to_bytes(4, "little")
    archive.write_bytes(content)
    with pytest.raises(DataError, match="damaged member|not a readable zip"):
        load_modelnet(archive, 30)


def test_faults_name_the_mesh(folder):
    file = folder / "table" / "test" / "table_0002.off"
    file.write_text(file.read_text()[:300])
    with pytest.raises(DataError, match=r"table/test/table_0002\.off: truncated"):
        load_modelnet(folder, 30)


def test_no_shape_with_enough_vertices(folder):
    with pytest.raises(DataError, match="8 of 8 shapes have fewer than num_points=61"):
        load_modelnet(folder, 61)
    with pytest.raises(DataError, match="allowed: vertices, surface"):
        load_modelnet(folder, 30, "volume")


def test_cache_is_used_and_follows_the_files(folder, tmp_path, monkeypatch):
    cache = tmp_path / "cache"
    first = load_modelnet(folder, 30, cache_dir=cache)
    assert len(list(cache.iterdir())) == 1
    with monkeypatch.context() as patch:
        patch.setattr(
            "ncgn_jax.point_clouds.modelnet.read_off",
            lambda *_: pytest.fail("read again"),
        )
        again = load_modelnet(folder, 30, cache_dir=cache)
    np.testing.assert_array_equal(first.train, again.train)
    assert first.report == again.report
    file = folder / "table" / "test" / "table_0002.off"
    file.write_text(write_off(60, seed=99))
    changed = load_modelnet(folder, 30, cache_dir=cache)
    assert not np.array_equal(changed.test, first.test)


@pytest.mark.parametrize("damage", ["truncate", "garbage", "flip", "empty"])
def test_corrupt_cache_is_rebuilt_with_a_warning(tmp_path, damage):
    def build():
        return {"x": np.random.default_rng(0).normal(size=(50, 3))}

    cached_arrays(tmp_path, "set", {"a": 1}, build)
    (file,) = tmp_path.iterdir()
    content = bytearray(file.read_bytes())
    if damage == "truncate":
        content = content[: len(content) // 2]
    elif damage == "garbage":
        content = bytearray(b"not a zip at all")
    elif damage == "empty":
        content = bytearray()
    else:
        content[len(content) // 2] ^= 0xFF
    file.write_bytes(content)
    with pytest.warns(UserWarning, match="rebuilt"):
        arrays = cached_arrays(tmp_path, "set", {"a": 1}, build)
    np.testing.assert_array_equal(arrays["x"], build()["x"])
    assert [path.suffix for path in tmp_path.iterdir()] == [".npz"]
    cached_arrays(tmp_path, "set", {"a": 1}, lambda: pytest.fail("built again"))


def test_cache_of_other_settings_is_not_taken(tmp_path):
    cached_arrays(tmp_path, "set", {"a": 1}, lambda: {"x": np.zeros(3)})
    (one,) = tmp_path.iterdir()
    content = one.read_bytes()
    cached_arrays(tmp_path, "set", {"a": 2}, lambda: {"x": np.ones(3)})
    for file in tmp_path.iterdir():
        file.write_bytes(content)  # as after a clash of hashes
    with pytest.warns(UserWarning, match="made with other settings"):
        arrays = cached_arrays(tmp_path, "set", {"a": 2}, lambda: {"x": np.ones(3)})
    np.testing.assert_array_equal(arrays["x"], 1)


def test_failed_write_leaves_nothing(tmp_path, monkeypatch):
    def fail(*_, **__):
        raise OSError("disk full")

    monkeypatch.setattr(np, "savez_compressed", fail)
    with pytest.raises(OSError, match="disk full"):
        cached_arrays(tmp_path, "set", {}, lambda: {"x": np.zeros(3)})
    assert list(tmp_path.iterdir()) == []


def test_real_meshes(shared_data):
    data = load_modelnet(shared_data / "off_meshes", 400, categories=["chair", "vase"])
    assert data.train.shape == (12, 400, 3)
    assert data.test.shape == (4, 400, 3)
    np.testing.assert_allclose(np.abs(data.train).max(axis=(1, 2)), 1, atol=1e-6)
