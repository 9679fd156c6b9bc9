"""Pictures of every format and layout, in folders, archives and Parquet tables."""

import io
import tarfile
import zipfile

import numpy as np
import pytest
from PIL import Image

from ncgn_jax.domains import load_data
from ncgn_jax.faults import DataError
from ncgn_jax.images.folders import load_folder
from ncgn_jax.images.latent_shards import load_latents
from ncgn_jax.images.parquet_files import load_parquet
from ncgn_jax.images.picture_files import PictureOptions
from ncgn_jax.images.task import ImageTask
from ncgn_jax.images.trained import Images
from ncgn_jax.images.units import ImageUnits
from tests.images.image_tasks import small_config
from tests.images.stored_images import write_files, write_tar

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (12, 8, 8, 3), dtype=np.uint8)
SIZE_8, SKIP = PictureOptions(8), PictureOptions(8, bad_images="skip")


def encode(pixels, kind="PNG", **options) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, format=kind, **options)
    return stream.getvalue()


def write(root, *names, kind="PNG"):
    """Writes different pictures; returns the root."""
    for i, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(encode(PIXELS[i], kind))
    return root


def four(folder):
    return [f"{folder}/{i}.png" for i in range(4)]


@pytest.mark.parametrize(
    ("ending", "kind", "options"),
    [
        (".webp", "WEBP", {"lossless": True}),
        (".tif", "TIFF", {}),
        (".tiff", "TIFF", {"compression": "tiff_lzw"}),
        (".ppm", "PPM", {}),
        (".dib", "DIB", {}),
        (".jfif", "JPEG", {"quality": 100, "subsampling": 0}),
        (".jpe", "JPEG", {"quality": 100, "subsampling": 0}),
    ],
)
def test_a_single_picture_of_another_format_is_read(tmp_path, ending, kind, options):
    smooth = np.repeat(np.arange(0, 128, 16, dtype=np.uint8)[:, None, None], 8, axis=1)
    smooth = np.repeat(smooth, 3, axis=2)
    write(tmp_path, *four("a"))
    (tmp_path / "a" / f"9{ending}").write_bytes(encode(smooth, kind, **options))
    data = load_folder(tmp_path, SIZE_8)
    images = np.concatenate([data.train, data.test]).astype(int)
    assert np.abs(images - smooth).max(axis=(1, 2, 3)).min() <= 3 * (kind == "JPEG")
    assert f"4 .png (first a/0.png), 1 {ending} (first a/9{ending})" in str(data.report)


def test_files_of_other_kinds_are_counted_and_named(tmp_path):
    write(tmp_path, *four("a"), *four("b"))
    for name in ("a/x.heic", "a/y.heic", "notes", "a/._0.png", "Thumbs.db"):
        (tmp_path / name).write_bytes(b"?")
    (tmp_path / "__MACOSX").mkdir()
    (tmp_path / "__MACOSX" / "._a").write_bytes(b"?")
    report = str(load_folder(tmp_path, SIZE_8).report)
    assert "2 .heic pictures, a format that is not read (first a/x.heic)" in report
    assert "1 files without an ending, no pictures (first notes)" in report
    assert "3 hidden files" in report


def test_several_frames_and_unknown_levels_are_counted(tmp_path):
    write(tmp_path, *four("a"))
    pages = [Image.fromarray(PIXELS[i]) for i in range(2)]
    pages[0].save(tmp_path / "a" / "z.tif", save_all=True, append_images=pages[1:])
    Image.fromarray(np.ones((8, 8), np.float32)).save(tmp_path / "a" / "f.tif")
    with pytest.raises(DataError, match=r"f\.tif \(floating.*z\.tif \(2 frames\)"):
        load_folder(tmp_path, SIZE_8)
    report = str(load_folder(tmp_path, SKIP).report)
    assert "2 images that cannot be read (first a/f.tif" in report


