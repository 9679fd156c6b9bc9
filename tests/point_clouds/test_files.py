"""Point clouds and meshes of a user's own."""

import numpy as np
import pytest
import trimesh

from ncgn_jax.faults import DataError
from ncgn_jax.point_clouds.files import load_point_files
from ncgn_jax.point_clouds.sets import normalise_clouds


@pytest.fixture
def clouds():
    return np.random.default_rng(0).normal(size=(10, 40, 3))


def test_array_of_clouds(tmp_path, clouds):
    for name, save in (("a.npy", np.save), ("a.npz", np.savez)):
        save(tmp_path / name, clouds)
        data = load_point_files(tmp_path / name, 20, test_fraction=0.2)
        assert data.train.shape == (8, 40, 3)  # all 40 kept for fresh draws
        assert data.test.shape == (2, 20, 3)
        assert data.class_names == ("shape",)


def test_split_is_seeded_and_disjoint(tmp_path, clouds):
    np.save(tmp_path / "a.npy", clouds)
    one, two, other = (load_point_files(tmp_path, 40, 0.3, seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one.test, two.test)
    assert not np.array_equal(one.test, other.test)
    sums = np.concatenate([one.train, one.test]).sum(axis=(1, 2))
    np.testing.assert_allclose(
        np.sort(sums), np.sort(normalise_clouds(clouds).sum(axis=(1, 2))), atol=1e-4
    )


def test_modelnet_like_npz(tmp_path, clouds):
    unit = np.round(normalise_clouds(clouds) * 32767).astype(np.int16)
    np.savez(
        tmp_path / "a.npz",
        train_points=unit[:6],
        test_points=unit[6:],
        train_class=np.array([0, 1, 0, 1, 0, 1], np.int8),
        test_class=np.array([1, 1, 0, 0], np.int8),
        train_name=np.array(["x"] * 6),
        classes=np.array(["bed", "sofa"]),
    )
    data = load_point_files(tmp_path / "a.npz", 40)
    assert data.class_names == ("bed", "sofa")
    np.testing.assert_array_equal(data.train_labels, [0, 1, 0, 1, 0, 1])
    np.testing.assert_array_equal(data.test_labels, [1, 1, 0, 0])
    kept, given = (np.sort(x, axis=1) for x in (data.train, unit[:6] / 32767))
    np.testing.assert_allclose(kept, given, atol=1e-4)  # in another order


def test_one_cloud_per_key_with_different_sizes(tmp_path, clouds):
    keys = {f"k{i}": cloud[: 30 + i] for i, cloud in enumerate(clouds)}
    np.savez(tmp_path / "a.npz", **keys)
    data = load_point_files(tmp_path / "a.npz", 20)
    assert data.train.shape == (9, 30, 3)
    keys["k3"] = keys["k3"][:15]
    np.savez(tmp_path / "a.npz", **keys)
    with pytest.raises(DataError, match=r"a\.npz, key 'k3': 15 points, num_points=20"):
        load_point_files(tmp_path / "a.npz", 20)


def test_stored_points(tmp_path, clouds):
    np.save(tmp_path / "a.npy", clouds)
    assert load_point_files(tmp_path, 5).train.shape[1] == 20  # at most 4 times
    assert load_point_files(tmp_path, 15).train.shape[1] == 40  # all there are


@pytest.mark.parametrize("extension", ["ply", "obj", "off", "stl"])
def test_meshes_in_class_folders_are_sampled(tmp_path, extension):
    for name, mesh in (
        ("ball", trimesh.creation.icosphere(subdivisions=2)),
        ("crate", trimesh.creation.box(extents=(1, 2, 3))),
    ):
        (tmp_path / name).mkdir()
        for index in range(3):
            mesh.export(tmp_path / name / f"{index}.{extension}")
    data = load_point_files(tmp_path, 50, 0.3)
    assert data.class_names == ("ball", "crate")
    assert data.train.shape == (4, 200, 3)
    points = np.concatenate([data.train[:, :50], data.test])
    labels = np.concatenate([data.train_labels, data.test_labels])
    # Few points have their mean elsewhere than the mesh; its box tells where it was.
    low, high = points.min(axis=1, keepdims=True), points.max(axis=1, keepdims=True)
    half = (high - low).max(axis=2, keepdims=True) / 2
    points = (points - (low + high) / 2) / half
    np.testing.assert_allclose(
        np.linalg.norm(points[labels == 0], axis=2), 1, atol=0.12
    )
    gaps = np.abs(np.abs(points[labels == 1]) - np.array([1, 2, 3]) / 3).min(axis=2)
    assert gaps.max() < 0.05


@pytest.mark.parametrize("extension", ["ply", "obj"])
def test_point_cloud_files(tmp_path, clouds, extension):
    for index, cloud in enumerate(clouds):
        if extension == "ply":
            trimesh.PointCloud(cloud).export(tmp_path / f"{index}.ply")
        else:
            lines = [f"v {x} {y} {z}" for x, y, z in cloud]
            (tmp_path / f"{index}.obj").write_text("\n".join(lines))
    data = load_point_files(tmp_path, 30)
    assert data.train.shape == (9, 40, 3)


def test_split_folders_are_respected(tmp_path, clouds):
    for place in ("chair/train", "chair/test", "lamp/train"):
        (tmp_path / place).mkdir(parents=True)
        np.save(tmp_path / place / "a.npy", clouds[:4])
    data = load_point_files(tmp_path, 40)
    assert (len(data.train), len(data.test)) == (8, 4)
    assert data.class_names == ("chair", "lamp")
    np.testing.assert_array_equal(data.test_labels, 0)


def test_pickles_are_refused(tmp_path):
    for name in ("a.npy", "a.npz"):
        content = np.array([{"not": "numbers"}], dtype=object)
        save = np.save if name.endswith("npy") else np.savez
        save(tmp_path / name, content, allow_pickle=True)
        with pytest.raises(DataError, match=rf"{name}.*pickled files are refused"):
            load_point_files(tmp_path / name, 5)


@pytest.mark.parametrize("name", ["a.npz", "a.npy", "a.ply", "a.obj", "a.stl", "a.off"])
@pytest.mark.parametrize("content", [b"", b"rubbish\x00\xff rubbish\n", b"v 1 2\nf 1"])
def test_rubbish_files_are_named(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=name.replace(".", r"\.")):
        load_point_files(tmp_path / name, 5)


def test_other_refusals(tmp_path, clouds):
    (tmp_path / "a.fbx").write_text("1 2 3")
    wanted = r"extension '\.fbx' \(a mesh: export it as .*\); allowed: \.npz, \.npy"
    with pytest.raises(DataError, match=wanted):
        load_point_files(tmp_path / "a.fbx", 5)
    wanted = r"1 files, none of them usable; found 1 \.fbx files: .*; allowed: \.npz"
    with pytest.raises(DataError, match=wanted):
        load_point_files(tmp_path, 5)
    with pytest.raises(DataError, match="no such file"):
        load_point_files(tmp_path / "absent", 5)
    np.save(tmp_path / "one.npy", clouds[0])
    with pytest.raises(DataError, match="at least two"):
        load_point_files(tmp_path / "one.npy", 5)
    clouds[2, 3, 0] = np.nan
    np.save(tmp_path / "nan.npy", clouds)
    with pytest.raises(DataError, match=r"nan\.npy: cloud 2, point 3, x=nan"):
        load_point_files(tmp_path / "nan.npy", 5)
    np.savez(tmp_path / "c.npz", points=clouds[5:], **{"class": np.arange(4)})
    with pytest.raises(DataError, match="5 clouds, but class indices"):
        load_point_files(tmp_path / "c.npz", 5)


@pytest.mark.slow
def test_real_surface_points(shared_data):
    data = load_point_files(shared_data / "modelnet10_1024.npz", 400)
    assert data.train.shape == (3869, 1024, 3)
    assert data.test.shape == (442, 400, 3)
    assert data.class_names[0] == "bathtub"
    assert np.bincount(data.test_labels).min() > 0
    assert 0.4 < data.scale < 0.5
