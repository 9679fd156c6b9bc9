"""Formats of clouds and meshes, and sets as they are published, at first attempt."""

import gzip
import io
import json
import sys
import tarfile
import types
import zipfile

import numpy as np
import pytest
import trimesh

from ncgn_jax.data import host_memory
from ncgn_jax.faults import DataError
from ncgn_jax.point_clouds import lidar_files
from ncgn_jax.point_clouds.cloud_reader import FileOptions
from ncgn_jax.point_clouds.files import load_point_files
from ncgn_jax.point_clouds.recognise import looks_like_clouds
from ncgn_jax.point_clouds.scans import read_scan
from ncgn_jax.point_clouds.shape_files import SHAPE_ENDINGS
from ncgn_jax.point_clouds.text_clouds import read_text_cloud
from tests.point_clouds.fuzz_kinds import pcd

CLOUD = np.random.default_rng(0).normal(size=(20, 3)).astype("f4")


def clouds(num, seed=0):
    return np.random.default_rng(seed).normal(size=(num, 20, 3)).astype("f4")


def say(data):
    return str(data.report)


def text(separator, header=(), columns=3):
    rows = np.pad(CLOUD, [(0, 0), (0, columns - 3)], constant_values=0.5)
    lines = [separator.join(f"{x:.6f}" for x in row) for row in rows.tolist()]
    return "\n".join([*header, *lines]) + "\n"


TEXTS = {
    "blanks.xyz": text(" "),
    "wide.xyz": text("   "),
    "commas.txt": text(", "),
    "semicolons.csv": text(";"),
    "tabs.asc": text("\t"),
    "counted.pts": text(" ", ["20"], 7),
    "versioned.pts": text(" ", ["version: 1", "n_points: 20", "{"]) + "}\n",
    "header.csv": text(",", ["x,y,z,nx,ny,nz"], 6),
    "capitals.csv": text(";", ['"X";"Y";"Z"']),
    "comments.txt": text(" ", ["# made by hand", "// x y z"]),
    "mark.xyz": "\ufeff" + text(" "),
    "windows.xyz": text(" ").replace("\n", "\r\n"),
    "decimal.csv": text(";").replace(".", ","),
}


@pytest.mark.parametrize("name", TEXTS)
def test_clouds_in_text(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(TEXTS[name].encode())
    np.testing.assert_allclose(read_scan(path), CLOUD, atol=2e-6)


def test_columns_of_text_are_found_by_their_names(tmp_path):
    path = tmp_path / "a.csv"
    rows = [f"7,{z},{y},{x}" for x, y, z in CLOUD.tolist()]
    path.write_text("\n".join(["label,z,y,x", *rows]))
    np.testing.assert_allclose(read_scan(path), CLOUD, rtol=1e-6)
    path.write_text("\n".join(["a,b,c,d", *rows]))
    with pytest.raises(DataError, match="columns a, b, c, d; allowed: three columns"):
        read_scan(path)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (text(" ", ["30"]), "truncated: 30 points announced, 20 found"),
        (text(" ", ["10"]), "10 points announced, 20 found; remove the line"),
        (text(" ")[:-20], "allowed: 3 numbers, as in the first .truncated"),
        (text(" ") + "nan one two\n", "point 21: 'nan one two'"),
        ("1 2\n3 4\n", "no points: no line begins with three numbers"),
        ("version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        ("", "no points"),
    ],
)
def test_spoilt_text_is_refused(tmp_path, content, said):
    (tmp_path / "a.xyz").write_text(content)
    with pytest.raises(DataError, match=said):
        read_scan(tmp_path / "a.xyz")


@pytest.mark.parametrize("form", ["ascii", "binary", "binary_compressed"])
def test_pcd(tmp_path, form):
    path = tmp_path / "a.pcd"
    path.write_bytes(pcd(CLOUD, form))
    np.testing.assert_allclose(read_scan(path), CLOUD, rtol=1e-6)
    path.write_bytes(pcd(CLOUD, form)[:-30])
    with pytest.raises(DataError, match="truncated: .* announced, .* found"):
        read_scan(path)


