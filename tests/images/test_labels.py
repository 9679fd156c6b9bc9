"""Classes in the forms that people store them in."""

import io

import numpy as np
import pytest

from ncgn_jax.data.labels import RawLabels
from ncgn_jax.data.report import Reading
from ncgn_jax.faults import DataError
from ncgn_jax.images.array_parts import ArrayOptions
from ncgn_jax.images.arrays import load_arrays
from ncgn_jax.images.labels import read_labels
from ncgn_jax.images.matlab_files import read_matlab

NUMBERS = np.array([2, 0, 1, 0])


def read(*values, names=None):
    reading = Reading("a", "images")
    raw = [RawLabels(np.asarray(part), "a, array 'y'") for part in values]
    labels, found = read_labels(raw, names, reading)
    notes = " ".join(reading.report({}).notes)
    return [part.tolist() for part in labels], found, notes


@pytest.mark.parametrize(
    ("stored", "names", "note"),
    [
        (NUMBERS, None, ""),
        (NUMBERS[:, None], None, ""),
        (NUMBERS.astype(np.float32), None, "whole numbers stored as float32"),
        (np.eye(3)[NUMBERS], None, "one-hot rows of 3"),
        (np.eye(3, dtype=bool)[NUMBERS], None, "one-hot rows of 3"),
        (np.array(["ant", "bee", "cat"])[NUMBERS], ("ant", "bee", "cat"), "alphabet"),
        (np.array([b"ant", b"bee", b"cat"])[NUMBERS], ("ant", "bee", "cat"), "texts"),
        (np.array(["3", "8", "10"])[NUMBERS], ("3", "8", "10"), "order of the numbers"),
        (np.array([3, 8, 10])[NUMBERS], ("3", "8", "10"), "3..10, not 0..2; they are"),
        (NUMBERS + 1, ("1", "2", "3"), "1..3, not 0..2"),
    ],
)
def test_classes_are_read_from_every_form(stored, names, note):
    labels, found, notes = read(stored)
    assert (labels, found) == ([NUMBERS.tolist()], names)
    assert note in notes
    assert bool(note) == bool(notes)


def test_truth_values_are_two_classes():
    assert read([True, False])[:2] == ([[1, 0]], None)


def test_names_that_the_data_hold_are_kept_in_their_order():
    names = ("zebra", "ape", "cow")
    assert read(NUMBERS, names=names)[:2] == ([[2, 0, 1, 0]], names)
    assert read(["cow", "zebra"], names=names)[1] == ("zebra", "cow")
    labels, found, notes = read(NUMBERS + 1, names=names)
    assert (labels, found) == ([[2, 0, 1, 0]], names)
    assert "count from 1" in notes
    labels, found, notes = read([2, 0], names=names)
    assert (labels, found) == ([[1, 0]], ("zebra", "cow"))
    assert "no image of 1 of 3 named classes: ape" in notes


def test_parts_are_numbered_together():
    assert read(["b", "c"], ["c", "a"])[0] == [[1, 2], [2, 0]]


@pytest.mark.parametrize(
    ("stored", "message"),
    [
        ([0.5, 1], r"dtype float64 with 0\.5; allowed: whole numbers, also as"),
        ([np.nan, 1], "with nan"),
        ([-1, 0], r"-1\.\.0; allowed"),
        ([2**40, 0], "allowed"),
        (np.eye(3) / 2, "row 0 is 0.5 0 0; allowed: .*a single 1 and zeros"),
        ([[1, 1], [0, 1]], "row 0 is 1 1"),
        ([[0, 0], [0, 1]], "row 0 is 0 0"),
        (np.zeros((2, 2, 2)), r"shape \(2, 2, 2\)"),
        ([1j, 2], "dtype complex128"),
        ([["a", "b"]], r"texts of shape \(1, 2\)"),
        ([b"\xff", b"a"], "not readable as UTF-8"),
    ],
)
def test_forms_that_are_none_are_refused(stored, message):
    with pytest.raises(DataError, match=r"a, array 'y': .*" + message):
        read(stored)


def test_parts_of_different_forms_are_refused():
    with pytest.raises(DataError, match="int64, but <U1 .*; allowed: one form"):
        read([0, 1], ["a", "b"])
    with pytest.raises(DataError, match="class 'd' is not among the class names a, b"):
        read(["a", "d"], names=("a", "b"))
    with pytest.raises(DataError, match="a, array 'y': no images; allowed"):
        read(np.zeros(0, int))
    with pytest.raises(DataError, match="label 5 for 2 class names"):
        read([0, 5], names=("a", "b"))


