"""Folders and archives are listed alike; links, pipes and compressed files."""

import gzip
import os
import zipfile

import pytest

from ncgn_jax.data.file_trees import open_tree
from ncgn_jax.faults import DataError

CONTENTS = {
    "b.txt": b"1",
    "a/2.npy": b"22",
    "a b/c.txt.GZ": gzip.compress(b"333"),
    "a/Thumbs.db": b"?",
    ".git/x": b"?",
}


@pytest.fixture(params=["folder", "archive"])
def place(request, tmp_path):
    if request.param == "archive":
        with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
            for name, content in CONTENTS.items():
                archive.writestr(name, content)
        return tmp_path / "a.zip"
    for name, content in CONTENTS.items():
        (tmp_path / "root" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "root" / name).write_bytes(content)
    return tmp_path / "root"


def test_files_are_listed_folder_by_folder_and_read(place):
    with open_tree(place) as tree:
        names = [file.name for file in tree.files]
        assert names == ["a/2.npy", "a b/c.txt.GZ", "b.txt"]
        packed = tree.files[1]
        assert (packed.ending, packed.stem, packed.is_packed) == (".txt", "c", True)
        assert [file.size for file in tree.files] == [2, len(CONTENTS[packed.name]), 1]
        assert packed.read() == CONTENTS[packed.name]
        assert packed.read_plain() == packed.head() == b"333"
        assert tree.files[0].read() == tree.files[0].head() == b"22"
        assert (tree.files[0].path is None) == (place.suffix == ".zip")
        assert packed.where.startswith(str(place))
        assert packed.where.endswith("a b/c.txt.GZ")
        hidden = ".git/x" if place.suffix == ".zip" else ".git"
        assert sorted(tree.hidden) == [hidden, "a/Thumbs.db"]


def test_links_are_refused_or_listed(tmp_path):
    root, other = tmp_path / "root", tmp_path / "other"
    (root / "a").mkdir(parents=True)
    other.mkdir()
    (other / "x").write_bytes(b"x")
    (root / "a" / "y").write_bytes(b"y")
    (root / "again").symlink_to(root / "a")
    with open_tree(root) as tree:
        assert [file.name for file in tree.files] == ["a/y", "again/y"]
    (root / "out").symlink_to(other)
    with (
        pytest.raises(DataError, match="out is a link that leaves the folder"),
        open_tree(root),
    ):
        pass
    (root / "a" / "round").symlink_to(root)
    with open_tree(root, "list") as tree:
        assert [file.name for file in tree.files] == ["a/y", "again/y"]
        assert tree.links == ("a/round", "again/round", "out")


def test_what_is_no_file_is_told_and_not_read(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "gone").symlink_to(tmp_path / "absent")
    with open_tree(tmp_path) as tree:
        for file in tree.files:
            assert not file.is_file
            with pytest.raises(DataError, match=f"{file.name}: not a file"):
                file.head()
    with (
        pytest.raises(DataError, match="absent: no such file or folder"),
        open_tree(tmp_path / "absent"),
    ):
        pass


@pytest.mark.parametrize("is_packed", [False, True])
def test_damaged_compressed_files_are_named(tmp_path, is_packed):
    path, spoilt = tmp_path / "x.gz", gzip.compress(b"333")[:-6]
    path.write_bytes(spoilt)
    if is_packed:
        path = tmp_path / "a.zip"
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("x.gz", spoilt)
    with (
        open_tree(path) as tree,
        pytest.raises(DataError, match=r"x\.gz: not readable"),
    ):
        tree.files[0].read_plain()
