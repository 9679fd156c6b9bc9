"""Shards read like the array they hold; folders of latents and their faults."""

import numpy as np
import pytest

from ncgn_jax.faults import DataError
from ncgn_jax.images import latent_shards
from ncgn_jax.images.latent_shards import Shards, load_latents

SIZES = (5, 1, 4)
ALL = np.random.default_rng(0).normal(size=(10, 6, 6, 4)).astype(np.float16)
LABELS = np.array([0, 1, 0, 1, 0, 1, 0, 1, 0, 1])


def cut(array):
    return np.split(array, np.cumsum(SIZES)[:-1])


def write(folder, latents=ALL, labels=LABELS):
    folder.mkdir(parents=True, exist_ok=True)
    for number, part in enumerate(cut(latents)):
        np.save(folder / f"latents-{number:05d}.npy", part)
    for number, part in enumerate(() if labels is None else cut(labels)):
        np.save(folder / f"labels-{number:05d}.npy", part)
    return folder


def files_in(folder):
    return sorted(folder.glob("latents-*.npy"))


INDICES = [
    0,
    -1,
    np.int64(7),
    slice(None),
    slice(2, 8, 3),
    slice(None, None, -1),
    slice(4, 4),
    [3],
    np.array([9, 0, 5, 5, -2, 4]),
    np.array([5], np.uint8),
    [],
]


@pytest.mark.parametrize("rows", INDICES, ids=str)
@pytest.mark.parametrize("channel_axis", ["first", "last"])
def test_shards_are_indexed_as_an_array(tmp_path, rows, channel_axis, monkeypatch):
    stored = ALL if channel_axis == "last" else np.moveaxis(ALL, -1, 1)
    monkeypatch.setattr(latent_shards, "_MAX_OPEN", 1)
    shards = Shards(files_in(write(tmp_path, stored)))
    assert shards.shape == ALL.shape
    assert (len(shards), shards.dtype) == (10, np.float16)
    expected = ALL[np.array(rows, int) if isinstance(rows, list) else rows]
    np.testing.assert_array_equal(shards[rows], expected, strict=True)


@pytest.mark.parametrize("rows", INDICES, ids=str)
def test_subsets_are_indexed_as_an_array(tmp_path, rows):
    order = np.array([8, 2, 9, 0, 4, 5, 7, 1, 3])
    shards = Shards(files_in(write(tmp_path)))
    part = shards.subset(order).subset(slice(None, None, -1))
    assert part.shape == (9, 6, 6, 4)
    if isinstance(rows, list):
        rows = np.array(rows, int)
    elif isinstance(rows, np.ndarray) and rows.size > 1:
        rows = rows - 1  # there is no row 9
    np.testing.assert_array_equal(part[rows], ALL[order[::-1]][rows], strict=True)
    assert len(shards) == 10


def test_rows_that_are_not_there(tmp_path):
    shards = Shards(files_in(write(tmp_path)))
    for rows in (10, -11, [3, 10], np.array([-11])):
        with pytest.raises(IndexError, match=r"row (10|-11) of 10 images"):
            shards[rows]
    for rows in ([[1, 2]], np.array([1.0]), np.ones(10, bool), "train"):
        with pytest.raises(IndexError, match="allowed: an index, a slice or a vector"):
            shards[rows]


def test_few_files_are_open_at_a_time(tmp_path, monkeypatch):
    opened = []
    original = latent_shards.open_npy

    def open_and_count(file):
        opened.append(file.name)
        return original(file)

    monkeypatch.setattr(latent_shards, "open_npy", open_and_count)
    monkeypatch.setattr(latent_shards, "_MAX_OPEN", 2)
    shards = Shards(files_in(write(tmp_path)))
    opened.clear()
    for rows in (np.array([0, 1, 5]), np.array([5, 2]), 4):
        shards[rows]
    assert opened == ["latents-00000.npy", "latents-00001.npy"]
    shards[9]  # a third file closes the one not used for longest, the second
    shards[0]
    assert opened[2:] == ["latents-00002.npy"]
    shards[5]
    assert opened[3:] == ["latents-00001.npy"]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_rows_that_are_not_finite_are_refused_when_read(tmp_path, value):
    latents = ALL.copy()
    latents[8, 3, 2, 1] = value
    shards = Shards(files_in(write(tmp_path, latents)))
    assert np.isfinite(shards[:8]).all()
    with pytest.raises(DataError, match=r"latents-00002\.npy: row 2 holds NaN or inf"):
        shards[np.array([9, 8, 6])]