def test_an_archive_with_names_as_classes_loads(fixtures_of_cases):
    data = load_arrays(fixtures_of_cases / "str_labels.npz")
    stored = np.load(fixtures_of_cases / "str_labels.npz")
    assert data.class_names == ("ant", "bee", "cat", "cow", "dog")
    given = {image.tobytes(): n for image, n in zip(*stored.values(), strict=True)}
    for image, label in zip(data.train, data.train_labels, strict=True):
        assert data.class_names[label] == given[image.tobytes()]


def test_one_array_alone_loads(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (12, 8, 8, 3), dtype=np.uint8)
    np.save(tmp_path / "images.npy", images)
    data = load_arrays(tmp_path / "images.npy", ArrayOptions(0.25))
    assert (len(data.train), len(data.test)) == (9, 3)
    assert data.class_names == ("image",)


def test_truth_values_and_zeros_and_ones_are_black_and_white(tmp_path):
    drawn = np.random.default_rng(0).random((12, 8, 8)) < 0.5
    for stored, note in (
        (drawn, "truth values; False is black"),
        (drawn.astype(np.uint8), "pixels are 0 and 1 alone, so 1 is white"),
    ):
        np.savez(tmp_path / "a.npz", train=stored, test=stored)
        data = load_arrays(tmp_path / "a.npz")
        images, _ = data.take(slice(None))
        np.testing.assert_array_equal(images[..., 0], 2.0 * drawn - 1)
        assert data.train.dtype == np.uint8
        assert note in str(data.report)


def test_a_range_that_is_likely_is_proposed(tmp_path):
    pixels = np.random.default_rng(0).random((12, 8, 8))
    for stored, proposed in (
        (2 * pixels - 1, r"if black is -1 and white 1, \(-1, 1\)"),
        (np.uint8(16 * pixels), r"\(0, 16\)"),
        (np.uint16(60_000 * pixels), r"\(0, 65535\)"),
    ):
        np.savez(tmp_path / "a.npz", images=stored)
        with pytest.raises(DataError, match=r"data\.value_range.*" + proposed):
            load_arrays(tmp_path / "a.npz")


def test_arrays_that_could_be_one_thing_are_refused_and_can_be_named(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (12, 8, 8), dtype=np.uint8)
    fine, coarse = np.arange(12) % 4, np.arange(12) % 2
    path = tmp_path / "a.npz"
    options = ArrayOptions(0.4)
    np.savez(path, images=images, fine_labels=fine, coarse_labels=coarse)
    with pytest.raises(DataError, match=r"fine_labels, coarse_labels; .*label_key"):
        load_arrays(path, options)
    assert len(load_arrays(path, options, label_key="fine_labels").class_names) == 4
    np.savez(path, clean=images, noisy=images, digit=coarse)
    with pytest.raises(DataError, match=r"clean, noisy could be .*data\.image_key"):
        load_arrays(path, options)
    data = load_arrays(path, options, image_key="clean")
    report = str(data.report)
    assert "array 'noisy' (12x8x8), whose name says nothing known" in report
    assert "'digit' could be: data.label_key=digit" in report
    named = load_arrays(path, options, image_key="clean", label_key="digit")
    assert named.class_names == ("0", "1")
    with pytest.raises(DataError, match=r"data\.label_key='no'; found noisy, digit"):
        load_arrays(path, options, image_key="clean", label_key="no")


def test_a_validation_part_is_kept_apart(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (12, 8, 8), dtype=np.uint8)
    parts = {"train": images[:6], "val": images[6:8], "test": images[8:]}
    arrays = {f"{part}_images": own for part, own in parts.items()}
    arrays |= {f"{p}_labels": np.arange(len(o))[:, None] % 2 for p, o in parts.items()}
    np.savez(tmp_path / "medmnist.npz", **arrays)
    data = load_arrays(tmp_path / "medmnist.npz")
    np.testing.assert_array_equal(data.train[..., 0], parts["train"])
    np.testing.assert_array_equal(data.test[..., 0], parts["test"])
    assert "2 of the val part, which is kept apart" in str(data.report)
    del arrays["test_images"], arrays["test_labels"]
    np.savez(tmp_path / "medmnist.npz", **arrays)
    data = load_arrays(tmp_path / "medmnist.npz")
    np.testing.assert_array_equal(data.test[..., 0], parts["val"])
    assert "no test part, so val is measured against" in str(data.report)