def test_a_picture_of_too_many_pixels_is_not_unpacked(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    write(tmp_path, *four("a"))
    bomb = encode(np.zeros((11, 11), np.uint8))
    (tmp_path / "a" / "bomb.png").write_bytes(bomb)
    with pytest.raises(DataError, match=r"bomb\.png .*decompression bomb"):
        load_folder(tmp_path, SIZE_8)


@pytest.mark.parametrize("ending", [".zip", ".tar", ".tar.gz"])
def test_archives_are_read_in_place_and_as_folders(tmp_path, ending):
    files = [f"pets/{c}/{i}.png" for i in (3, 1, 2, 0) for c in ("dog", "cat")]
    root = write(tmp_path / "root", *files)
    path = tmp_path / f"pets{ending}"
    names = [*files, "pets/cat/._0.png", "__MACOSX/pets/._cat"]
    (root / "pets/cat/._0.png").write_bytes(b"?")
    (root / "__MACOSX/pets").mkdir(parents=True)
    (root / "__MACOSX/pets/._cat").write_bytes(b"?")
    if ending == ".zip":
        with zipfile.ZipFile(path, "w") as archive:
            for name in names:
                archive.write(root / name, name)
    else:
        with tarfile.open(path, "w:gz" if ending.endswith("gz") else "w") as archive:
            for name in names:
                archive.add(root / name, name)
    before = sorted(tmp_path.rglob("*"))
    data, unpacked = load_folder(path, SIZE_8), load_folder(root, SIZE_8)
    assert sorted(tmp_path.rglob("*")) == before
    assert data.class_names == ("cat", "dog")
    for split in ("train", "test"):
        for one, other in zip(
            data.take(slice(None), split),
            unpacked.take(slice(None), split),
            strict=True,
        ):
            np.testing.assert_array_equal(one, other)
    assert "all images lie in pets, which names no class" in str(data.report)
    assert "2 hidden files" in str(data.report)


def test_archives_that_lead_out_are_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("../../evil.png", encode(PIXELS[0]))
    with pytest.raises(DataError, match="unsafe member path"):
        load_folder(tmp_path / "a.zip", SIZE_8)
    with tarfile.open(tmp_path / "b.tar", "w") as archive:
        info = tarfile.TarInfo("a/link.png")
        info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(info)
    with pytest.raises(DataError, match="is a link; allowed: files"):
        load_folder(tmp_path / "b.tar", SIZE_8)


def test_parts_in_any_spelling_are_kept(tmp_path):
    write(tmp_path, *four("Training/a"), *four("Validation/a"), *four("testing/a"))
    data = load_folder(tmp_path, SIZE_8)
    np.testing.assert_array_equal(data.train, PIXELS[:4])
    np.testing.assert_array_equal(data.test, PIXELS[8:])
    assert "4 of the val part, which is kept apart" in str(data.report)


def test_parts_within_classes_are_kept(tmp_path):
    write(tmp_path, *four("a/train"), *four("b/train"), *four("a/test"))
    data = load_folder(tmp_path, SIZE_8)
    assert data.class_names == ("a", "b")
    np.testing.assert_array_equal(data.train, PIXELS[:8])
    np.testing.assert_array_equal(data.test, PIXELS[8:])


def test_parts_without_classes_are_left_out(tmp_path):
    write(tmp_path, *four("train/a"), *four("train/b"), *four("test"))
    data = load_folder(tmp_path, SIZE_8)
    report = str(data.report)
    assert "4 images of the test part, which has no folders of classes" in report
    assert "7 train, 1 test (at random" in report


def test_a_folder_in_every_class_is_looked_through(tmp_path):
    data = load_folder(
        write(tmp_path, *four("n01/images"), *four("n02/images")), SIZE_8
    )
    assert data.class_names == ("n01", "n02")
    assert "classes are the folders around images" in str(data.report)


def test_nested_folders_name_classes_as_asked(tmp_path):
    write(tmp_path, *four("x/cat"), *four("x/dog"), *four("y/cat"))
    with pytest.raises(DataError, match=r"first \(classes x, y\), last \(class"):
        load_folder(tmp_path, SIZE_8)
    assert load_folder(tmp_path, SIZE_8, class_folder="first").class_names == ("x", "y")
    last = load_folder(tmp_path, SIZE_8, class_folder="last")
    assert last.class_names == ("cat", "dog")


def test_folders_of_one_name_are_one_class_or_several_as_asked(tmp_path):
    write(tmp_path, *four("greek/01"), *four("latin/01"), *four("latin/02"))
    last = load_folder(tmp_path, SIZE_8, class_folder="last")
    assert last.class_names == ("01", "02")
    assert "folders of one name are one class, 3 folders in all" in str(last.report)
    data = load_folder(tmp_path, SIZE_8, class_folder="path")
    assert data.class_names == ("greek/01", "latin/01", "latin/02")
    assert np.bincount(np.r_[data.train_labels, data.test_labels]).tolist() == [4] * 3
    with pytest.raises(DataError, match=r"first .*, last .* or path \(both\)"):
        load_folder(tmp_path, SIZE_8)


@pytest.mark.parametrize("ending", [".tar", ".tar.gz", ""])
def test_classes_lie_in_files_beside_the_pictures(tmp_path, ending):
    """As in the archives of WebDataset."""
    files = {}
    for i in range(12):
        files[f"{i:06d}.png"] = encode(PIXELS[i])
        files[f"{i:06d}.cls"] = f"{(7 * i) % 3}\n".encode()
        files[f"{i:06d}.json"] = b"{}"

    def written(name):
        if not ending:
            return write_files(tmp_path / name, files)
        return write_tar(tmp_path / f"{name}{ending}", files, packed=ending != ".tar")

    path = written("all")
    assert ImageTask.recognise(path) == {"data.source": "folder"}
    data = load_folder(path, SIZE_8)
    assert data.class_names == ("0", "1", "2")
    rows = {pixels.tobytes(): i for i, pixels in enumerate(PIXELS)}
    for split, labels in (("train", data.train_labels), ("test", data.test_labels)):
        own = [7 * rows[pixels.tobytes()] % 3 for pixels in getattr(data, split)]
        assert own == labels.tolist()
    report = str(data.report)
    assert "classes are those of 12 .cls files" in report
    assert "12 .json files, no pictures" in report
    assert ".cls files, no pictures" not in report
    asked = load_folder(path, SIZE_8, class_folder="first")
    assert asked.class_names == ("image",)
    assert "12 .cls files, as data.class_folder names the cl" in str(asked.report)
    del files["000003.cls"]
    with pytest.raises(DataError, match=r"1 of 12 pictures have no .cls.*000003.png"):
        load_folder(written("lacking"), SIZE_8)
    for content, message in (
        (b"", "found ''; allowed: the number or"),
        (b"1\n2", "found .1.n2.; allowed"),
        (b"\xff", "not UTF-8"),
        (b"x" * 1001, "found .x{40}.; allowed: the number or the name of a class"),
    ):
        files["000003.cls"] = content
        with pytest.raises(DataError, match=rf"000003\.cls: {message}"):
            load_folder(written(f"spoilt{len(content)}"), SIZE_8)


def test_what_lies_beside_a_folder_of_images_is_no_class(tmp_path):
    write(tmp_path, *four("images"))
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / "list.txt").write_text("1 1 1")
    data = load_folder(tmp_path, SIZE_8)
    assert data.class_names == ("images",)
    assert "1 .txt files, no pictures (first annotations/list" in str(data.report)
    (tmp_path / "cat").mkdir()
    with pytest.raises(DataError, match="no usable image of class cat"):
        load_folder(tmp_path, SIZE_8)