def test_points_that_a_scanner_did_not_see_are_left_out_and_counted(tmp_path):
    for name, hidden in (("a", 2), ("b", 3)):
        cloud = CLOUD.copy()
        cloud[:hidden] = np.nan
        (tmp_path / f"{name}.pcd").write_bytes(pcd(cloud, "binary"))
    data = load_point_files(tmp_path, 8)
    assert "5 points without coordinates (first a.pcd)" in say(data)
    assert "2 further numbers of points (rgb) (first a.pcd)" in say(data)
    assert data.train.shape[1] == 17


@pytest.mark.parametrize("kind", ["las", "laz"])
def test_lidar(tmp_path, kind):
    laspy = pytest.importorskip("laspy")
    header = laspy.LasHeader(point_format=3, version="1.2")
    header.offsets, header.scales = [5e5, 4e6, 0], [0.001] * 3
    file = laspy.LasData(header)
    far = CLOUD.astype(float) + [5e5, 4e6, 100]
    file.x, file.y, file.z = far.T
    file.write(str(tmp_path / f"a.{kind}"))
    found = read_scan(tmp_path / f"a.{kind}")
    np.testing.assert_allclose(found, far, atol=0.0006)
    content = (tmp_path / f"a.{kind}").read_bytes()
    (tmp_path / f"a.{kind}").write_bytes(content[:-200])
    said = "truncated: 20 points announced, 14 found" if kind == "las" else "readable"
    with pytest.raises(DataError, match=rf"a\.{kind}: .*{said}"):
        read_scan(tmp_path / f"a.{kind}")


def test_lidar_headers_that_announce_too_much_are_refused(tmp_path):
    laspy = pytest.importorskip("laspy")
    file = laspy.LasData(laspy.LasHeader(point_format=6, version="1.4"))
    file.x, file.y, file.z = CLOUD.T.astype(float)
    file.write(str(tmp_path / "a.las"))
    content = bytearray((tmp_path / "a.las").read_bytes())
    content[243:247] = b"\xff\xff\xff\x7f"  # extended records
    (tmp_path / "a.las").write_bytes(content)
    with pytest.raises(DataError, match="truncated: 2147483647 records announced"):
        read_scan(tmp_path / "a.las")
    (tmp_path / "a.las").write_bytes(b"rubbish")
    with pytest.raises(DataError, match="not a LAS file"):
        read_scan(tmp_path / "a.las")


@pytest.mark.parametrize("kind", ["glb", "gltf"])
def test_gltf_with_its_buffers_beside_it(tmp_path, kind):
    scene = trimesh.Scene()
    box = trimesh.creation.box((2, 2, 2))
    scene.add_geometry(
        box, transform=trimesh.transformations.translation_matrix([9, 0, 0])
    )
    exported = scene.export(file_type=kind)
    for i in range(2):
        (tmp_path / f"{i}").mkdir()
        files = exported if isinstance(exported, dict) else {"model.glb": exported}
        for name, content in files.items():
            (tmp_path / f"{i}" / name).write_bytes(content)
    data = load_point_files(tmp_path, 200, normalise="none")
    np.testing.assert_allclose(np.abs(data.test[0] - [9, 0, 0]).max(1), 1, atol=1e-5)
    if kind == "gltf":
        outside = json.loads((tmp_path / "0/model.gltf").read_text())
        outside["buffers"][0]["uri"] = "../1/" + outside["buffers"][0]["uri"]
        (tmp_path / "0/model.gltf").write_text(json.dumps(outside))
        with pytest.raises(DataError, match="which is not beside it"):
            load_point_files(tmp_path, 200)


