"""Files that people have: what the reader makes of each, and what it says."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from ncgn_jax.data import array_files
from ncgn_jax.faults import DataError
from ncgn_jax.point_clouds import array_contents
from ncgn_jax.point_clouds.cloud_reader import FileOptions
from ncgn_jax.point_clouds.files import load_point_files
from ncgn_jax.point_clouds.load import is_modelnet, load_point_dataset

CASES = Path(__file__).resolve().parents[1] / "fixtures" / "cases" / "points"


def load(name, num_points=8, **settings):
    return load_point_files(CASES / name, num_points, **settings)


def say(data):
    return str(data.report)


def cloud(seed, num=12, columns=3):
    return np.random.default_rng(seed).normal(size=(num, columns)).astype("f4")


def write(root, names, num=12, columns=3):
    """Writes a cloud of its own into each of some .npy files."""
    for seed, name in enumerate(names):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, cloud(seed, num, columns))


def counts(data):
    return len(data.train), len(data.test)


def by_class(data):
    return {name: tuple(n) for name, n in data.report.classes.items()}


# Splits.


def test_split_folders_below_classes_are_taken_and_val_is_kept_apart():
    data = load("split_with_val")
    assert counts(data) == (6, 4)
    assert by_class(data) == {"ball": (3, 2), "box": (3, 2)}
    assert "2 of the validation split, kept apart (first ball/val/3.npy)" in say(data)
    assert "(by folders)" in data.report.lines("x")[0]


@pytest.mark.parametrize(
    ("train", "val", "test"),
    [("Train", "Val", "Test"), ("training", "validation", "testing"),
     ("TRAIN", "dev", "eval"), ("pc_train", "pc_val", "pc_test")],
)  # fmt: skip
def test_split_folders_in_any_spelling_and_above_classes(tmp_path, train, val, test):
    for part, num in ((train, 3), (val, 2), (test, 1)):
        write(tmp_path, [f"{part}/{c}/{i}.npy" for c in "ab" for i in range(num)])
    data = load_point_files(tmp_path, 8)
    assert by_class(data) == {"a": (3, 1), "b": (3, 1)}
    assert "4 of the validation split, kept apart" in say(data)


def test_lists_beside_give_the_split():
    data = load("split_lists", 40)
    assert counts(data) == (2, 2)
    rule = "by the lists modelnet40_test.txt and modelnet40_train.txt"
    assert rule in data.report.split_rule
    folder = CASES / "split_lists/chair"
    train = [np.load(folder / f"chair_000{i}.npy") for i in (0, 1)]
    size = [np.abs(x - x.mean(0)).max() for x in train]
    unit = [
        np.sort((x - x.mean(0)) / s, axis=0) for x, s in zip(train, size, strict=True)
    ]
    np.testing.assert_allclose(np.sort(data.train, axis=1), unit, atol=1e-5)


def test_lists_that_do_not_cover_contradict_or_name_nothing(tmp_path):
    write(tmp_path, [f"a/{i}.npy" for i in range(4)])
    (tmp_path / "train.txt").write_text("a/0\na/1.npy\na/9\n")
    (tmp_path / "test.txt").write_text("./a/2.npy\n")
    data = load_point_files(tmp_path, 8)
    assert counts(data) == (2, 1)
    assert "1 in none of the lists (first a/3.npy)" in say(data)
    assert "1 of their names (first a/9) have no file" in data.report.split_rule
    (tmp_path / "test.txt").write_text("a/0\n")
    with pytest.raises(DataError, match="'a/0' stands in the lists of"):
        load_point_files(tmp_path, 8)
    (tmp_path / "train.txt").write_text("nothing\n")
    (tmp_path / "test.txt").write_text("neither\n")
    with pytest.raises(DataError, match=r"name none of the files; data\.split=random"):
        load_point_files(tmp_path, 8)
    random = load_point_files(tmp_path, 8, options=FileOptions(split="random"))
    assert counts(random) == (3, 1)


def test_a_name_of_a_list_that_fits_two_files_is_refused(tmp_path):
    write(tmp_path, ["a/0.npy", "b/0.npy", "b/1.npy"])
    (tmp_path / "train.txt").write_text("0\n")
    (tmp_path / "test.txt").write_text("b/1\n")
    with pytest.raises(DataError, match="'0' of a list may be a/0 or b/0"):
        load_point_files(tmp_path, 8)


def test_array_and_file_names_give_the_split(tmp_path):
    np.savez(
        tmp_path / "a.npz",
        X_train=np.stack([cloud(i) for i in range(4)]),
        X_val=np.stack([cloud(9)]),
        X_test=np.stack([cloud(5), cloud(6)]),
        y_train=[2, 7, 2, 7],
        y_test=[7, 2],
    )
    data = load_point_files(tmp_path / "a.npz", 8)
    assert counts(data) == (4, 2)
    assert by_class(data)["7"] == (2, 1)
    assert "1 of the validation split, kept apart (first a.npz:X_val)" in say(data)
    (tmp_path / "files").mkdir()
    for part, num in (("shapes_train", 3), ("shapes_test", 2)):
        np.save(
            tmp_path / f"files/{part}.npy", np.stack([cloud(i) for i in range(num)])
        )
    data = load_point_files(tmp_path / "files", 8)
    assert counts(data) == (3, 2)
    assert data.report.split_rule == "by names of files"


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["a/train/0.npy", "a/test/0.npy", "b/0.npy"], "1 of 3 files .*b/0.npy"),
        (["a/train/0.npy", "a/test/0.npy", "a/holdout/0.npy"], "1 of 3 .*holdout"),
        (["train/test/0.npy", "train/1.npy"], "several parts"),
        (["a/test/0.npy", "b/test/0.npy"], "both a train and a test part are needed"),
        (["train.npy", "test.npy", "more.npy"], "1 of 3 files .*more.npy"),
    ],
)
def test_unclear_splits_are_refused_with_a_way_out(tmp_path, names, said):
    write(tmp_path, names)
    with pytest.raises(DataError, match=said) as caught:
        load_point_files(tmp_path, 8)
    assert "data.split=random" in str(caught.value)
    if "several" not in said and "holdout" not in said:
        random = load_point_files(tmp_path, 8, options=FileOptions(split="random"))
        assert "at random, seed 0" in random.report.split_rule


def test_only_train_and_val_or_only_train(tmp_path):
    write(tmp_path, [f"train/{i}.npy" for i in range(4)] + ["val/0.npy"])
    data = load_point_files(tmp_path, 8)
    assert counts(data) == (4, 1)
    assert "there is no test, so val is taken for it" in data.report.split_rule
    shutil.rmtree(tmp_path / "val")
    data = load_point_files(tmp_path, 8)
    assert counts(data) == (3, 1)
    assert "test is held out of it at random" in data.report.split_rule


# Classes.


def test_a_wrapping_folder_is_no_class():
    data = load("wrapped_folder")
    assert data.class_names == ("ball", "box")
    assert "the folder mydata holds all and names no class" in say(data)


def test_folder_levels_that_could_be_classes(tmp_path):
    write(tmp_path, ["x/a/p/0.npy", "x/a/p/1.npy", "x/b/q/0.npy", "x/b/r/0.npy"])
    data = load_point_files(tmp_path, 8)
    assert data.class_names == ("a", "b")
    assert "classes are folders of level 2; those below (first x/a/p)" in say(data)
    for level, names in ((3, ("p", "q", "r")), (0, ("shape",))):
        options = FileOptions(class_level=level)
        assert load_point_files(tmp_path, 8, options=options).class_names == names
    with pytest.raises(DataError, match=r"class_level=4.*below 3 folders"):
        load_point_files(tmp_path, 8, options=FileOptions(class_level=4))
    write(tmp_path, ["loose.npy"])
    with pytest.raises(
        DataError, match=r"1 files \(first loose\.npy\) lie in no class"
    ):
        load_point_files(tmp_path, 8)


def test_a_folder_for_each_shape_is_no_class(tmp_path):
    write(tmp_path, [f"chair/{i:03d}/points.npy" for i in range(12)])
    data = load_point_files(tmp_path, 8)
    assert data.class_names == ("chair",)
    assert "so folders are shapes and name no classes" in say(data)


def test_class_arrays_under_usual_names_are_found_and_said():
    data = load("points_and_labels.npz")
    assert data.class_names == ("0", "1")
    assert "classes are those of the array 'labels' (by its name)" in say(data)
    data = load("class_as_names.npz")
    assert data.class_names == ("ball", "box")
    assert by_class(data) == {"ball": (7, 1), "box": (7, 1)}


def test_labels_stay_what_they_are_in_the_file(tmp_path):
    data = load("class_names_not_sorted.npz")
    assert data.class_names == ("table", "chair")
    np.testing.assert_array_equal(data.train_labels, np.repeat([0, 1], 8))
    data = load("twelve_classes.npz")
    assert data.class_names == tuple(map(str, range(12)))
    np.testing.assert_array_equal(data.train_labels, np.arange(12))
    np.savez(
        tmp_path / "gap.npz", points=[cloud(i) for i in range(8)], label=[1, 3] * 4
    )
    data = load_point_files(tmp_path / "gap.npz", 8)
    assert data.class_names == ("0", "1", "2", "3")
    assert set(data.train_labels) == {1, 3}
    np.savez(
        tmp_path / "far.npz", points=[cloud(i) for i in range(4)], label=[10, 9] * 2
    )
    assert load_point_files(tmp_path / "far.npz", 8).class_names == ("9", "10")


def test_two_arrays_that_could_be_classes_are_refused_with_the_field(tmp_path):
    points = np.stack([cloud(i) for i in range(4)])
    np.savez(
        tmp_path / "a.npz", points=points, label=[0, 0, 1, 1], category=[0, 1, 0, 1]
    )
    with pytest.raises(
        DataError, match=r"'label' and 'category'.*data\.label_key=label"
    ):
        load_point_files(tmp_path / "a.npz", 8)
    options = FileOptions(label_key="category")
    data = load_point_files(tmp_path / "a.npz", 8, options=options)
    assert sum(by_class(data)["0"]) == 2
    assert "1 arrays that could be classes (data.label_key) (first a.npz:label)" in say(
        data
    )
    with pytest.raises(DataError, match=r"no array 'kind' \(data\.label_key\)"):
        load_point_files(tmp_path / "a.npz", 8, options=FileOptions(label_key="kind"))


def test_two_arrays_that_could_be_clouds_are_refused_with_the_field(tmp_path):
    points = np.stack([cloud(i) for i in range(4)])
    np.savez(tmp_path / "a.npz", noisy=points, clean=points[:3])
    with pytest.raises(
        DataError, match=r"could both be clouds; data\.points_key=clean"
    ):
        load_point_files(tmp_path / "a.npz", 8)
    options = FileOptions(points_key="clean")
    assert counts(load_point_files(tmp_path / "a.npz", 8, options=options)) == (2, 1)


def test_arrays_that_are_not_used_are_named(tmp_path):
    points = np.stack([cloud(i) for i in range(4)])
    np.savez(
        tmp_path / "a.npz", points=points, kind=[0, 0, 1, 1], pid=np.zeros((4, 12), int)
    )
    text = say(load_point_files(tmp_path / "a.npz", 8))
    assert "1 arrays that could be classes (data.label_key) (first a.npz:kind)" in text
    assert "1 arrays of labels of points (first a.npz:pid)" in text


def test_classes_without_training_or_test_clouds_are_said(tmp_path):
    write(tmp_path, ["a/train/0.npy", "a/test/0.npy", "b/test/0.npy", "c/train/0.npy"])
    text = say(load_point_files(tmp_path, 8))
    assert "1 of 3 classes have no training cloud: b" in text
    assert "1 of 3 classes have no test cloud: c" in text


def test_categories_are_used_or_refused(tmp_path):
    write(tmp_path, [f"{c}/{i}.npy" for c in "abc" for i in range(3)])
    data = load_point_files(tmp_path, 8, categories=("a", "c"))
    assert data.class_names == ("a", "c")
    assert "3 of other classes (data.categories) (first b/0.npy)" in say(data)
    with pytest.raises(DataError, match=r"\['nothere'\] unknown; allowed: a, b, c"):
        load_point_files(tmp_path, 8, categories=("nothere",))
    data = load("class_names_not_sorted.npz", categories=("chair",))
    assert counts(data) == (8, 8)
    assert data.class_names == ("chair",)


def test_sampling_is_used_outside_of_modelnet(tmp_path):
    data = load("off_bom", sampling="vertices")
    corners = np.array(
        [[x, y, z] for x in (-1, 1) for y in (-0.5, 0.5) for z in (-0.25, 0.25)]
    )
    found = data.train[0]
    np.testing.assert_allclose(found[np.lexsort(found.T[::-1])], corners, atol=1e-6)
    with pytest.raises(DataError, match="2 meshes with fewer than 9 vertices"):
        load("off_bom", 9, sampling="vertices")
    data = load_point_dataset("embedded", num_points=8, num_train=4, num_test=4,
                              sampling="vertices")  # fmt: skip
    assert "data.sampling=vertices is not used" in say(data)


@pytest.mark.parametrize(
    "asked",
    [{"normalise": "set"}, {"options": FileOptions(label_key="y")}, {"path": CASES}],
)
def test_what_made_clouds_do_not_read_is_refused(asked):
    path = asked.pop("path", None)
    with pytest.raises(DataError, match="the embedded shapes do not read this"):
        load_point_dataset("embedded", path, 8, num_train=4, num_test=4, **asked)


# Things beside clouds.


def test_normals_are_said_and_not_used():
    data = load("xyz_and_normals")
    assert sum(counts(data)) == 8
    assert "8 arrays of normals (first ball/0.npz:normals)" in say(data)
    data = load("normals_beside")
    assert sum(counts(data)) == 8
    assert "8 normals of points, by name (first ball/0_normals.npy)" in say(data)


def test_further_columns_are_said_and_not_used(tmp_path):
    data = load("txt_normals")
    assert sum(counts(data)) == 2
    assert "2 further numbers of points (4, 5, 6) (first ball/0.txt)" in say(data)
    write(tmp_path, [f"{i}.npy" for i in range(3)], columns=6)
    data = load_point_files(tmp_path, 8)
    assert "3 columns of points after the third (first 0.npy)" in say(data)
    first = cloud(0, columns=6)[:, :3].astype(float)
    first -= first.mean(0)
    first /= np.abs(first).max()
    everything = [*data.train, *np.pad(data.test, [(0, 0), (0, 4), (0, 0)])]
    gaps = [np.abs(np.sort(first, 0) - np.sort(x, 0)).max() for x in everything[:2]]
    assert min(gaps) < 1e-6 or len(data.test) == 1


def test_a_shape_in_three_formats_is_read_once():
    data = load("one_shape_three_formats")
    assert sum(counts(data)) == 4
    assert "shapes that come in several formats are read once, from .ply" in say(data)
    other = load("one_shape_three_formats", options=FileOptions(pattern="*.stl"))
    assert "8 not of data.pattern=*.stl (first box/0.obj)" in say(other)


def test_meshes_and_clouds_beside_each_other_lose_no_class():
    assert not is_modelnet(CASES / "mixed_off_and_npy")
    data = load_point_dataset("auto", CASES / "mixed_off_and_npy", 8)
    assert by_class(data) == {"ball": (3, 1), "box": (3, 1)}


def test_links_inside_are_followed_and_links_that_lead_out_are_counted(tmp_path):
    root, other = tmp_path / "root", tmp_path / "other"
    write(
        root, ["chair/0.npy", "chair/1.npy", ".store/lamp/0.npy", ".store/lamp/1.npy"]
    )
    write(other, ["0.npy", "1.npy", "2.npy"])
    os.symlink(root / ".store" / "lamp", root / "lamp")
    os.symlink(other, root / "secret")
    os.symlink(root, root / "chair" / "round")
    os.symlink(root / "absent", root / "chair" / "2.npy")
    data = load_point_files(root, 8)
    assert data.class_names == ("chair", "lamp")
    assert sum(counts(data)) == 4
    assert "2 links out of the folder or in a circle (first chair/round)" in say(data)
    assert "1 links to nothing, and pipes (first chair/2.npy)" in say(data)


# Meshes.


def test_points_of_a_concave_polygon_lie_in_it():
    data = load("concave_obj", 2000, normalise="none")
    x, y, _ = data.test[0].T
    assert not ((x > 1 + 1e-6) & (y > 1 + 1e-6)).any()  # the quarter that is missing
    shares = [((x > 1) & (y < 1)).mean(), ((x < 1) & (y < 1)).mean()]
    np.testing.assert_allclose(shares, 1 / 3, atol=4 * np.sqrt(2 / 9 / 2000))


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("ply_ascii_cut_in_faces", "truncated: 48 of 'face' announced, 24 found"),
        ("stl_cut_short", "truncated: 12 triangles announced, 5 found"),
    ],
)
def test_meshes_that_were_cut_short_are_refused(name, said):
    with pytest.raises(DataError, match=said):
        load(name)


@pytest.mark.parametrize(
    "name",
    ["obj_latin1_comment", "off_bom", "off_free_layout", "ply_triangles_and_quads"],
)
def test_meshes_as_other_programs_write_them_load(name):
    data = load(name, 600, normalise="none")
    half = np.array([1, 0.5, 0.25])
    inside = np.abs(data.test[0]) / half
    assert inside.max() <= 1 + 1e-6
    np.testing.assert_allclose(inside.max(axis=1), 1, atol=1e-6)  # on the box
    shares = (inside > 1 - 1e-6).mean(axis=0)
    areas = np.array([0.5, 1, 2]) / 3.5
    np.testing.assert_allclose(shares, areas, atol=0.08)


def test_capital_names_of_ply_load():
    data = load("ply_capital_names", normalise="none")
    np.testing.assert_allclose(np.abs(data.test[0]).max(0), [1, 0.5, 0.25])


# Numbers.


def test_coarse_numbers_are_a_warning_with_the_step():
    text = say(load("utm_float32.npy"))
    assert (
        "3 clouds have coarse numbers: steps of 0.5 on 51.9 in utm_float32.npy" in text
    )


def test_half_padded_clouds_are_a_warning_with_the_share(tmp_path):
    write(tmp_path, [f"{i}.npy" for i in range(3)], num=40)
    padded = cloud(7, 40)
    padded[20:] = padded[19]
    np.save(tmp_path / "3.npy", padded)
    text = say(load_point_files(tmp_path, 8))
    assert "1 clouds repeat points, as padded ones do: 50% of those of 3.npy" in text


def test_repeated_clouds_are_counted_and_a_warning_across_the_split(tmp_path):
    write(tmp_path, ["train/0.npy", "train/1.npy", "test/2.npy"])
    shutil.copy(tmp_path / "train/0.npy", tmp_path / "test/copy.npy")
    shutil.copy(tmp_path / "train/1.npy", tmp_path / "train/copy.npy")
    data = load_point_files(tmp_path, 8)
    assert data.report.num_repeated == 2
    said = "1 test clouds are training clouds too: test/copy.npy equals train/0.npy"
    assert said in say(data)


def test_reading_a_file_does_not_depend_on_others(tmp_path):
    write(tmp_path, [f"train/{i}.npy" for i in range(4)] + ["test/0.npy"], num=60)
    everything = load_point_files(tmp_path, 8, seed=3)
    (tmp_path / "train/0.npy").unlink()
    fewer = load_point_files(tmp_path, 8, seed=3)
    np.testing.assert_array_equal(everything.train[1:], fewer.train)
    np.testing.assert_array_equal(everything.test, fewer.test)
    other = load_point_files(tmp_path, 8, seed=4)
    assert not np.array_equal(other.train, fewer.train)


def test_no_mapped_file_stays_open(tmp_path, monkeypatch):
    write(tmp_path, [f"{i}.npy" for i in range(60)])
    monkeypatch.setattr(array_contents, "_MAX_READ_BYTES", 0)  # map all of them
    num_open = []

    def open_npy(path, **options):
        num_open.append(len(os.listdir("/proc/self/fd")))
        return array_files.open_npy(path, **options)

    monkeypatch.setattr(array_contents, "open_npy", open_npy)
    assert sum(counts(load_point_files(tmp_path, 8))) == len(num_open) == 60
    assert max(num_open) - num_open[0] <= 2


# Units.


@pytest.mark.parametrize("normalise", ["set", "none"])
def test_one_factor_for_the_set_is_kept_and_undone(tmp_path, normalise):
    far = np.array([5e5, 4e6, 100.0])
    given = [cloud(i, 12).astype(float) * (1 + i) + far for i in range(4)]
    for part, which in (("train", (0, 1, 2)), ("test", (3,))):
        (tmp_path / part).mkdir()
        for i in which:
            np.save(tmp_path / part / f"{i}.npy", given[i])
    data = load_point_files(tmp_path, 12, normalise=normalise)
    assert data.frame.normalise == normalise
    back = np.sort(data.frame.to_file(data.train), axis=1)
    expected = np.sort(np.stack(given[:3]), axis=1)
    np.testing.assert_allclose(back, expected, atol=1e-5 if normalise == "set" else 0.3)
    if normalise == "set":
        assert np.abs(data.train).max() == pytest.approx(1)
        centre = np.stack(given[:3]).mean((0, 1))
        np.testing.assert_allclose(data.frame.center, centre)
        np.testing.assert_allclose(
            data.frame.from_file(given[3])[None].std(), data.test.std(), rtol=1e-4
        )
    else:
        assert "times their size from the origin" in say(data)
        assert "float32 rounds them to steps of 0.25 on " in say(data)


def test_clouds_scaled_each_say_that_their_size_is_lost(tmp_path):
    write(tmp_path, [f"{i}.npy" for i in range(3)])
    data = load_point_files(tmp_path, 8)
    text = say(data)
    assert "these numbers are not kept, so samples have none (data.normalise)" in text
    sizes = [np.abs(c - c.mean(0)).max() for c in map(cloud, range(3))]
    assert f"on average {np.mean(sizes):.4g}" in text


def test_lists_in_class_folders_name_folders_of_shapes(tmp_path):
    for category in ("02691156", "03001627"):
        write(tmp_path, [f"{category}/{i:032x}/pointcloud.npy" for i in range(5)])
        for part, which in (("train", (0, 1, 2)), ("val", (3,)), ("test", (4,))):
            names = "\n".join(f"{i:032x}" for i in which)
            (tmp_path / category / f"{part}.lst").write_text(names)
    data = load_point_files(tmp_path, 8)
    assert by_class(data) == {"airplane": (3, 1), "chair": (3, 1)}
    assert "2 of the validation split, kept apart" in say(data)
    for part, i in (("train", 0), ("test", 1)):
        for category in ("02691156", "03001627"):
            for old in (tmp_path / category).glob("*.lst"):
                old.unlink()
        (tmp_path / f"{part}.txt").write_text(f"data/03001627/{i:032x}\n")
    assert by_class(load_point_files(tmp_path, 8)) == {"chair": (1, 1)}


def test_numbered_parts_are_no_classes_unless_said(tmp_path):
    write(tmp_path, [f"fold_{k}/{i}.npy" for k in range(3) for i in range(2)])
    with pytest.raises(DataError, match=r"fold_0 may be parts.*data\.class_level=0"):
        load_point_files(tmp_path, 8)
    for level, num in ((0, 1), (1, 3)):
        data = load_point_files(tmp_path, 8, options=FileOptions(class_level=level))
        assert len(data.class_names) == num


def test_folders_of_points_and_normals_name_no_class(tmp_path):
    write(
        tmp_path,
        [f"lamp/{kind}/{i}.npy" for kind in ("points", "normals") for i in (1, 2)],
    )
    data = load_point_files(tmp_path, 8)
    assert data.class_names == ("lamp",)
    assert "2 normals, by the name of their folder (first lamp/normals/1.npy)" in say(
        data
    )


def test_one_hot_classes(tmp_path):
    points = np.stack([cloud(i) for i in range(6)])
    np.savez(tmp_path / "a.npz", points=points, label=np.eye(3)[[0, 1, 2, 2, 1, 0]])
    data = load_point_files(tmp_path / "a.npz", 8)
    assert [sum(n) for n in by_class(data).values()] == [2, 2, 2]
    np.savez(tmp_path / "a.npz", points=points, label=np.ones((6, 3)))
    with pytest.raises(DataError, match="one-hot rows, one for each cloud"):
        load_point_files(tmp_path / "a.npz", 8)


def test_forms_of_classes_are_said(tmp_path):
    points = np.stack([cloud(i) for i in range(6)])
    labels = np.array([0.0, 1, 0, 1, 0, 1])
    np.savez(tmp_path / "a.npz", points=points, label=labels)
    data = load_point_files(tmp_path / "a.npz", 8)
    assert "classes are whole numbers stored as float64" in data.report.notes
    assert [sum(n) for n in by_class(data).values()] == [3, 3]
