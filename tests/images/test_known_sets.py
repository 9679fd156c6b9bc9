"""Files of MNIST, EMNIST, CIFAR and STL-10: pixels, classes, parts, damage."""

import gzip
import os
import pickle

import numpy as np
import pytest

from ncgn_jax.faults import DataError
from ncgn_jax.images.array_parts import ArrayOptions
from ncgn_jax.images.cifar_files import load_cifar
from ncgn_jax.images.idx_files import load_idx, parse_idx
from ncgn_jax.images.plain_pickles import read_pickle
from ncgn_jax.images.recognition import find_source
from tests.images.stored_images import (
    cifar10_binary,
    cifar10_python,
    cifar_rows,
    idx,
    write_files,
    write_mnist,
    write_tar,
)

RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (15, 6, 5), dtype=np.uint8)
COLOUR = RNG.integers(0, 256, (15, 32, 32, 3), dtype=np.uint8)
LABELS = np.arange(15) % 3


@pytest.mark.parametrize("packed", [True, False])
def test_a_folder_of_idx_files_is_read_with_its_parts(tmp_path, packed):
    write_mnist(tmp_path / "mnist", GREY, LABELS, 9, packed)
    assert find_source(tmp_path / "mnist") == "idx"
    data = load_idx(tmp_path / "mnist")
    np.testing.assert_array_equal(data.train[..., 0], GREY[:9])
    np.testing.assert_array_equal(data.test[..., 0], GREY[9:])
    np.testing.assert_array_equal(data.train_labels, LABELS[:9])
    np.testing.assert_array_equal(data.test_labels, LABELS[9:])
    assert data.train.dtype == np.uint8
    assert "9 train, 6 test (train and test parts as given)" in str(data.report)


def test_one_idx_file_is_read_with_what_lies_beside_it(tmp_path):
    write_mnist(tmp_path, GREY, LABELS, 9)
    data = load_idx(tmp_path / "train-images-idx3-ubyte.gz")
    np.testing.assert_array_equal(data.test_labels, LABELS[9:])
    assert "taken from beside the file" in str(data.report)
    (tmp_path / "sole").write_bytes(idx(GREY))
    alone = load_idx(tmp_path / "sole", ArrayOptions(0.2, seed=1))
    assert (len(alone.train), alone.class_names) == (12, ("image",))


def test_an_idx_file_beside_its_packed_copy_is_read_once(tmp_path):
    write_mnist(tmp_path, GREY, LABELS, 9, packed=True)
    write_mnist(tmp_path, GREY, LABELS, 9, packed=False)
    report = load_idx(tmp_path).report
    assert dict(report.splits) == {"train": 9, "test": 6}
    assert "4 compressed files that lie beside unpacked" in str(report)


def test_images_of_emnist_are_turned_upright_and_its_letters_count_from_one(tmp_path):
    for part, rows in (("train", slice(9)), ("test", slice(9, None))):
        stem = tmp_path / f"emnist-letters-{part}"
        stored = GREY[rows].swapaxes(1, 2)
        (tmp_path / f"{stem.name}-images-idx3-ubyte").write_bytes(idx(stored))
        (tmp_path / f"{stem.name}-labels-idx1-ubyte").write_bytes(idx(LABELS[rows] + 1))
    data = load_idx(tmp_path)
    np.testing.assert_array_equal(data.train[..., 0], GREY[:9])
    assert data.class_names == ("1", "2", "3")
    np.testing.assert_array_equal(data.train_labels, LABELS[:9])
    assert "rows and columns swapped back" in str(data.report)
    (tmp_path / "emnist-letters-mapping.txt").write_text("1 65 97\n2 66 98\n3 67 99\n")
    assert load_idx(tmp_path).class_names == ("A", "B", "C")
    plain = load_idx(tmp_path, transpose="no")
    np.testing.assert_array_equal(plain.train[..., 0], GREY[:9].swapaxes(1, 2))
    (tmp_path / "emnist-digits-train-images-idx3-ubyte").write_bytes(idx(GREY))
    with pytest.raises(DataError, match=r"could both be the images .*data\.path with"):
        load_idx(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (idx(GREY)[:-7], r"15 x 6 x 5 numbers announced, 450 bytes, but 443 found"),
        (idx(GREY) + b"1", "450 bytes, but 451 found"),
        (b"PNG" + idx(GREY), "begins with 50 4e 47 00; allowed: 00 00, a type"),
        (b"", "begins with nothing"),
        (bytes([0, 0, 8, 9, 0]), "9 axes in 5 bytes"),
        (bytes([0, 0, 8, 3]) + b"\xff" * 12, r"4294967295 x .* announced"),
    ],
)
def test_idx_files_that_are_cut_or_spoilt_say_what_was_announced(content, message):
    with pytest.raises(DataError, match=message):
        parse_idx(content, "a")


def test_idx_labels_that_do_not_fit_are_refused(tmp_path):
    write_mnist(tmp_path, GREY, LABELS, 9)
    name = tmp_path / "train-labels-idx1-ubyte.gz"
    name.write_bytes(gzip.compress(idx(LABELS[:8])))
    with pytest.raises(DataError, match=r"shape \(8,\) for 9 images"):
        load_idx(tmp_path)
    name.unlink()
    with pytest.raises(DataError, match="classes of one part, but none for"):
        load_idx(tmp_path)