def test_classes_that_are_numbers_are_sorted_as_numbers(tmp_path):
    data = load_folder(write(tmp_path, *four("10"), *four("2"), *four("1")), SIZE_8)
    assert data.class_names == ("1", "2", "10")


def test_without_a_size_that_of_all_pictures_is_taken_or_one_proposed(tmp_path):
    write(tmp_path, *four("a"))
    data = load_folder(tmp_path)
    assert data.image_shape == (8, 8, 3)
    assert "the size of all images" in str(data.report)
    big = np.zeros((60, 40, 3), np.uint8)
    (tmp_path / "a" / "z.png").write_bytes(encode(big))
    with pytest.raises(
        DataError, match=r"2 sizes, 4 of 8x8, 1 of 60x40; .*data\.image_size .* as 8"
    ):
        load_folder(tmp_path)


def test_links_in_a_circle_are_refused(tmp_path):
    write(tmp_path, *four("a"))
    (tmp_path / "a" / "again").symlink_to(tmp_path)
    with pytest.raises(DataError, match="a/again is a link to a folder that holds it"):
        load_folder(tmp_path, SIZE_8)


def test_folders_of_masks_are_hardly_classes(tmp_path):
    write(tmp_path, *four("images"), *four("masks"))
    with pytest.raises(DataError, match=r"images, masks are hardly classes; .*first"):
        load_folder(tmp_path, SIZE_8)
    taken = load_folder(tmp_path, SIZE_8, class_folder="first")
    assert taken.class_names == ("images", "masks")


def test_short_names_of_parts_may_be_classes(tmp_path):
    write(tmp_path, *four("de"), *four("en"), *four("tr"))
    data = load_folder(tmp_path, SIZE_8)
    assert data.class_names == ("de", "en", "tr")
    assert "folders tr are classes, not parts" in str(data.report)


def test_the_layout_of_tiny_imagenet_is_read(tmp_path):
    train = [*four("train/n01/images"), *four("train/n02/images")]
    write(tmp_path, *train, "val/images/0.png", "test/images/0.png")
    data = load_folder(tmp_path, SIZE_8)
    assert data.class_names == ("n01", "n02")
    assert "1 images of the val part, which has no folders" in str(data.report)