def test_headers_are_looked_at_once_while_a_shard_is_open(tmp_path, monkeypatch):
    shards = Shards(files_in(write(tmp_path)))
    checked = []
    monkeypatch.setattr(
        latent_shards, "_check_shard", lambda file, array: checked.append(file.name)
    )
    for _ in range(3):
        shards[np.array([0, 5])]
    assert checked == ["latents-00000.npy", "latents-00001.npy"]


def test_shards_that_differ_are_named(tmp_path):
    for number, (spoilt, message) in enumerate(
        (
            (ALL[:1].astype("f4"), r"\(6, 6, 4\) float32, but \(6, 6, 4\) float16 in"),
            (ALL[:1, :5], r"images \(5, 6, 4\) float16, but \(6, 6, 4\)"),
            (ALL[:0], r"shape \(0, 6, 6, 4\); allowed"),
            (ALL[0], r"shape \(6, 6, 4\); allowed: \[image, height"),
            (ALL[:1].astype("f8"), "dtype float64; allowed: float16 or float32"),
            (np.zeros((1, 6, 6, 4), int), "dtype int64; allowed: float16 or float32"),
        )
    ):
        folder = write(tmp_path / str(number))
        np.save(folder / "latents-00001.npy", spoilt)
        with pytest.raises(DataError, match=rf"latents-00001\.npy: .*{message}"):
            Shards(files_in(folder))
        np.save(folder / "latents-00001.npy", ALL[:1])
        shards = Shards(files_in(folder))
        np.save(folder / "latents-00001.npy", spoilt)  # while a run goes on
        with pytest.raises(DataError, match=rf"latents-00001\.npy: .*{message}"):
            shards[5]


def test_a_shard_that_shrinks_is_noticed(tmp_path):
    shards = Shards(files_in(write(tmp_path)))
    np.save(tmp_path / "latents-00000.npy", ALL[:3])
    with pytest.raises(DataError, match=r"latents-00000\.npy: 3 rows, but 5 when"):
        shards[2]  # other rows may have moved


def test_shards_cut_short_are_named(tmp_path):
    path = files_in(write(tmp_path))[2]
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DataError, match=r"latents-00002\.npy: not a readable"):
        Shards(files_in(tmp_path))
    with pytest.raises(DataError, match="no shards"):
        Shards([])


def test_a_split_of_folders_is_kept(tmp_path):
    write(tmp_path / "train")
    write(tmp_path / "test", ALL[::-1], LABELS[::-1])
    (tmp_path / "classes.txt").write_text("tench\nhäher\n", encoding="utf-8")
    data = load_latents(tmp_path)
    assert data.units.is_latent
    assert data.class_names == ("tench", "häher")
    assert data.name == f"{tmp_path.name} latents (6x6x4)"
    assert "20 latents, 10 train, 10 test (train and test parts" in str(data.report)
    np.testing.assert_array_equal(data.train[:], ALL)
    np.testing.assert_array_equal(data.test[:], ALL[::-1])
    np.testing.assert_array_equal(data.train_labels, LABELS)
    images, labels = data.take(np.array([7, 2]))
    assert images.dtype == np.float32
    np.testing.assert_allclose(images, ALL[[7, 2]].astype("f4") * 0.18215, rtol=1e-6)
    np.testing.assert_array_equal(labels, [1, 0])
    np.testing.assert_allclose(
        data.units.from_training(images), ALL[[7, 2]].astype("f4"), rtol=1e-6
    )
    assert data.units.to_pixels(images).shape == (2, 6, 6, 3)


def test_one_folder_is_split_by_class(tmp_path):
    write(tmp_path, np.moveaxis(ALL, -1, 1))
    data = load_latents(tmp_path, latent_scale=2.0, test_fraction=0.4, seed=3)
    assert (len(data.train), len(data.test)) == (6, 4)
    np.testing.assert_array_equal(np.bincount(data.test_labels), [2, 2])
    rows = []
    for images, labels in (data.take(slice(None), s) for s in ("train", "test")):
        for image, label in zip(images, labels, strict=True):
            same = (ALL.astype("f4") * 2 == image).all(axis=(1, 2, 3))
            rows.append(int(np.flatnonzero(same)[0]))
            assert LABELS[rows[-1]] == label
    assert sorted(rows) == list(range(10))
    assert "split seed 3" in str(data.report)
    other = load_latents(tmp_path, test_fraction=0.4, seed=4)
    assert not np.array_equal(other.test[:], data.test[:])


def test_without_labels_there_is_one_class(tmp_path):
    data = load_latents(write(tmp_path, labels=None))
    assert data.class_names == ("image",)
    assert (len(data.train), len(data.test)) == (9, 1)