@pytest.mark.parametrize("order", ["<", ">"])
def test_binary_ply_of_any_order_and_with_more_columns(tmp_path, order):
    name = {"<": "little", ">": "big"}[order]
    header = (
        f"ply\nformat binary_{name}_endian 1.0\ncomment mod\xe8le\nelement vertex 4\n"
        "property double x\nproperty double y\nproperty double z\n"
        "property uchar red\nelement face 2\nproperty uchar flag\n"
        "property list uchar uint vertex_index\nend_header\n"
    ).encode("latin-1")
    corners = [(0, 0, 0), (1, 0, 0), (1, 1, 0), (0, 1, 0)]
    vertex = np.dtype([("p", f"{order}f8", 3), ("red", "u1")])
    body = np.array([(c, 9) for c in corners], vertex).tobytes()
    for which in ((0, 1, 2), (0, 2, 3, 1)[:3]):
        body += bytes([1, len(which)]) + np.array(which, f"{order}u4").tobytes()
    for i in range(2):
        (tmp_path / f"{i}.ply").write_bytes(header + body)
    data = load_point_files(tmp_path, 400, normalise="none")
    np.testing.assert_allclose(data.test[0].mean(0), [0.5, 0.5, 0], atol=0.1)
    assert "2 further numbers of points (red) (first 0.ply)" in say(data)
    (tmp_path / "0.ply").write_bytes((header + body)[:-3])
    with pytest.raises(DataError, match="truncated: 2 of 'face' announced, 1 found"):
        load_point_files(tmp_path, 400)