def table(path, labels, images=PIXELS, names=None, struct=True, **columns):
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    stored = [encode(image) for image in images]
    if struct:
        stored = [{"bytes": content, "path": "a.png"} for content in stored]
    made = pa.table({"image": stored, **columns, **labels})
    if names:
        features = {"label": {"names": names, "_type": "ClassLabel"}}
        about = f'{{"info": {{"features": {features}}}}}'.replace("'", '"')
        made = made.replace_schema_metadata({"huggingface": about})
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(made, path, row_group_size=4)
    return path


@pytest.mark.parametrize("struct", [True, False])
def test_a_parquet_table_of_pictures_is_read(tmp_path, struct):
    labels = {"label": np.arange(12) % 2}
    path = table(tmp_path / "a.parquet", labels, names=["cat", "dog"], struct=struct)
    data = load_parquet(path, test_fraction=0.25)
    assert data.class_names == ("cat", "dog")
    rows = {image.tobytes(): i for i, image in enumerate(PIXELS)}
    for split in ("train", "test"):
        images = getattr(data, split)
        own = [rows[image.tobytes()] % 2 for image in images]
        assert own == getattr(data, f"{split}_labels").tolist()
    assert len(data.train) == 9


def test_parquet_files_of_a_folder_are_parts(tmp_path):
    root = tmp_path / "data"
    text = ["a", "b", "a", "b"]
    for name, rows in (
        ("train-00000-of-00002", slice(4)),
        ("train-00001-of-00002", slice(4, 8)),
        ("test-00000-of-00001", slice(8, 12)),
    ):
        table(root / f"{name}.parquet", {"label": text}, PIXELS[rows])
    config = small_config("data.source=auto", f"data.path={tmp_path}")
    data = load_data(config)
    np.testing.assert_array_equal(data.train, PIXELS[:8])
    np.testing.assert_array_equal(data.test, PIXELS[8:])
    assert data.class_names == ("a", "b")


def test_columns_that_could_be_classes_are_refused(tmp_path):
    labels = {"fine_label": np.arange(12) % 4, "coarse_label": np.arange(12) % 2}
    path = table(tmp_path / "a.parquet", labels, id=np.arange(12))
    with pytest.raises(DataError, match=r"fine_label, coarse_label .*data\.label_key"):
        load_parquet(path)
    data = load_parquet(path, label_key="coarse_label")
    assert len(data.class_names) == 2
    assert "columns that are not read: id, fine_label" in str(data.report)


def test_a_column_of_parts_is_refused(tmp_path):
    path = table(
        tmp_path / "a.parquet",
        {"label": np.arange(12) % 2},
        split=["train"] * 9 + ["test"] * 3,
    )
    with pytest.raises(DataError, match="column 'split' names a part"):
        load_parquet(path)


def test_latents_beside_hidden_files_load(tmp_path):
    latents = RNG.normal(size=(8, 4, 4, 2)).astype(np.float16)
    np.save(tmp_path / "latents-00000.npy", latents)
    for name in ("._latents-00000.npy", ".DS_Store"):
        (tmp_path / name).write_bytes(b"?")
    (tmp_path / "__MACOSX").mkdir()
    data = load_latents(tmp_path)
    assert len(data.train) + len(data.test) == 8
    assert "hidden files" in str(data.report)


def test_auto_refuses_fields_that_what_it_finds_does_not_read(tmp_path):
    write(tmp_path / "a", *four("cat"))
    path = f"data.path={tmp_path / 'a'}"
    assert ImageTask.recognise(tmp_path / "a") == {"data.source": "folder"}
    data = load_data(small_config("data.source=auto", path))
    assert data.image_shape == (8, 8, 3)
    with pytest.raises(DataError, match=r"data\.channel_axis: found 'last'"):
        load_data(small_config("data.source=auto", path, "data.channel_axis=last"))
    (tmp_path / "b").mkdir()
    assert ImageTask.recognise(tmp_path / "b") is None
    with pytest.raises(DataError, match="nothing that looks like images"):
        load_data(small_config("data.source=auto", f"data.path={tmp_path / 'b'}"))


def test_exported_pictures_can_be_trained_on_again(tmp_path):
    for pixels in (PIXELS, PIXELS[..., :1]):
        images = Images(pixels, ("cat", "dog/x") * 6, ImageUnits(127.5, 127.5))
        folder = tmp_path / str(pixels.shape[-1])
        files = images.save(folder)
        assert files[1].name == "01-dog_x.png"
        assert files[-1].name == "grid.png"
        files[-1].unlink()
        data = load_folder(folder, PictureOptions(), test_fraction=0.25)
        found = {image.tobytes() for image in np.concatenate([data.train, data.test])}
        assert found == {image.tobytes() for image in pixels}
