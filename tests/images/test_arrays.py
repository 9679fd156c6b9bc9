"""Sets of images: units, splits, the digits, archives like MNIST and CIFAR."""

import dataclasses
import zipfile

import numpy as np
import pytest

from ncgn_jax.data.report import Reading
from ncgn_jax.faults import DataError
from ncgn_jax.images.array_parts import ArrayOptions, pad_images
from ncgn_jax.images.arrays import load_arrays as load_named_arrays
from ncgn_jax.images.arrays import load_digits
from ncgn_jax.images.sets import (
    check_labels,
    find_channel_axis,
    make_image_dataset,
    num_held_out,
    stratified_split,
)
from ncgn_jax.images.units import ImageUnits


def load_arrays(path, *, image_key=None, label_key=None, **options):
    return load_named_arrays(path, ArrayOptions(**options), image_key, label_key)


def test_digits_are_all_there():
    digits = load_digits()
    assert digits.train.shape == (1497, 8, 8, 1)
    assert digits.test.shape == (300, 8, 8, 1)
    assert digits.name == "digits (8x8x1)"
    assert digits.class_names == tuple("0123456789")
    assert "1,497 train, 300 test" in str(digits.report)
    # Counts of each class that the repository states for its test part.
    stated = [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    labels = np.concatenate([digits.train_labels, digits.test_labels])
    np.testing.assert_array_equal(np.bincount(labels), stated)
    share = np.bincount(digits.test_labels) / stated
    np.testing.assert_allclose(share, 300 / 1797, atol=1 / 174)
    # The first of all digits, a 0, as the repository prints it.
    first = [
        [0, 0, 5, 13, 9, 1, 0, 0],
        [0, 0, 13, 15, 10, 15, 5, 0],
        [0, 3, 15, 2, 0, 11, 8, 0],
        [0, 4, 12, 0, 0, 8, 8, 0],
        [0, 5, 8, 0, 0, 9, 8, 0],
        [0, 4, 11, 0, 1, 12, 7, 0],
        [0, 2, 14, 5, 10, 12, 0, 0],
        [0, 0, 6, 13, 10, 0, 0, 0],
    ]
    images = np.concatenate([digits.train, digits.test])[..., 0]
    place = np.flatnonzero((images == np.array(first)).all(axis=(1, 2)))
    assert labels[place].tolist() == [0]


def test_digits_agree_with_scikit_learn():
    datasets = pytest.importorskip("sklearn.datasets")
    theirs, ours = datasets.load_digits(), load_digits()

    def in_order(images, labels):
        rows = np.column_stack([labels, images.reshape(len(images), -1)])
        return rows[np.lexsort(rows.T)].astype(int)

    images = np.concatenate([ours.train, ours.test])
    labels = np.concatenate([ours.train_labels, ours.test_labels])
    np.testing.assert_array_equal(
        in_order(images, labels), in_order(theirs.images, theirs.target)
    )


def test_pixels_go_to_the_unit_interval_and_back():
    digits = load_digits()
    images, labels = digits.take(np.array([4, 4, 9]), "test")
    assert images.dtype == np.float32
    np.testing.assert_array_equal(labels, digits.test_labels[[4, 4, 9]])
    np.testing.assert_allclose(images, digits.test[[4, 4, 9]] / 8.0 - 1)
    np.testing.assert_allclose(
        digits.units.from_training(images), digits.test[[4, 4, 9]]
    )
    levels = np.array([[0], [4], [8], [16]]).reshape(4, 1, 1, 1)
    shown = digits.units.to_pixels(digits.units.to_training(levels)).ravel()
    np.testing.assert_array_equal(shown, [0, 64, 128, 255])  # 127.5 goes to even
    assert shown.dtype == np.uint8
    beyond = digits.units.to_pixels(np.array([-1.5, 7.0]).reshape(2, 1, 1, 1))
    np.testing.assert_array_equal(beyond.ravel(), [0, 255])


def test_every_byte_survives_training_units():
    levels = np.arange(256, dtype=np.uint8).reshape(256, 1, 1, 1)
    data = dataclasses.replace(load_digits(), units=ImageUnits(127.5, 127.5))
    units = data.units.to_training(levels)
    assert (units.min(), units.max()) == (-1, 1)
    np.testing.assert_array_equal(data.units.to_pixels(units), levels)


def test_pixels_are_saved_as_bytes_and_latents_as_stored():
    digits = load_digits()
    images, _ = digits.take(np.arange(9))
    saved = digits.units.to_saved(images)
    assert saved.dtype == np.uint8
    np.testing.assert_allclose(
        digits.units.from_saved(saved), images, atol=1 / 255 + 1e-6
    )
    latents = dataclasses.replace(digits, units=ImageUnits(0.0, 1 / 0.18215, True))
    saved = latents.units.to_saved(images)
    np.testing.assert_allclose(saved, images / 0.18215, rtol=1e-6)
    np.testing.assert_allclose(latents.units.from_saved(saved), images, atol=1e-6)


def test_latents_are_shown_in_false_colours():
    data = dataclasses.replace(load_digits(), units=ImageUnits(0, 4, True))
    latents = np.array([-12.0, 4, 12, 40]).reshape(1, 1, 1, 4)
    units = data.units.to_training(latents)
    np.testing.assert_allclose(units.ravel(), [-3, 1, 3, 10])
    np.testing.assert_array_equal(data.units.to_pixels(units).ravel(), [0, 170, 255])
    np.testing.assert_array_equal(data.units.to_pixels(units[..., 2:]).ravel(), [255])


@pytest.mark.parametrize("num_test", [1, 7, 30, 53])
def test_splits_are_in_proportion(num_test):
    rng = np.random.default_rng(0)
    labels = rng.permutation(np.repeat([0, 1, 2, 5], [1, 9, 20, 30]))
    train, test = stratified_split(labels, num_test, 3)
    assert len(test) == num_test
    np.testing.assert_array_equal(np.sort(np.r_[train, test]), np.arange(60))
    assert (np.diff(train) > 0).all()
    taken = np.bincount(labels[test], minlength=6)[[0, 1, 2, 5]]
    exact = num_test * np.array([1, 9, 20, 30]) / 60
    assert (np.abs(taken - exact) <= 1).all() or num_test == 53
    assert (taken < [2, 9, 20, 30]).all()
    assert taken[0] == 0  # its only image is needed for training
    again = stratified_split(labels, num_test, 3)
    np.testing.assert_array_equal(test, again[1])


def test_splits_draw_at_random():
    labels = np.repeat([0, 1], 50)
    picks = [stratified_split(labels, 20, seed)[1] for seed in range(200)]
    counts = np.bincount(np.concatenate(picks), minlength=100)
    # Each image is held out in a fifth of the draws: 40 +- 5.7, five times over.
    assert 12 < counts.min() < counts.max() < 68


def test_splits_that_leave_nothing_are_refused():
    with pytest.raises(DataError, match=r"a\.npz: 4 images in 4 classes, of which 3"):
        stratified_split(np.arange(4), 3, 0, "a.npz")
    for fraction in (0, 1, -0.5, float("nan")):
        with pytest.raises(DataError, match="allowed: between 0 and 1"):
            num_held_out(10, fraction)
    assert (num_held_out(10, 0.01), num_held_out(10, 0.26)) == (1, 3)


def test_labels_must_be_whole_numbers_one_for_each_image():
    np.testing.assert_array_equal(
        check_labels(np.array([[1], [0]], np.int64), 2, "y"), [1, 0]
    )
    assert check_labels(np.array([1, 0], np.uint8), 2, "y").dtype == np.int32
    for labels, message in (
        ([0.0, 1.0], r"y: dtype float64; allowed: whole numbers"),
        ([True, False], r"y: dtype bool"),
        (["cat", "dog"], r"y: dtype <U3"),
        ([0, 1, 2], r"y: shape \(3,\) for 2 images; allowed: one number"),
        ([[0, 1], [1, 0]], r"y: shape \(2, 2\) for 2 images"),
        ([-1, 0], r"y: -1\.\.0; allowed: 0\.\."),
        (np.array([0, 2**63], np.uint64), r"y: 0\.\.9223372036854775808; allowed"),
    ):
        with pytest.raises(DataError, match=message):
            check_labels(np.array(labels), 2, "y")


def make(train_labels=(0, 1), test_labels=(1,), class_names=None, **changed):
    shapes = {"train": (2, 4, 4, 1), "test": (1, 4, 4, 1), **changed}
    images = {split: np.zeros(shape, np.uint8) for split, shape in shapes.items()}
    labels = np.array(train_labels), np.array(test_labels)
    return make_image_dataset(
        "set",
        images["train"],
        images["test"],
        *labels,
        class_names,
        Reading("set", "images"),
        "",
        ImageUnits(0.0, 1.0),
    )


def test_sets_that_do_not_fit_are_refused():
    assert make().class_names == ("0", "1")
    assert make().image_shape == (4, 4, 1)
    assert make(class_names=np.array(["a", "b"])).class_names == ("a", "b")
    for changed, message in (
        ({"train": (0, 4, 4, 1)}, r"set, train: shape \(0, 4, 4, 1\); allowed"),
        ({"test": (4, 4, 1)}, r"set, test: shape \(4, 4, 1\); allowed"),
        ({"test": (1, 4, 5, 1)}, "train images 4x4x1, test images 4x5x1; allowed: one"),
        ({"train_labels": (0, 2)}, "class 1 has no training image, 2 of 3 classes"),
        ({"train_labels": (1, 2)}, "class 0 has no training image"),
        (
            {"train_labels": (0, 10**9)},
            "class 1 has no training image, 2 of 1000000001",
        ),
        ({"test_labels": (2,)}, "class 2 has no training image, 2 of 3"),
        ({"class_names": ("a",)}, r"label 1 for 1 class names; allowed: 0\.\.0"),
        ({"class_names": "abc"}, r"class 2 \(c\) has no training image"),
        ({"class_names": "aa"}, "class name 'a' 2 times"),
        ({"test_labels": (0, 1)}, r"set, test labels: shape \(2,\) for 1 images"),
    ):
        with pytest.raises(DataError, match=message):
            make(**changed)


def test_the_channel_axis_is_found_or_asked_for():
    for shape, axis in (
        ((9, 28, 28, 1), 3),
        ((9, 3, 32, 32), 1),
        ((9, 1, 5, 7), 1),
        ((9, 5, 7, 3), 3),
    ):
        assert find_channel_axis(shape, "auto", "x", (1, 3)) == axis
    assert find_channel_axis((9, 3, 5, 3), "first", "x", (1, 3)) == 1
    assert find_channel_axis((9, 3, 5, 3), "last", "x", (1, 3)) == 3
    for shape in ((9, 3, 5, 3), (9, 1, 1, 1)):
        with pytest.raises(
            DataError, match=r"either axis .*data\.channel_axis='first'"
        ):
            find_channel_axis(shape, "auto", "x", (1, 3))
    with pytest.raises(DataError, match="neither axis 1 nor 3 .* 1 or 3 channels"):
        find_channel_axis((9, 4, 32, 32), "auto", "x", (1, 3))
    with pytest.raises(DataError, match="32 channels with data.channel_axis='last'"):
        find_channel_axis((9, 3, 32, 32), "last", "x", (1, 3))
    with pytest.raises(DataError, match="'middle'; allowed: auto, first, last"):
        find_channel_axis((9, 3, 32, 32), "middle", "x", (1, 3))
    # Any number of channels: the axis beside two equal ones.
    assert find_channel_axis((9, 4, 32, 32), "auto", "x") == 1
    assert find_channel_axis((9, 32, 32, 4), "auto", "x") == 3
    with pytest.raises(DataError, match="either axis could be"):
        find_channel_axis((9, 4, 4, 4), "auto", "x")
    with pytest.raises(DataError, match="neither axis .*: two equal sides"):
        find_channel_axis((9, 4, 5, 6), "auto", "x")
    assert find_channel_axis((9, 4, 5, 6), "first", "x") == 1


def write(path, **arrays):
    np.savez(path, **arrays)
    return path


@pytest.mark.parametrize(
    "names",
    [
        ("x_train", "y_train", "x_test", "y_test"),
        ("train_images", "train_labels", "test_images", "test_labels"),
        ("X_train", "Y_train", "X_test", "Y_test"),
        ("train", "labels", "test", "test_labels"),
    ],
)
def test_archives_with_a_split_come_back_as_written(tmp_path, pixels, names):
    labels = np.arange(12)[:, None] % 3  # as those of CIFAR-10 in Keras
    parts = pixels[:9], labels[:9], pixels[9:], labels[9:]
    path = write(tmp_path / "few.npz", **dict(zip(names, parts, strict=True)))
    data = load_arrays(path)
    np.testing.assert_array_equal(data.train, pixels[:9], strict=True)
    np.testing.assert_array_equal(data.test, pixels[9:], strict=True)
    np.testing.assert_array_equal(data.train_labels, labels[:9, 0])
    np.testing.assert_array_equal(data.test_labels, labels[9:, 0])
    assert data.name == "few (6x5x3)"
    assert data.units == ImageUnits(127.5, 127.5)


@pytest.mark.parametrize("is_packed", [False, True])
def test_files_named_for_parts_are_one_set_in_a_folder_and_an_archive(
    tmp_path, pixels, is_packed
):
    folder = tmp_path / "few"
    folder.mkdir()
    write(folder / "train.npz", images=pixels[:9])
    write(folder / "test.npz", images=pixels[9:])
    path = folder
    if is_packed:
        path = tmp_path / "few.zip"
        with zipfile.ZipFile(path, "w") as archive:
            for file in folder.iterdir():
                archive.write(file, file.name)
    data = load_arrays(path)
    np.testing.assert_array_equal(data.train, pixels[:9], strict=True)
    np.testing.assert_array_equal(data.test, pixels[9:], strict=True)


@pytest.mark.parametrize("key", ["images", "x_train", "arr_0"])
def test_archives_without_a_test_part_are_split(tmp_path, pixels, key):
    labels = np.repeat([0, 1], [8, 4])
    path = write(
        tmp_path / "a.npz", **{key: pixels, "labels": labels}, classes=["cat", "dog"]
    )
    data = load_arrays(path, test_fraction=0.25, seed=4)
    assert data.class_names == ("cat", "dog")
    np.testing.assert_array_equal(np.bincount(data.test_labels), [2, 1])
    for images, own in (
        (data.train, data.train_labels),
        (data.test, data.test_labels),
    ):
        for image, label in zip(images, own, strict=True):
            (row,) = np.flatnonzero((pixels == image).all(axis=(1, 2, 3)))
            assert labels[row] == label
    assert "split seed 4" in str(data.report)
    other = load_arrays(path, test_fraction=0.25, seed=5)
    assert not np.array_equal(data.test, other.test)


def test_without_labels_there_is_one_class(tmp_path, pixels):
    data = load_arrays(write(tmp_path / "a.npz", images=pixels))
    assert data.class_names == ("image",)
    assert not data.train_labels.any()


def test_channels_may_come_first_or_not_at_all(tmp_path, pixels):
    path = write(tmp_path / "a.npz", train=np.moveaxis(pixels, -1, 1), test=pixels)
    data = load_arrays(path)
    np.testing.assert_array_equal(data.train, pixels)
    np.testing.assert_array_equal(data.test, pixels)
    grey = write(tmp_path / "grey.npz", train=pixels[..., 2], test=pixels[..., 2])
    np.testing.assert_array_equal(load_arrays(grey).test, pixels[..., 2:])
    cube = write(tmp_path / "cube.npz", train=pixels[:, :3], test=pixels[:, :3])
    with pytest.raises(DataError, match=r"cube\.npz, array 'train': .*channel_axis="):
        load_arrays(cube)
    first = load_arrays(cube, channel_axis="first")
    np.testing.assert_array_equal(first.train, np.moveaxis(pixels[:, :3], 1, -1))


@pytest.mark.parametrize("factor", [1.0, 255.0])
@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_floats_of_both_ranges_go_to_the_unit_interval(tmp_path, pixels, factor, dtype):
    stored = (pixels / 255 * factor).astype(dtype)
    data = load_arrays(write(tmp_path / "a.npz", train=stored, test=stored))
    assert data.train.dtype == np.float32
    images, _ = data.take(slice(None))
    np.testing.assert_allclose(images, pixels / 127.5 - 1, atol=1e-6)
    np.testing.assert_array_equal(data.units.to_pixels(images), pixels)


def test_wider_whole_numbers_are_stored_as_bytes(tmp_path, pixels):
    wide = pixels.astype(np.int64)
    data = load_arrays(write(tmp_path / "a.npz", train=wide, test=wide))
    np.testing.assert_array_equal(data.train, pixels, strict=True)


def test_other_values_are_refused(tmp_path, pixels):
    holes = pixels / 255
    holes[3, 0, 0, 0] = np.nan
    for images, message in (
        (pixels / 127.5 - 1, r"'images': -1\.\.1; allowed: whole numbers or fl"),
        (pixels.astype(int) + 1, r"'images': 1\.\.256; allowed"),
        (pixels / 255 * 16, r"'images': 0\.\.16; allowed"),  # in no known unit
        (pixels // 16, r"'images': 0\.\.15; allowed: .*data\.value_range"),
        (pixels.astype(int) // 16, r"'images': 0\.\.15; allowed"),
        (holes, "'images': image 3 has nan; allowed"),
        (pixels[0, 0], r"'images': shape \(5, 3\); allowed"),
        (pixels[:0], r"'images': shape \(0, 6, 5, 3\); allowed"),
        (pixels[:, :, :, :2], r"'images': .* neither axis 1 nor 3 can be"),
    ):
        with pytest.raises(DataError, match=r"a\.npz, array " + message):
            load_arrays(write(tmp_path / "a.npz", images=images))
    path = write(tmp_path / "a.npz", train=pixels, test=pixels / 255)
    with pytest.raises(DataError, match="'train': uint8, but float64 in .*'test'"):
        load_arrays(path)


def test_arrays_that_are_absent_or_doubled_are_named(tmp_path, pixels):
    labels = np.zeros(12, int)
    for named, message in (
        ({"p": pixels[0, 0]}, "no training images; found p; allowed: x_train"),
        ({"test": pixels}, "no training images; found test; allowed"),
        ({"x": pixels, "X": pixels}, "found arrays x, X; allowed: one of them"),
        ({"x_train": pixels, "images": pixels}, "found arrays x_train, images"),
        ({"x": pixels, "y": labels, "labels": labels}, "found arrays y, labels"),
        ({"x": pixels, "y_test": labels}, "array 'y_test' but no test images"),
        (
            {"x_train": pixels, "x_test": pixels, "y_train": labels},
            "array 'y_train' but no labels of the other part; allowed: test_labels",
        ),
        (
            {"x_train": pixels, "x_test": pixels, "y_test": labels},
            "array 'y_test' but no labels of the other part; allowed: train_labels",
        ),
        ({"x": pixels, "y": labels[1:]}, r"'y': shape \(11,\) for 12 images"),
        ({"x": pixels, "y": labels - 1}, r"'y': -1\.\.-1; allowed"),
        ({"x": pixels, "y": labels + 0.5}, "'y': dtype float64 with 0.5; allowed"),
        (
            {"x": pixels, "y": np.arange(12)},
            "12 images in 12 classes, of which 1 ",
        ),
        ({"x": pixels, "classes": ["a", "b"]}, r"class 1 \(b\) has no training image"),
        ({"x": pixels, "classes": "a"}, r"'classes': shape \(\); allowed: \[class\]"),
    ):
        with pytest.raises(DataError, match=message):
            load_arrays(write(tmp_path / "a.npz", **named))


def test_a_wrong_share_is_refused_before_anything_is_read(tmp_path):
    with pytest.raises(DataError, match="test_fraction=1.5; allowed: between 0 and 1"):
        load_arrays(tmp_path / "absent.npz", test_fraction=1.5)


def test_images_are_padded_with_background(tmp_path, pixels):
    path = write(tmp_path / "a.npz", train=pixels, test=pixels)
    data = load_arrays(path, pad_to=9)
    assert data.train.shape == (12, 9, 9, 3)
    # 6 rows and 5 columns: margins of 1 and 2, and of 2 and 2.
    np.testing.assert_array_equal(data.train[:, 1:7, 2:7], pixels)
    assert data.train.astype(int).sum() == pixels.astype(int).sum()
    assert "padded to 9x9" in str(data.report)
    assert pad_images(np.ones((2, 28, 28, 1)), 32)[:, 2:30, 2:30].all()
    with pytest.raises(DataError, match=r"6x5 pixels, data\.image_size=5; .* >= 6"):
        load_arrays(path, pad_to=5)


def test_mnist_loads(shared_data):
    path = shared_data / "mnist.npz"
    if not path.exists():
        pytest.skip("mnist.npz is absent")
    data = load_arrays(path, pad_to=32)
    assert data.train.shape == (60000, 32, 32, 1)
    assert data.test.shape == (10000, 32, 32, 1)
    # Counts as published with the data set.
    np.testing.assert_array_equal(
        np.bincount(data.train_labels),
        [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949],
    )
    np.testing.assert_array_equal(
        np.bincount(data.test_labels),
        [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009],
    )
    # The mean pixel of the 28 x 28 training images is known to be 0.1307.
    mean = data.train.mean(dtype=np.float64) / 255 * (32 / 28) ** 2
    assert mean == pytest.approx(0.1307, abs=1e-4)


def test_cifar_loads(shared_data):
    path = shared_data / "cifar10_subset.npz"
    if not path.exists():
        pytest.skip("cifar10_subset.npz is absent")
    data = load_arrays(path)
    assert data.train.shape == (12000, 32, 32, 3)
    assert data.test.shape == (2000, 32, 32, 3)
    assert data.class_names[3] == "cat"
    images, labels = data.take(np.arange(3))
    assert images.shape == (3, 32, 32, 3)
    assert labels.dtype == np.int32