def test_stl_in_text_that_was_cut_short(tmp_path):
    content = trimesh.creation.box().export(file_type="stl_ascii")
    for i in range(2):
        (tmp_path / f"{i}.stl").write_text(content)
    assert load_point_files(tmp_path, 8).test.shape == (1, 8, 3)
    (tmp_path / "0.stl").write_text(content[: len(content) // 2])
    with pytest.raises(DataError, match="truncated: .* facets announced"):
        load_point_files(tmp_path, 8)


def hdf5(path, **arrays):
    h5py = pytest.importorskip("h5py")
    with h5py.File(path, "w") as file:
        for name, array in arrays.items():
            file[name.replace("__", "/")] = array


def test_modelnet40_ply_hdf5_2048(tmp_path):
    for i, num in ((0, 6), (1, 2)):
        hdf5(tmp_path / f"ply_data_train{i}.h5", data=clouds(num, i),
             label=np.arange(num, dtype="u1")[:, None] % 3, normal=clouds(num),
             faceId=np.zeros((num, 20), "i4"))  # fmt: skip
    hdf5(
        tmp_path / "ply_data_test0.h5",
        data=clouds(3, 9),
        label=np.array([[2], [1], [0]]),
    )
    (tmp_path / "shape_names.txt").write_text("airplane\nbathtub\nbed\n")
    (tmp_path / "train_files.txt").write_text(
        "data/modelnet40_ply_hdf5_2048/ply_data_train0.h5\n"
    )
    (tmp_path / "test_files.txt").write_text("ply_data_test0.h5\n")
    data = load_point_files(tmp_path, 8)
    assert data.class_names == ("airplane", "bathtub", "bed")
    np.testing.assert_array_equal(data.train_labels, [0, 1, 2, 0, 1, 2, 0, 1])
    np.testing.assert_array_equal(data.test_labels, [2, 1, 0])
    assert data.report.split_rule == "by names of files"
    assert "2 arrays of normals (first ply_data_train0.h5:normal)" in say(data)
    assert "2 arrays of labels of points (first ply_data_train0.h5:faceId)" in say(data)


def test_scan_object_nn(tmp_path):
    names = ("training_objectdataset", "test_objectdataset",
             "training_objectdataset_augmentedrot_scale75")  # fmt: skip
    for i, name in enumerate(names):
        hdf5(tmp_path / f"{name}.h5", data=clouds(4, i), label=np.array([3, 0, 1, 2]),
             mask=np.ones((4, 20), "i4"))  # fmt: skip
    data = load_point_files(tmp_path, 8)
    assert (len(data.train), len(data.test)) == (4, 4)
    np.testing.assert_array_equal(data.train_labels, [3, 0, 1, 2])
    assert "1 augmented variants (data.pattern reads them)" in say(data)
    assert "2 arrays of labels of points" in say(data)
    for folder in ("main_split", "main_split_nobg"):
        (tmp_path / "h5_files" / folder).mkdir(parents=True)
        for name in names[:2]:
            content = (tmp_path / f"{name}.h5").read_bytes()
            (tmp_path / "h5_files" / folder / f"{name}.h5").write_bytes(content)
    with pytest.raises(DataError, match="main_split, main_split_nobg: variants of"):
        load_point_files(tmp_path / "h5_files", 8)
    one = load_point_files(tmp_path / "h5_files" / "main_split", 8)
    assert (len(one.train), len(one.test)) == (4, 4)


def test_shapenet_hdf5(tmp_path):
    hdf5(tmp_path / "shapenet.hdf5", **{
        f"{synset}__{part}": clouds(num, num)
        for synset in ("02691156", "03001627")
        for part, num in (("train", 5), ("val", 2), ("test", 3))
    })  # fmt: skip
    data = load_point_files(tmp_path / "shapenet.hdf5", 8)
    assert data.class_names == ("airplane", "chair")
    assert data.report.classes == {"airplane": (5, 3), "chair": (5, 3)}
    assert data.report.notes == ("classes are the groups of arrays in a file",)
    left = "4 of the validation split, kept apart (first shapenet.hdf5:02691156/val)"
    assert left in say(data)


def test_pc15k_tree_has_the_names_of_synsets(tmp_path):
    for synset in ("02691156", "03001627"):
        for part, num in (("train", 3), ("val", 1), ("test", 2)):
            folder = tmp_path / "ShapeNetCore.v2.PC15k" / synset / part
            folder.mkdir(parents=True)
            for i in range(num):
                np.save(folder / f"{i}.npy", clouds(1, hash((synset, i)) % 999)[0])
    data = load_point_files(tmp_path, 8)
    assert data.report.classes == {"airplane": (3, 2), "chair": (3, 2)}
    assert "02691156 is airplane, and 1 more" in say(data)
    chairs = load_point_files(tmp_path, 8, categories=("chair",))
    assert chairs.class_names == ("chair",)
    one = load_point_files(tmp_path / "ShapeNetCore.v2.PC15k" / "03001627", 8)
    assert one.class_names == ("chair",)


def test_modelnet40_normal_resampled(tmp_path):
    parts = {"train": [], "test": []}
    for name in ("night_stand", "chair"):
        (tmp_path / name).mkdir()
        for i in range(1, 6):
            stem = f"{name}_{i:04d}"
            parts["train" if i < 4 else "test"].append(stem)
            np.savetxt(
                tmp_path / name / f"{stem}.txt",
                np.concatenate([CLOUD * i, CLOUD], axis=1),
                delimiter=",",
                fmt="%.6f",
            )
    for part, stems in parts.items():
        (tmp_path / f"modelnet40_{part}.txt").write_text("\n".join(stems))
        (tmp_path / f"modelnet10_{part}.txt").write_text(stems[0])
    (tmp_path / "modelnet40_shape_names.txt").write_text("chair\nnight_stand\n")
    (tmp_path / "modelnet10_shape_names.txt").write_text("chair\n")
    (tmp_path / "filelist.txt").write_text("chair/chair_0001.txt\n")
    data = load_point_files(tmp_path, 8)
    assert data.report.classes == {"chair": (3, 2), "night_stand": (3, 2)}
    rule = "by the lists modelnet40_test.txt and modelnet40_train.txt"
    assert data.report.split_rule == rule
    assert "2 lists of fewer clouds (first modelnet10_test.txt)" in say(data)
    assert "10 further numbers of points (4, 5, 6)" in say(data)


@pytest.mark.parametrize("kind", ["zip", "tar", "tar.gz", "folder"])
def test_archives_are_read_as_folders_are(tmp_path, kind):
    members = {
        f"mydata/{c}/{part}/{i}.{e}": content
        for c in "ab"
        for part, num in (("train", 2), ("test", 1))
        for i in range(num)
        for e, content in (("xyz", text(" ").encode()),)
    }
    members["mydata/a/train/2.npy.gz"] = gzip.compress(npy(CLOUD))
    members["mydata/a/train/3.npz"] = npz(points=CLOUD, normals=CLOUD)
    members["__MACOSX/mydata/a/train/._0.xyz"] = b"\0"
    path = tmp_path / f"a.{kind}"
    if kind == "zip":
        with zipfile.ZipFile(path, "w") as file:
            for name, content in members.items():
                file.writestr(name, content)
    elif kind == "folder":
        for name, content in members.items():
            (path / name).parent.mkdir(parents=True, exist_ok=True)
            (path / name).write_bytes(content)
    else:
        with tarfile.open(path, "w:gz" if kind.endswith("gz") else "w") as file:
            for name, content in members.items():
                info = tarfile.TarInfo(name)
                info.size = len(content)
                file.addfile(info, io.BytesIO(content))
    data = load_point_files(path, 8)
    assert data.report.classes == {"a": (4, 1), "b": (2, 1)}
    assert "1 hidden files" in say(data)
    assert "1 arrays of normals (first mydata/a/train/3.npz:normals)" in say(data)
    assert [p.name for p in tmp_path.iterdir()] == [f"a.{kind}"]


def npy(array):
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def npz(**arrays):
    stream = io.BytesIO()
    np.savez(stream, **arrays)
    return stream.getvalue()


def test_hdf5_in_an_archive(tmp_path):
    hdf5(tmp_path / "a.h5", data=clouds(5))
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as file:
        file.write(tmp_path / "a.h5", "a.h5")
    data = load_point_files(tmp_path / "a.zip", 8)
    assert (len(data.train), len(data.test)) == (4, 1)


def test_hdf5_that_reads_other_files_is_refused(tmp_path):
    h5py = pytest.importorskip("h5py")
    (tmp_path / "secret").write_bytes(clouds(5).tobytes())
    with h5py.File(tmp_path / "a.h5", "w") as file:
        external = [(str(tmp_path / "secret"), 0, h5py.h5f.UNLIMITED)]
        file.create_dataset("data", (5, 20, 3), "f4", external=external)
    with pytest.raises(DataError, match="data: links to another file"):
        load_point_files(tmp_path / "a.h5", 8)


@pytest.mark.parametrize(
    "evil", ["../a.npy", "/tmp/a.npy", "C:\\a.npy", "x/../../a.npy"]
)
def test_archives_with_paths_that_lead_out_are_refused(tmp_path, evil):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as file:
        file.writestr("b.npy", npy(clouds(4)))
        file.writestr(evil, npy(clouds(4)))
    with pytest.raises(DataError, match="unsafe member path"):
        load_point_files(tmp_path / "a.zip", 8)


def test_archives_with_links_are_refused(tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w") as file:
        info = tarfile.TarInfo("a.npy")
        info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
        file.addfile(info)
    with pytest.raises(DataError, match="is a link"):
        load_point_files(tmp_path / "a.tar", 8)


class _Bomb:
    def __reduce__(self):
        return exec, ("raise SystemExit('code of the file ran')",)


@pytest.mark.parametrize("where", ["folder", "zip"])
def test_pickles_in_arrays_are_refused(tmp_path, where):
    content = io.BytesIO()
    np.save(content, np.array([_Bomb()], dtype=object), allow_pickle=True)
    if where == "folder":
        (tmp_path / "a.npy").write_bytes(content.getvalue())
        path = tmp_path
    else:
        path = tmp_path / "a.zip"
        with zipfile.ZipFile(path, "w") as file:
            file.writestr("a.npy", content.getvalue())
    with pytest.raises(DataError, match=r"a\.npy.*pickled files are refused"):
        load_point_files(path, 8)


def test_torch_files_hold_tensors_alone(tmp_path):
    torch = pytest.importorskip("torch")
    train, test = torch.from_numpy(clouds(4)), torch.from_numpy(clouds(2, 5))
    torch.save({"train": {"pos": train, "y": torch.tensor([0, 1, 0, 1])},
                "test": {"pos": test, "y": torch.tensor([1, 0])}},
               tmp_path / "a.pt")  # fmt: skip
    data = load_point_files(tmp_path / "a.pt", 8)
    assert data.report.classes == {"0": (2, 1), "1": (2, 1)}
    torch.save([_Bomb()], tmp_path / "b.pt")
    with pytest.raises(DataError, match=r"b\.pt: holds more than tensors") as refused:
        load_point_files(tmp_path / "b.pt", 8)
    assert "weights_only" not in str(refused.value)
    torch.save(torch.zeros(1).expand(10**6, 1000, 3), tmp_path / "c.pt")
    with pytest.raises(DataError, match="is larger than the file"):
        load_point_files(tmp_path / "c.pt", 8)


def test_torch_is_asked_not_to_run_code(tmp_path, monkeypatch):
    """With a stand-in, where torch is not installed."""
    asked = {}

    class Tensor:
        def __init__(self, array):
            self.array, self.shape, self.dtype = array, array.shape, array.dtype

        numel = property(lambda self: lambda: self.array.size)
        element_size = property(lambda self: lambda: self.array.itemsize)

        def detach(self):
            return self

        def numpy(self):
            return self.array

    def load(file, **options):
        asked.update(options)
        return {"points": Tensor(clouds(4)), "meta": [1, "text"]}

    fake = types.ModuleType("torch")
    fake.Tensor, fake.load, fake.bfloat16 = Tensor, load, "bfloat16"
    monkeypatch.setitem(sys.modules, "torch", fake)
    (tmp_path / "a.pt").write_bytes(b"PK" + bytes(10**4))
    data = load_point_files(tmp_path / "a.pt", 8)
    assert sum((len(data.train), len(data.test))) == 4
    assert asked["weights_only"] is True


@pytest.mark.parametrize(
    ("name", "package", "extra"),
    [("a.h5", "h5py", "hdf5"), ("a.las", "laspy", "lidar"), ("a.pt", "torch", "torch")],
)
def test_packages_that_are_missing_are_named(
    tmp_path, monkeypatch, name, package, extra
):
    monkeypatch.setitem(sys.modules, package, None)
    (tmp_path / name).write_bytes(b"x" * 400)
    with pytest.raises(DataError, match=rf"needs {package}.*ncgn_jax\[{extra}\]"):
        load_point_files(tmp_path / name, 8)


def test_transposed_clouds_are_refused_with_a_hint(tmp_path):
    np.save(tmp_path / "a.npy", clouds(4).swapaxes(1, 2))
    with pytest.raises(DataError, match=r"shape \(4, 3, 20\).*swap its last two axes"):
        load_point_files(tmp_path / "a.npy", 8)


def test_files_that_are_left_out_are_counted_by_kind(tmp_path):
    for i in range(2):
        np.save(tmp_path / f"{i}.npy", CLOUD + i)
    for name in ("a.fbx", "b.fbx", "c.jpg", "README", "notes.txt", ".hidden", "d.zip"):
        (tmp_path / name).write_bytes(b"words, no points")
    report = load_point_files(tmp_path, 8).report
    left = {tally.kind: (tally.count, tally.first) for tally in report.left_out}
    assert left.pop("hidden files") == (1, ".hidden")
    assert left.pop(".fbx files: a mesh: export it as .glb, .ply or .obj") == (
        2,
        "a.fbx",
    )
    assert left.pop(".jpg files") == (1, "c.jpg")
    assert left.pop("files without an ending") == (1, "README")
    assert left.pop("texts without points") == (1, "notes.txt")
    assert left.pop(".zip files: an archive among files: name it by data.path") == (
        1, "d.zip",
    )  # fmt: skip
    assert not left


def test_a_pattern_chooses_files(tmp_path):
    for i in range(4):
        np.save(tmp_path / f"{'ab'[i % 2]}{i}.npy", CLOUD + i)
    data = load_point_files(tmp_path, 8, options=FileOptions(pattern="a*"))
    assert len(data.train) + len(data.test) == 2
    assert "2 not of data.pattern=a* (first b1.npy)" in say(data)


def test_records_of_coordinates(tmp_path):
    kind = [("x", "f4"), ("y", "f4"), ("z", "f4"), ("nx", "f4"), ("red", "u1")]
    for i in range(2):
        records = np.zeros(20, kind)
        for axis, values in zip("xyz", CLOUD.T + i, strict=True):
            records[axis] = values
        np.save(tmp_path / f"{i}.npy", records)
        np.savez(tmp_path / f"more{i}.npz", points=records)
    np.testing.assert_array_equal(read_scan(tmp_path / "0.npy"), CLOUD)
    data = load_point_files(tmp_path, 8)
    assert len(data.train) + len(data.test) == 4
    assert "other arrays (first 0.npy:" in say(data)


def test_texts_in_utf_16_are_read(tmp_path):
    for i, name in enumerate(("blanks.xyz", "header.csv", "counted.pts")):
        path = tmp_path / f"{i}{name[-4:]}"
        path.write_bytes(TEXTS[name].encode("utf-16"))
        assert looks_like_clouds(path)
        np.testing.assert_allclose(read_scan(path), CLOUD, atol=2e-6)
    (tmp_path / "3.txt").write_bytes(TEXTS["blanks.xyz"].encode("utf-16-be"))
    wide = b"\xfe\xff" + TEXTS["commas.txt"].encode("utf-16-be")
    (tmp_path / "4.txt").write_bytes(wide)
    data = load_point_files(tmp_path, 8)
    assert len(data.train) + len(data.test) == 4
    assert "1 texts without points (first 3.txt)" in say(data)
    box = trimesh.creation.box()
    for kind in ("obj", "off"):
        path = tmp_path / f"a.{kind}"
        path.write_bytes(box.export(file_type=kind).encode("utf-16"))
        np.testing.assert_allclose(np.abs(read_scan(path)), np.full((8, 3), 0.5))


def test_commas_that_may_divide_thousands_are_refused(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("1,234;2,345;3,456\n4,567;5,678;6,789\n")
    with pytest.raises(DataError, match="decimal points or divide thousands"):
        read_scan(path)
    # One number that cannot be thousands tells what all commas are.
    path.write_text("1,234;2,345;3,456\n4,567;5,678;0,789\n")
    np.testing.assert_array_equal(
        read_scan(path), [[1.234, 2.345, 3.456], [4.567, 5.678, 0.789]]
    )


def test_heights_on_a_grid_are_no_points(tmp_path):
    header = "ncols 4\nnrows 20\nxllcorner 0\nyllcorner 0\ncellsize 1\n"
    (tmp_path / "a.asc").write_text(header + text(" ", columns=4))
    with pytest.raises(DataError, match="heights on a grid"):
        read_scan(tmp_path / "a.asc")


@pytest.mark.parametrize("separator", [",", ", ", "\t"])
def test_pcd_in_text_with_commas(tmp_path, separator):
    header, _, rows = pcd(CLOUD, "ascii").partition(b"DATA ascii\n")
    rows = rows.replace(b" ", separator.encode())
    (tmp_path / "a.pcd").write_bytes(header + b"DATA ascii\n" + rows)
    np.testing.assert_allclose(read_scan(tmp_path / "a.pcd"), CLOUD, rtol=1e-6)


@pytest.mark.parametrize("ending", SHAPE_ENDINGS)
def test_pointers_and_pages_in_the_place_of_a_file_are_named(tmp_path, ending):
    path = tmp_path / f"a{ending}"
    path.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
    with pytest.raises(DataError, match="a pointer to the file; `git lfs pull`"):
        read_scan(path)
    path.write_bytes(b"\xef\xbb\xbf<!DOCTYPE html>\n<html>")
    with pytest.raises(DataError, match="a web page in the place of the file"):
        read_scan(path)


def packed_torch(num):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("archive/data/0", bytes(num))
    return stream.getvalue()


def test_compressed_tensors_are_refused_unread(tmp_path, monkeypatch):
    fake = types.ModuleType("torch")
    fake.load = lambda *a, **k: pytest.fail("was loaded")
    monkeypatch.setitem(sys.modules, "torch", fake)
    (tmp_path / "a.pt").write_bytes(packed_torch(10**6))
    with pytest.raises(DataError, match="tensors of 1,000,000 bytes in a file of"):
        load_point_files(tmp_path / "a.pt", 8)


def test_compressed_lidar_that_would_not_fit_is_refused_unread(tmp_path, monkeypatch):
    laspy = pytest.importorskip("laspy")
    monkeypatch.setattr(lidar_files, "_read_apart", lambda *a: pytest.fail("was read"))
    for version, kind, where, size in (("1.2", 3, 107, 4), ("1.4", 6, 247, 8)):
        file = laspy.LasData(laspy.LasHeader(point_format=kind, version=version))
        file.x, file.y, file.z = CLOUD.T.astype(float)
        file.write(str(tmp_path / "a.laz"))
        content = bytearray((tmp_path / "a.laz").read_bytes())
        content[where : where + size] = (4 * 10**9).to_bytes(size, "little")
        (tmp_path / "a.laz").write_bytes(content)
        monkeypatch.setattr(host_memory, "available_bytes", lambda: 2**36)
        with pytest.raises(DataError, match="its 4,000,000,000 points take 3.* GiB"):
            read_scan(tmp_path / "a.laz")


def test_torchs_advice_to_load_what_was_refused_is_not_passed_on(tmp_path, monkeypatch):
    fake = types.ModuleType("torch")

    def load(file, **options):
        raise RuntimeError(
            "Re-running `torch.load` with `weights_only` set to `False` will succeed.\n"
            "Unsupported global: GLOBAL posix.system was not an allowed global"
        )

    fake.load = load
    monkeypatch.setitem(sys.modules, "torch", fake)
    (tmp_path / "a.pt").write_bytes(b"PK" + bytes(100))
    with pytest.raises(DataError, match=r"\(it asks for posix\.system\)") as refused:
        load_point_files(tmp_path / "a.pt", 8)
    assert "weights_only" not in str(refused.value)


def test_tables_whose_rows_have_names_are_no_clouds(tmp_path):
    """The first column of pandas has no name in the header."""
    (tmp_path / "counts.csv").write_text(",Aanat,Aasdh,Aatf\n0,3,1,2\n1,0,0,1\n")
    with pytest.raises(DataError, match="columns , aanat, aasdh, aatf; allowed: three"):
        read_text_cloud((tmp_path / "counts.csv").read_bytes(), "counts.csv")
    assert not looks_like_clouds(tmp_path)
    (tmp_path / "counts.csv").write_text(",x,y,z\n0,3,1,2\n1,0,0,1\n")
    found = read_text_cloud((tmp_path / "counts.csv").read_bytes(), "counts.csv")
    assert found.points.tolist() == [[3, 1, 2], [0, 0, 1]]


def test_shapes_that_are_not_read_are_refused_with_a_way_to_convert_them(tmp_path):
    (tmp_path / "a.fbx").write_bytes(b"Kaydara FBX Binary")
    assert looks_like_clouds(tmp_path)
    with pytest.raises(DataError, match=r"export it as \.glb"):
        load_point_files(tmp_path, 8)
    (tmp_path / "a.jpg").write_bytes(b"")
    assert not looks_like_clouds(tmp_path)


def test_meshes_of_too_few_vertices_are_refused_with_ways_out(tmp_path):
    trimesh.creation.box((2, 2, 2)).export(tmp_path / "a.ply")
    with pytest.raises(DataError, match="allowed: a smaller data.num_points, or"):
        load_point_files(tmp_path, 400, sampling="vertices")


def test_a_cut_glb_is_truncated(tmp_path):
    content = trimesh.creation.box((2, 2, 2)).export(file_type="glb")
    (tmp_path / "a.glb").write_bytes(content[:-40])
    said = f"truncated: {len(content)} bytes announced, {len(content) - 40} found"
    with pytest.raises(DataError, match=said):
        load_point_files(tmp_path, 8)