def test_an_ambiguous_channel_axis_is_refused(tmp_path):
    write(tmp_path, ALL[:, :4, :4])
    with pytest.raises(DataError, match=r"latents-00000\.npy: .*channel_axis='first'"):
        load_latents(tmp_path)
    first = load_latents(tmp_path, channel_axis="first", test_fraction=0.1)
    last = load_latents(tmp_path, channel_axis="last", test_fraction=0.1)
    np.testing.assert_array_equal(first.train[:], np.moveaxis(last.train[:], 1, -1))


def test_folders_laid_out_otherwise_are_refused(tmp_path):
    def change(name, **moved):
        folder = write(tmp_path / name)
        for old, new in moved.values():
            (folder / old).rename(folder / new)
        return folder

    latents, labels = "latents-0000{}.npy".format, "labels-0000{}.npy".format
    for folder, message in (
        (tmp_path / "absent", "absent: no such folder; allowed"),
        (
            change("gap", a=(latents(1), latents(3)), b=(labels(1), labels(3))),
            r"gap: latents-00001\.npy is missing, 3 others are there",
        ),
        (
            change("odd", a=(labels(2), labels(7))),
            r"latents-00002\.npy without labels-00002\.npy; allowed: labels for all",
        ),
        (
            change("more", a=(latents(2), "x")),
            r"labels-00002\.npy without latents-00002\.npy",
        ),
        (
            change("names", a=(latents(2), "latents_2.npy")),
            r"latents_2\.npy: not a name of its own; allowed: latents-00000\.npy",
        ),
        (
            change("twice", a=(latents(2), "latents-1.npy")),
            r"latents-1\.npy: not a name of its own",
        ),
        (write(tmp_path / "alone" / "test").parent, "a folder test alone; allowed"),
        (write(tmp_path / "half" / "train").parent, "a folder train alone; allowed"),
    ):
        with pytest.raises(DataError, match=message):
            load_latents(folder)
    (tmp_path / "none").mkdir()
    with pytest.raises(DataError, match=r"none: no shards; allowed: latents-00000"):
        load_latents(tmp_path / "none")
    write(tmp_path / "around" / "them")
    with pytest.raises(DataError, match=r"no shards; .* some lie in .*/around/them, "):
        load_latents(tmp_path / "around")
    with pytest.raises(DataError, match=r"x: a file; allowed: a folder"):
        load_latents(tmp_path / "more" / "x")


def test_labels_and_names_that_do_not_fit_are_refused(tmp_path):
    for number, (spoilt, message) in enumerate(
        (
            (LABELS[:3], r"labels-00000\.npy: shape \(3,\) for 5 images"),
            (
                LABELS[:5] / 2,
                r"00000\.npy .*: dtype float64 with 0\.5; allowed",
            ),
            (LABELS[:5] - 1, r"labels-00000\.npy .*: -1\.\.1; allowed"),
            (np.array([2, 1, 0, 1, 0]), "2 for 2 class names"),
        )
    ):
        folder = write(tmp_path / str(number))
        np.save(folder / "labels-00000.npy", spoilt)
        if "names" in message:
            (folder / "classes.txt").write_text("a\nb\n")
        with pytest.raises(DataError, match=message):
            load_latents(folder)
    write(tmp_path / "both" / "train")
    write(tmp_path / "both" / "test", labels=None)
    with pytest.raises(DataError, match="labels in one of train and test only"):
        load_latents(tmp_path / "both")
    write(tmp_path / "sizes" / "train")
    write(tmp_path / "sizes" / "test", ALL[:, :5, :5])
    with pytest.raises(DataError, match="train images 6x6x4, test images 5x5x4"):
        load_latents(tmp_path / "sizes")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a\n\nb\n", r"classes\.txt: line 2 is empty; allowed: the name of a class"),
        (b"", r"classes\.txt: no lines; allowed"),
        (b"\xff\xfe\n", r"classes\.txt: not readable as UTF-8"),
        (b"a\na\n", "class name 'a' 2 times"),
    ],
)
def test_unusable_files_of_class_names_are_refused(tmp_path, content, message):
    folder = write(tmp_path / "set")
    (folder / "classes.txt").write_bytes(content)
    with pytest.raises(DataError, match=message):
        load_latents(folder)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"latent_scale": 0.0}, r"data\.latent_scale=0\.0; allowed: > 0"),
        ({"latent_scale": float("inf")}, r"data\.latent_scale=inf"),
        ({"latent_scale": float("nan")}, r"data\.latent_scale=nan"),
        ({"test_fraction": 1.0}, r"test_fraction=1\.0; allowed: between"),
        ({"channel_axis": "third"}, "'third'; allowed: auto, first, last"),
    ],
)
def test_wrong_options_are_refused(tmp_path, options, message):
    with pytest.raises(DataError, match=message):
        load_latents(write(tmp_path), **options)
