"""Archives: members are read in place, and what leads out or grows is refused."""

import gzip
import io
import tarfile
import zipfile

import pytest

from ncgn_jax.data import archives
from ncgn_jax.data.archives import open_archive, read_plain_or_gzip
from ncgn_jax.faults import DataError


def make_zip(path, members):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def make_tar(path, members):
    with tarfile.open(path, "w:gz") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            if content is None:
                info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
                archive.addfile(info)
            else:
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
    return path


MAKERS = {"a.zip": make_zip, "a.tar.gz": make_tar}


@pytest.mark.parametrize("name", MAKERS)
def test_members_are_read_without_hidden_ones(name, tmp_path):
    members = {"b/x": b"1", "a": b"22", "._a": b"h", "__MACOSX/a": b"h"}
    members["Thumbs.db"] = b"h"
    path = MAKERS[name](tmp_path / name, members)
    with open_archive(path) as archive:
        read = {member.name: archive.read(member) for member in archive.members}
        assert read == {"a": b"22", "b/x": b"1"}
        assert archive.hidden == ("._a", "Thumbs.db", "__MACOSX/a")
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize("inside", ["../evil", "/evil", "C:/evil", "a/../../evil"])
def test_paths_that_lead_out_are_refused(name, inside, tmp_path):
    path = MAKERS[name](tmp_path / name, {inside: b"x"})
    with pytest.raises(DataError, match="unsafe member path"), open_archive(path):
        pass


def test_links_are_refused(tmp_path):
    path = make_tar(tmp_path / "a.tar.gz", {"passwords": None})
    with pytest.raises(DataError, match="'passwords' is a link"), open_archive(path):
        pass


@pytest.mark.parametrize("name", MAKERS)
def test_a_member_that_announces_too_much_is_refused(name, tmp_path):
    path = MAKERS[name](tmp_path / name, {"zeros": bytes(2**20)})
    with (
        pytest.raises(DataError, match="1,048,576 bytes; allowed: <= 1,000"),
        open_archive(path, max_bytes=1000),
    ):
        pass


def test_a_member_that_grows_beyond_what_it_announces_is_refused(tmp_path):
    path = make_zip(tmp_path / "a.zip", {"zeros": bytes(2**20)})
    content = path.read_bytes().replace((2**20).to_bytes(4, "little"), b"\x10\0\0\0")
    path.write_bytes(content)
    with (
        open_archive(path, max_bytes=1000) as archive,
        pytest.raises(DataError, match="zeros"),
    ):
        archive.read(archive.members[0])


def test_compressed_files_that_grow_too_much_are_refused(tmp_path):
    path = tmp_path / "a.txt.gz"
    path.write_bytes(gzip.compress(bytes(2**20)))
    assert len(read_plain_or_gzip(path)) == 2**20
    with pytest.raises(DataError, match="more than 1,000 bytes"):
        read_plain_or_gzip(path, max_bytes=1000)


def test_stamps_of_members_change_with_them(tmp_path):
    zipped, tarred = tmp_path / "a.zip", tmp_path / "a.tar"
    stamps: list[list[str]] = [[], []]
    for time, content in ((1, b"1"), (2, b"2")):
        make_zip(zipped, {"x": content})
        with tarfile.open(tarred, "w") as file:
            info = tarfile.TarInfo("x")
            info.size, info.mtime = 1, time
            file.addfile(info, io.BytesIO(content))
        for found, path in zip(stamps, (zipped, tarred), strict=True):
            with open_archive(path) as archive:
                found += [member.stamp for member in archive.members]
    assert [len(set(found)) for found in stamps] == [2, 2]


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME])
@pytest.mark.parametrize("is_first", [True, False])
def test_long_names_and_attributes_in_a_tar_are_refused_unread(
    kind, is_first, tmp_path
):
    path = tmp_path / "a.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        if not is_first:
            archive.addfile(tarfile.TarInfo("a"), io.BytesIO())
        info = tarfile.TarInfo("long")
        info.type, info.size = kind, 2**20 + 1
        archive.addfile(info, io.BytesIO(bytes(info.size)))
        archive.addfile(tarfile.TarInfo("b"), io.BytesIO())
    said = r"a\.tar\.gz: not a readable archive \(a name or attributes of 1,048,577"
    with pytest.raises(DataError, match=said), open_archive(path):
        pass


def test_a_tar_of_too_many_members_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(archives, "_MAX_TAR_MEMBERS", 3)
    path = make_tar(tmp_path / "a.tar.gz", {f"{i}": b"" for i in range(3)})
    with open_archive(path) as archive:
        assert len(archive.members) == 3
    make_tar(path, {f"{i}": b"" for i in range(4)})
    with pytest.raises(DataError, match="more than 3 files"), open_archive(path):
        pass


@pytest.mark.parametrize("name", ["a.zip", "a.tar"])
@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"version https://git-lfs.github.com/spec/v1\n", "a pointer to the file"),
        (b"\n<!DOCTYPE html><html>", "a web page in the place"),
    ],
)
def test_stand_ins_of_archives_are_named(name, content, said, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=said), open_archive(tmp_path / name):
        pass