@pytest.mark.parametrize("version", ["binary", "python", "python, protocol 4"])
@pytest.mark.parametrize("packed", [True, False])
def test_cifar_10_is_read_from_either_version(tmp_path, version, packed):
    make = cifar10_binary if version == "binary" else cifar10_python
    files = make(COLOUR, LABELS, *([4] if "4" in version else []))
    if packed:
        path = write_tar(tmp_path / "cifar-10.tar.gz", files)
    else:
        path = write_files(tmp_path / "cifar", files)
    assert find_source(path) == "cifar"
    data = load_cifar(path)
    np.testing.assert_array_equal(data.train, COLOUR[:10])
    np.testing.assert_array_equal(data.test, COLOUR[10:])
    np.testing.assert_array_equal(data.train_labels, LABELS[:10])
    assert data.class_names == ("airplane", "automobile", "bird")
    assert "no data_batch_3, 4, 5; the set has 5" in str(data.report)
    assert "data_batch_1" in str(data.report)


def test_pickles_written_by_python_2_are_read():
    """Strings are texts of bytes there, and arrays name numpy's old module."""
    raw = bytes(range(6))
    content = (
        b"\x80\x02}q\x01(U\x04dataq\x02cnumpy.core.multiarray\n_reconstruct\nq\x03"
        b"cnumpy\nndarray\nq\x04K\x00\x85U\x01b\x87Rq\x05(K\x01K\x02K\x03\x86"
        b"cnumpy\ndtype\nq\x06U\x02u1K\x00K\x01\x87Rq\x07(K\x03U\x01|NNN"
        b"J\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89U\x06"
        + raw
        + b"tbU\x06labels]q\x08(K\x01K\x02eu."
    )
    stored = read_pickle(content, "a")
    np.testing.assert_array_equal(stored["data"], np.arange(6).reshape(2, 3))
    assert stored["labels"] == [1, 2]


class Evil:
    def __reduce__(self):
        return os.system, ("touch evil",)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"data": Evil()}, r"holds (posix|nt|os)\.system; allowed"),
        (Evil(), r"holds (posix|nt|os)\.system"),
        ({"data": np.array([Evil()], object)}, r"holds (posix|nt|os)\.system"),
        ({"data": np.ones(3)}, "numpy.*_reconstruct of another kind"),
        ({"data": eval}, r"holds (__builtin__|builtins)\.eval"),
        ([1, 2], "holds list; allowed: a dictionary"),
    ],
)
def test_no_pickle_runs_anything(tmp_path, monkeypatch, value, message):
    monkeypatch.chdir(tmp_path)
    for protocol in range(5):
        with pytest.raises(DataError, match=message):
            read_pickle(pickle.dumps(value, protocol), "a")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("protocol", range(5))
def test_texts_bytes_and_pixels_are_read_out_of_any_pickle(protocol):
    value = {"batch_label": b"", "names": [b"a", "b"], "data": GREY[:2]}
    found = read_pickle(pickle.dumps(value, protocol), "a")
    assert (found["batch_label"], found["names"]) == (b"", [b"a", "b"])
    np.testing.assert_array_equal(found["data"], GREY[:2])


def test_an_evil_batch_in_an_archive_is_refused(tmp_path):
    files = cifar10_python(COLOUR, LABELS)
    files["cifar-10-batches-py/data_batch_2"] = pickle.dumps(Evil())
    with pytest.raises(DataError, match=r"data_batch_2: holds .*system"):
        load_cifar(write_tar(tmp_path / "c.tar.gz", files))


def test_cifar_batches_cut_short_are_named(tmp_path):
    files = cifar10_binary(COLOUR, LABELS)
    name = "cifar-10-batches-bin/data_batch_2.bin"
    files[name] = files[name][:-100]
    with pytest.raises(DataError, match=r"data_batch_2\.bin: 15,265 bytes are 4\.97"):
        load_cifar(write_files(tmp_path, files))


def test_cifar_100_has_two_kinds_of_classes(tmp_path):
    coarse, fine = LABELS // 2, LABELS
    rows = np.concatenate(
        [np.uint8(coarse)[:, None], np.uint8(fine)[:, None], cifar_rows(COLOUR)], axis=1
    )
    write_files(
        tmp_path,
        {
            "train.bin": rows[:9].tobytes(),
            "test.bin": rows[9:].tobytes(),
            "fine_label_names.txt": b"apple\nbee\ncup\n",
            "coarse_label_names.txt": b"living\nthings\n",
        },
    )
    data = load_cifar(tmp_path)
    np.testing.assert_array_equal(data.train, COLOUR[:9])
    np.testing.assert_array_equal(data.train_labels, fine[:9])
    assert data.class_names == ("apple", "bee", "cup")
    assert "data.label_key=coarse_labels takes the 20" in str(data.report)
    data = load_cifar(tmp_path, label_key="coarse_labels")
    np.testing.assert_array_equal(data.test_labels, coarse[9:])
    assert data.class_names == ("living", "things")
    with pytest.raises(DataError, match="'labels'; allowed for CIFAR-100: fine_labels"):
        load_cifar(tmp_path, label_key="labels")


def test_stl_10_counts_from_one_and_stores_columns(tmp_path):
    images = RNG.integers(0, 256, (12, 96, 96, 3), dtype=np.uint8)
    stored, labels = images.transpose(0, 3, 2, 1), np.uint8(np.arange(12) % 3 + 1)
    write_files(
        tmp_path,
        {
            "train_X.bin": stored[:6].tobytes(),
            "train_y.bin": labels[:6].tobytes(),
            "test_X.bin": stored[6:].tobytes(),
            "test_y.bin": labels[6:].tobytes(),
            "class_names.txt": b"airplane\nbird\ncar\n",
            "unlabeled_X.bin": b"",
        },
    )
    data = load_cifar(tmp_path)
    np.testing.assert_array_equal(data.train, images[:6])
    np.testing.assert_array_equal(data.train_labels, [0, 1, 2, 0, 1, 2])
    assert data.class_names == ("airplane", "bird", "car")
    assert "of the set, but not needed (first unlabeled_X.bin)" in str(data.report)
