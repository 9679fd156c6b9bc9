"""Folders of image files: pixels, layouts, and faulty files."""

import os
import sys

import numpy as np
import pytest
from PIL import Image

from ncgn_jax.faults import DataError
from ncgn_jax.images.folders import load_folder as load_any_folder
from ncgn_jax.images.picture_files import Picture, PictureOptions

RNG = np.random.default_rng(0)
COLOUR = RNG.integers(0, 256, (8, 8, 3), dtype=np.uint8)
GREY = RNG.integers(0, 256, (8, 8), dtype=np.uint8)


def load_folder(
    path, image_size=0, channels=0, bad_images="stop", value_range=(), **how
):
    options = PictureOptions(image_size, channels, bad_images, value_range)
    return load_any_folder(path, options, **how)


def save(path, pixels, mode=None, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    (image.convert(mode) if mode else image).save(path, **options)


def load_one(folder, size=8, **options):
    """The first of two equal images in the folder."""
    data = load_folder(folder, size, test_fraction=0.5, **options)
    assert (len(data.train), len(data.test)) == (1, 1)
    np.testing.assert_array_equal(data.train, data.test)
    return data.train[0]


def save_pair(folder, name, pixels, mode=None, **options):
    stem, extension = name.split(".")
    for number in range(2):
        save(folder / f"{stem}{number}.{extension}", pixels, mode, **options)
    return folder


@pytest.fixture
def animals(tmp_path):
    """Cats are dark, dogs bright; no two images are alike."""
    for index in range(10):
        save(tmp_path / "cat" / f"{index}.png", COLOUR // 4 + index)
        save(tmp_path / "dog" / f"{index}.png", COLOUR // 4 + 100 + index)
    return tmp_path


def test_classes_are_folders(animals):
    data = load_folder(animals, 8, test_fraction=0.3, seed=1)
    assert data.class_names == ("cat", "dog")
    assert data.name == f"{animals.name} (8x8x3)"
    np.testing.assert_array_equal(np.bincount(data.train_labels), [7, 7])
    np.testing.assert_array_equal(np.bincount(data.test_labels), [3, 3])
    images = np.concatenate([data.train, data.test]).astype(int)
    labels = np.concatenate([data.train_labels, data.test_labels])
    added = images - COLOUR // 4
    assert (added == added[:, :1, :1, :1]).all()
    np.testing.assert_array_equal(added[:, 0, 0, 0] >= 100, labels)
    assert len(np.unique(added)) == 20
    assert data.image_shape == (8, 8, 3)
    units, _ = data.take(np.arange(3))
    np.testing.assert_allclose(units, data.train[:3] / 127.5 - 1, atol=1e-6)
    assert "20 images, 14 train, 6 test (at random, split seed 1)" in str(data.report)


@pytest.mark.parametrize("test_folder", ["test", "val", "valid", "validation"])
def test_a_split_of_folders_is_kept(tmp_path, test_folder):
    for index in range(3):
        save(tmp_path / "train" / "a" / f"{index}.png", COLOUR)
        save(tmp_path / "train" / "b" / f"{index}.png", COLOUR)
    save(tmp_path / test_folder / "b" / "0.png", 255 - COLOUR)
    data = load_folder(tmp_path, 8)
    np.testing.assert_array_equal(data.train_labels, [0, 0, 0, 1, 1, 1])
    np.testing.assert_array_equal(data.test_labels, [1])
    np.testing.assert_array_equal(data.test[0], 255 - COLOUR)
    rule = "train and test parts as given"
    if test_folder != "test":
        rule = "train and val parts as given; no test part, so val is measured against"
    assert f"6 train, 1 test ({rule})" in str(data.report)


def test_the_test_folder_goes_before_the_others(tmp_path):
    for split, value in (("train", 0), ("val", 1), ("test", 2), ("valid", 3)):
        if split != "valid":
            save(tmp_path / split / "a" / "0.png", np.full((8, 8), value, np.uint8))
    data = load_folder(tmp_path, 8)
    assert (data.test == 2).all()
    assert "1 of the val part, which is kept apart" in str(data.report)
    save(tmp_path / "valid" / "a" / "0.png", GREY)
    with pytest.raises(DataError, match=r"folders val and valid are both val; allowed"):
        load_folder(tmp_path, 8)


def test_a_train_folder_alone_is_split(tmp_path):
    save_pair(tmp_path / "train" / "a", "x.png", COLOUR)
    np.testing.assert_array_equal(load_one(tmp_path), COLOUR)


def test_without_class_folders_there_is_one_class(tmp_path):
    save_pair(tmp_path, "x.png", COLOUR)
    (tmp_path / "notes.txt").write_text("not an image")
    (tmp_path / ".hidden.png").write_text("not an image")
    data = load_folder(tmp_path, 8, test_fraction=0.5)
    assert data.class_names == ("image",)
    assert "1 .txt files, no pictures (first notes.txt)" in str(data.report)
    assert "1 hidden files (first .hidden.png)" in str(data.report)


@pytest.mark.parametrize("name", ["x.png", "x.bmp", "x.PNG", "x.gif"])
def test_lossless_files_come_back_exactly(tmp_path, name):
    pixels = COLOUR if name != "x.gif" else COLOUR // 128 * 255  # of few colours
    save_pair(tmp_path, name, pixels)
    np.testing.assert_array_equal(load_one(tmp_path), pixels)


def test_jpegs_come_back_as_the_format_allows(tmp_path):
    ramp = np.linspace(0, 255, 32).round().astype(np.uint8)
    pixels = np.stack([np.tile(ramp, (32, 1)), np.tile(ramp[:, None], (1, 32))], axis=2)
    pixels = np.concatenate([pixels, 255 - pixels[..., :1]], axis=2)
    save_pair(tmp_path, "x.jpg", pixels, quality=98, subsampling=0)
    read = load_one(tmp_path, 32).astype(int)
    assert np.abs(read - pixels).max() < 8
    assert np.abs(read - pixels).mean() < 1.5


@pytest.mark.parametrize("mode", ["L", "1", "LA", "P"])
def test_grey_images_have_one_channel(tmp_path, mode):
    save_pair(tmp_path, "x.png", GREY // 128 * 255, mode)
    read = load_one(tmp_path)
    np.testing.assert_array_equal(read, GREY[..., None] // 128 * 255)


@pytest.mark.parametrize("mode", ["RGB", "P", "CMYK"])
def test_coloured_images_have_three_channels(tmp_path, mode):
    pixels = COLOUR // 128 * 255
    name = "x.png"
    if mode == "CMYK":
        name, pixels = "x.jpg", np.full((8, 8, 3), (255, 0, 0), np.uint8)
    save_pair(tmp_path, name, pixels, mode)
    np.testing.assert_allclose(load_one(tmp_path).astype(int), pixels, atol=2)


def test_sixteen_bits_become_eight(tmp_path):
    levels = np.linspace(0, 65535, 64).round().reshape(8, 8).astype(np.uint16)
    save_pair(tmp_path, "x.png", levels)
    assert Image.open(tmp_path / "x0.png").mode.startswith("I")
    expected = np.round(levels / 65535 * 255)
    np.testing.assert_allclose(load_one(tmp_path)[..., 0], expected, atol=1e-3)
    with pytest.raises(DataError, match=r"grey levels .*, beyond 0\.\.4095"):
        load_folder(tmp_path, 8, value_range=(0, 4095))
    coloured = load_one(tmp_path, channels=3)
    np.testing.assert_array_equal(coloured, np.repeat(expected[..., None], 3, axis=2))
    for name in ("x0.png", "x1.png"):
        (tmp_path / name).unlink()
    save_pair(tmp_path / "dark", "x.png", levels // 16)
    with pytest.raises(DataError, match=r"up to 4095; .*such as \(0, 4095\)"):
        load_folder(tmp_path / "dark", 8)
    dark = load_one(tmp_path / "dark", value_range=(0, 4095))
    np.testing.assert_allclose(dark[..., 0], expected, atol=1)


def test_transparent_parts_are_white(tmp_path):
    alpha = np.zeros((8, 8), np.uint8)
    alpha[:4], alpha[4:6] = 255, 51  # opaque, a fifth, and nothing
    save_pair(tmp_path / "rgba", "x.png", np.dstack([COLOUR, alpha]))
    share = alpha[..., None] / 255
    expected = share * COLOUR + (1 - share) * 255
    np.testing.assert_allclose(load_one(tmp_path / "rgba"), expected, atol=1)
    said = "2 images have transparent parts, which become white"
    assert said in str(load_folder(tmp_path / "rgba", 8, test_fraction=0.5).report)
    opaque = np.dstack([COLOUR, np.full((8, 8), 255, np.uint8)])
    save_pair(tmp_path / "opaque", "x.png", opaque)
    report = load_folder(tmp_path / "opaque", 8, test_fraction=0.5).report
    assert "transparent parts" not in str(report)
    save_pair(tmp_path / "la", "x.png", Image.fromarray(np.dstack([GREY, alpha])))
    expected = share * GREY[..., None] + (1 - share) * 255
    np.testing.assert_allclose(load_one(tmp_path / "la"), expected, atol=1)
    # One colour of a palette, and one colour of all, made transparent.
    black = np.zeros((8, 8, 3), np.uint8)
    black[4:] = 200, 10, 10
    palette = Image.fromarray(black).convert("P", palette=Image.Palette.ADAPTIVE)
    index = np.asarray(palette)[0, 0]
    save_pair(tmp_path / "p", "x.png", palette, transparency=int(index))
    save_pair(tmp_path / "rgb", "x.png", black, transparency=(0, 0, 0))
    for name in ("p", "rgb"):
        read = load_one(tmp_path / name)
        assert (read[:4] == 255).all()
        np.testing.assert_allclose(read[4:].astype(int), black[4:], atol=2)


def test_pictures_are_turned_as_the_camera_was(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera stood on its side: turn a quarter, clockwise
    save_pair(tmp_path, "x.png", COLOUR, exif=exif)
    np.testing.assert_array_equal(load_one(tmp_path), np.rot90(COLOUR, -1))


def test_previews_in_a_jpeg_are_ignored(tmp_path):
    preview = Image.fromarray(np.zeros((8, 8, 3), np.uint8))
    picture = Image.fromarray(np.full((8, 8, 3), (200, 100, 50), np.uint8))
    save_pair(
        tmp_path, "x.jpg", picture, format="MPO", save_all=True, append_images=[preview]
    )
    assert Image.open(tmp_path / "x0.jpg").n_frames == 2
    read = load_one(tmp_path).astype(int)
    np.testing.assert_allclose(read, np.full((8, 8, 3), (200, 100, 50)), atol=3)


def test_the_middle_is_kept_and_scaled(tmp_path):
    # Three squares side by side; only the middle one may be seen.
    wide = np.zeros((64, 192), np.uint8)
    wide[:, 64:128], wide[:, 128:] = 90, 200
    save_pair(tmp_path / "wide", "x.png", wide)
    read = load_one(tmp_path / "wide", 16)
    assert read.shape == (16, 16, 1)
    np.testing.assert_array_equal(read[:, 2:-2], 90)  # at the edge two squares meet
    np.testing.assert_allclose(read[:, [0, -1]].astype(int), 90, atol=20)
    save_pair(tmp_path / "tall", "x.png", wide.T)
    np.testing.assert_array_equal(load_one(tmp_path / "tall", 16), read.swapaxes(0, 1))
    # A linear ramp, halved: away from the borders the mean of neighbours.
    ramp = np.tile(np.arange(0, 128, 4, dtype=np.uint8), (32, 1))
    save_pair(tmp_path / "ramp", "x.png", ramp)
    read = load_one(tmp_path / "ramp", 16)[..., 0]
    np.testing.assert_allclose(read[3:-3, 3:-3], ramp[::2, ::2][3:-3, 3:-3] + 2, atol=1)
    data = load_folder(tmp_path / "ramp", 64, test_fraction=0.5)
    assert data.image_shape == (64, 64, 1)
    assert "2 were smaller and are enlarged" in str(data.report)


def test_mixed_channels_need_a_decision(tmp_path):
    save(tmp_path / "a" / "0.png", GREY)
    save(tmp_path / "a" / "1.png", COLOUR)
    message = r"a/0\.png has 1 channel\(s\), a/1\.png has 3; allowed: one kind, or data"
    with pytest.raises(DataError, match=message):
        load_folder(tmp_path, 8)
    data = load_folder(tmp_path, 8, channels=3, test_fraction=0.5)
    images = np.concatenate([data.train, data.test])
    images = images[np.ptp(images, axis=3).reshape(2, -1).any(axis=1).argsort()]
    np.testing.assert_array_equal(images[0], np.repeat(GREY[..., None], 3, axis=2))
    np.testing.assert_array_equal(images[1], COLOUR)
    data = load_folder(tmp_path, 8, channels=1, test_fraction=0.5)
    luma = (COLOUR @ [0.299, 0.587, 0.114])[..., None]  # ITU-R BT.601
    images = np.concatenate([data.train, data.test]).astype(int)
    assert min(np.abs(image - luma).max() for image in images) <= 1
    assert min(np.abs(image - GREY[..., None]).max() for image in images) == 0


def test_channels_must_agree_between_the_parts(tmp_path):
    save(tmp_path / "train" / "a" / "0.png", COLOUR)
    save(tmp_path / "test" / "a" / "0.png", GREY)
    with pytest.raises(
        DataError, match=r"train/a/0\.png has 3 .* test/a/0\.png has 1;"
    ):
        load_folder(tmp_path, 8)


def spoil(animals):
    """Five faults of a file."""
    (animals / "cat" / "x_empty.png").write_bytes(b"")
    (animals / "cat" / "x_text.jpg").write_text("not an image")
    whole = (animals / "cat" / "0.png").read_bytes()
    (animals / "dog" / "x_cut.png").write_bytes(whole[:-60])
    frames = [Image.fromarray(COLOUR // 128 * 255), Image.fromarray(COLOUR)]
    frames[0].save(animals / "dog" / "x.gif", save_all=True, append_images=frames[1:])
    (animals / "dog" / "x_gone.png").symlink_to(animals / "dog" / "absent.png")


def test_bad_images_are_named_and_counted(animals):
    spoil(animals)
    with pytest.raises(DataError) as caught:
        load_folder(animals, 8)
    message = str(caught.value)
    assert message.startswith(f"{animals}: 5 images cannot be read, 20 can: ")
    for fault in (
        "cat/x_empty.png (cannot identify",
        "cat/x_text.jpg (cannot identify",
        "dog/x_cut.png (",
        "dog/x.gif (2 frames)",
        "dog/x_gone.png: not a file)",
        "data.bad_images='skip'",
    ):
        assert fault in message
    assert message.count("2 frames") == 1


def test_bad_images_can_be_left_out(animals):
    whole = load_folder(animals, 8)
    spoil(animals)
    data = load_folder(animals, 8, bad_images="skip")
    np.testing.assert_array_equal(data.train, whole.train)
    np.testing.assert_array_equal(data.test, whole.test)
    assert "5 images that cannot be read (first cat/x_empty.png" in str(data.report)
    for index in range(4):
        (animals / "cat" / f"y{index}.png").write_bytes(b"rubbish")
    data = load_folder(animals, 8, bad_images="skip")
    assert "left out: 9 images that cannot be read" in str(data.report)


def test_bad_images_do_not_shift_the_classes(tmp_path):
    for part in ("train", "test"):
        for index, name in enumerate("ab"):
            pixels = np.full((8, 8), 10 * (index + 1), np.uint8)
            save(tmp_path / part / name / "1.png", pixels)
            (tmp_path / part / name / "0.png").write_bytes(b"rubbish")
    data = load_folder(tmp_path, 8, bad_images="skip")
    for images, labels in (
        (data.train, data.train_labels),
        (data.test, data.test_labels),
    ):
        np.testing.assert_array_equal(images[:, 0, 0, 0], [10, 20])
        np.testing.assert_array_equal(labels, [0, 1])


def test_animated_pngs_are_refused(tmp_path):
    save_pair(tmp_path, "x.png", COLOUR)
    frames = [Image.fromarray(COLOUR), Image.fromarray(255 - COLOUR)]
    frames[0].save(tmp_path / "a.png", save_all=True, append_images=frames[1:])
    with pytest.raises(DataError, match=r"1 images .*a\.png \(2 frames\)"):
        load_folder(tmp_path, 8)


def test_other_formats_are_not_opened_under_a_known_name(tmp_path):
    save(tmp_path / "x.png", COLOUR, format="PCX")
    with pytest.raises(DataError, match=r"x\.png \(cannot identify"):
        load_folder(tmp_path, 8)


def test_classes_without_images_are_named(animals):
    for name in ("elk", "fox"):
        (animals / name).mkdir()
        (animals / name / "notes.txt").write_text("none yet")
    with pytest.raises(DataError, match=r"no usable image of class elk, fox; allowed"):
        load_folder(animals, 8)
    for name in ("elk", "fox"):
        (animals / name / "0.png").write_bytes(b"rubbish")
    with pytest.raises(DataError, match=r"no usable image of class elk, fox; allowed"):
        load_folder(animals, 8, bad_images="skip")


def test_folders_laid_out_otherwise_are_refused(tmp_path):
    def root(name, *files):
        for file in files:
            save(tmp_path / name / file, COLOUR)
        return tmp_path / name

    for folder, message in (
        (tmp_path / "absent", "absent: no such folder; allowed: a folder of images"),
        (root("loose", "0.png", "a/0.png"), r"image 0\.png beside the folders a;"),
        (
            root("deep", "a/b/0.png", "c/d/0.png"),
            r"folder a/b within a class; .*first \(classes a, c\), last \(class",
        ),
        (root("late", "test/a/0.png", "b/0.png"), "a folder test but no train; found"),
        (root("bus", "bus/0.png", "train/0.png"), "images in bus beside the folder tr"),
        (
            root("new", "train/a/0.png", "test/a/0.png", "test/b/0.png"),
            "no training images of class b; found a; allowed",
        ),
    ):
        with pytest.raises(DataError, match=message):
            load_folder(folder, 8)
    (tmp_path / "nothing").mkdir()
    with pytest.raises(DataError, match=r"nothing: no images; allowed: \.png, \.apng"):
        load_folder(tmp_path / "nothing", 8)
    file = tmp_path / "deep" / "a" / "b" / "0.png"
    with pytest.raises(DataError, match=r"0\.png: a file; allowed: a folder"):
        load_folder(file, 8)
    (tmp_path / "new" / "test" / "b" / "0.png").unlink()
    with pytest.raises(DataError, match="new, test: no usable image of class b"):
        load_folder(tmp_path / "new", 8)


def test_links_may_not_leave_the_folder(tmp_path, animals):
    outside = tmp_path / "outside"
    inside = tmp_path / "root"
    save_pair(outside, "x.png", COLOUR)
    save_pair(inside / "a", "x.png", COLOUR)
    (inside / "a" / "again.png").symlink_to(inside / "a" / "x0.png")
    assert len(load_folder(inside, 8).train) == 2
    for link, target in (
        (inside / "a" / "link.png", outside / "x0.png"),
        (inside / "b", outside),
        (inside / "train", outside),
    ):
        link.symlink_to(target)
        name = link.relative_to(inside).as_posix()
        with pytest.raises(DataError, match=f"root: {name} is a link that leaves"):
            load_folder(inside, 8)
        link.unlink()
    # The root itself may be a link.
    (tmp_path / "link").symlink_to(inside)
    assert load_folder(tmp_path / "link", 8).class_names == ("a",)


def test_pipes_are_not_waited_for(tmp_path):
    save_pair(tmp_path, "x.png", COLOUR)
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(DataError, match=r"pipe\.png: not a file\)"):
        load_folder(tmp_path, 8)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image_size": -1}, r"data\.image_size=-1; allowed: >= 0"),
        ({"channels": 4}, r"data\.channels=4; allowed: 0, 1, 3"),
        ({"bad_images": "ignore"}, r"data\.bad_images='ignore'; allowed: stop, skip"),
        ({"test_fraction": 0}, "test_fraction=0; allowed: between 0 and 1"),
        ({"image_size": 2**22}, "free; allowed: 80% of them, by fewer or smaller"),
    ],
)
def test_wrong_options_are_refused(animals, options, message, monkeypatch):
    def picture_of(content, asked):
        shape = (asked.image_size, asked.image_size, 1)
        return Picture(np.broadcast_to(np.uint8(0), shape), (8, 8))

    # Scaling to a size that does not fit would itself take too much.
    monkeypatch.setattr("ncgn_jax.images.picture_files.read_picture", picture_of)
    with pytest.raises(DataError, match=message):
        load_folder(animals, **{"image_size": 8, **options})


def test_a_missing_pillow_is_named(animals, monkeypatch):
    monkeypatch.setitem(sys.modules, "PIL.Image", None)
    with pytest.raises(DataError, match="image files are read by Pillow"):
        load_folder(animals, 8)