def test_a_folder_of_arrays_is_one_set(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (12, 8, 8), dtype=np.uint8)
    labels = np.arange(12) % 2
    for part, rows in (("train", slice(8)), ("test", slice(8, None))):
        np.save(tmp_path / f"x_{part}.npy", images[rows])
        np.save(tmp_path / f"y_{part}.npy", labels[rows])
    data = load_arrays(tmp_path)
    np.testing.assert_array_equal(data.test[..., 0], images[8:])
    np.testing.assert_array_equal(data.test_labels, labels[8:])


def test_the_name_of_one_part_stands_for_those_of_the_others(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (12, 8, 8), dtype=np.uint8)
    path = tmp_path / "a.npz"
    np.savez(path, x=images[:3], x_train=images[:8], x_test=images[8:])
    with pytest.raises(DataError, match="found arrays x, x_train; allowed: one of th"):
        load_arrays(path)
    data = load_arrays(path, image_key="x_train")
    np.testing.assert_array_equal(data.train[..., 0], images[:8])
    np.testing.assert_array_equal(data.test[..., 0], images[8:])
    assert "array 'x' (3x8x8)" in str(data.report)
    assert len(load_arrays(path, image_key="x").train) == 2


def test_images_of_matlab_are_counted_by_the_last_axis(tmp_path):
    from scipy.io import savemat

    images = np.random.default_rng(0).integers(0, 256, (12, 8, 8, 3), dtype=np.uint8)
    for part, rows in (("train", slice(8)), ("test", slice(8, None))):
        stored = {"X": np.moveaxis(images[rows], 0, -1)}
        stored["y"] = (np.arange(12) % 2 + 1)[rows, None]
        savemat(tmp_path / f"{part}_32x32.mat", stored, do_compression=True)
    data = load_arrays(tmp_path)
    np.testing.assert_array_equal(data.train, images[:8])
    assert data.class_names == ("1", "2")
    savemat(tmp_path / "extra_32x32.mat", stored)
    with_extra = load_arrays(tmp_path)
    np.testing.assert_array_equal(with_extra.train, images[:8])
    np.testing.assert_array_equal(with_extra.test, images[8:])
    assert "1 array 'extra_32x32: X' (4x8x8x3)" in str(with_extra.report)
    named = load_arrays(tmp_path, image_key="train_X")
    np.testing.assert_array_equal(named.test, images[8:])
    (tmp_path / "a.mat").write_bytes(b"MATLAB 7.3 MAT-file" + b" " * 200)
    with pytest.raises(DataError, match=r"MATLAB 7\.3 file; allowed: versions 5 to 7"):
        load_arrays(tmp_path / "a.mat")


def test_one_picture_in_colour_and_an_array_of_parts_are_refused(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros((40, 50, 3), np.uint8))
    with pytest.raises(DataError, match="looks like one picture of 40x50 in colour"):
        load_arrays(tmp_path / "a.npy")
    images = np.full((4, 8, 8), 200, np.uint8)
    np.savez(tmp_path / "a.npz", x=images, split=["train", "train", "test", "val"])
    with pytest.raises(DataError, match="array 'split' names a part for each image"):
        load_arrays(tmp_path / "a.npz")


@pytest.mark.parametrize("packed", [True, False])
def test_variables_of_matlab_are_read_as_scipy_reads_them(packed):
    from scipy.io import loadmat, savemat

    rng = np.random.default_rng(0)
    stored = {
        kind: (200 * rng.random((3, 4, 5))).astype(kind)
        for kind in ("u1", "i2", "u4", "f4", "f8", "?")
    }
    stored |= {"cell": np.array(["a", "bc"], object), "text": "abc", "c": [1 + 2j]}
    stream = io.BytesIO()
    savemat(stream, stored, do_compression=packed)
    wanted, found = loadmat(stream), read_matlab(stream.getvalue(), "a")
    assert list(found) == ["u1", "i2", "u4", "f4", "f8", "?"]
    for name, array in found.items():
        np.testing.assert_array_equal(array, wanted[name])
    content = stream.getvalue()
    with pytest.raises(DataError, match="announced|cut short|damaged"):
        read_matlab(content[:300], "a")
