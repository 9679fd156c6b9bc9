"""`ncgn check PATH`: one report for the data of any domain, or one message."""

import shlex

import numpy as np
import pytest

from ncgn_jax.check import check
from ncgn_jax.config import load_config
from ncgn_jax.data.report import DataReport
from ncgn_jax.domains import DOMAINS, default_config, load_data, set_fields


def clouds(count=6, num_points=40):
    return np.random.default_rng(0).normal(size=(count, num_points, 3))


def refused(*arguments, capsys):
    """Returns the message of a check that ends with code 2."""
    with pytest.raises(SystemExit) as end:
        check(list(map(str, arguments)))
    assert end.value.code == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    return shown.err


def test_the_command_that_is_proposed_reads_the_same(tmp_path, capsys):
    path = tmp_path / "my clouds.npy"
    np.save(path, clouds())
    check([str(path)])
    *report, command = capsys.readouterr().out.splitlines()
    assert report[0] == "domain: point_clouds"
    assert "data: my clouds.npy (40 points); " in report[1]
    assert "6 clouds, 5 train, 1 test (at random" in report[1]
    assert "  NOTE: read with data.num_points=40, since with 400 it" in report[-2]
    assert "1 test clouds; the table leaves out what needs 4" in report[-1]
    words = shlex.split(command.removeprefix("train on it: "))
    assert words[:3] == ["ncgn", "train", "--config=modelnet"]
    fields = [word.removeprefix("--config.") for word in words[3:]]
    config = set_fields(load_config("modelnet"), fields)
    assert load_data(config).report.lines("")[1:] == report[2:-2]


def test_fields_that_were_asked_for_stay(tmp_path, capsys):
    np.save(tmp_path / "a.npy", clouds())
    asked = "--config.data.num_points=50"
    said = refused(tmp_path / "a.npy", asked, capsys=capsys)
    assert "40 points, num_points=50 asked; allowed: data.num_points <= 40" in said
    check([str(tmp_path / "a.npy"), "--config.data.num_points=20"])
    assert "40 points kept of each training cloud" in capsys.readouterr().out


def test_molecules_of_another_size_are_read_with_it(tmp_path, capsys):
    pytest.importorskip("rdkit")
    lines = [f"{'C' * size}O\n" for size in range(11, 21)]
    (tmp_path / "a.smi").write_text("".join(lines))
    check([str(tmp_path / "a.smi")])
    shown = capsys.readouterr().out
    assert "10 molecules, 8 train, 1 val, 1 test" in shown
    assert (
        "NOTE: read with data.max_atoms=21, since with 9 it cannot be (no usable "
        in shown
    )


def test_what_would_be_refused_in_training_is_refused_with_the_report(tmp_path, capsys):
    pixels = np.arange(5 * 64, dtype=np.uint8).reshape(5, 8, 8)
    np.savez(tmp_path / "a.npz", images=pixels)
    with pytest.raises(SystemExit) as end:
        check([str(tmp_path / "a.npz")])
    shown = capsys.readouterr()
    assert end.value.code == 2
    assert "5 images, 4 train, 1 test" in shown.out
    assert "train on it" not in shown.out
    assert "1 test images; allowed: at least 4, see data.test_fraction" in shown.err
    np.savez(tmp_path / "b.npz", images=np.concatenate([pixels, 255 - pixels]))
    check([str(tmp_path / "b.npz")])
    shown = capsys.readouterr().out
    assert "10 images, 6 train, 4 test" in shown
    assert (
        "NOTE: read with data.test_fraction=0.4, since with 0.1 it cannot be "
        "(b (8x8x1): 1 test images)" in shown
    )


def test_what_is_unclear_is_refused_with_the_ways_out(tmp_path, capsys):
    assert "no such file or folder" in refused(tmp_path / "absent", capsys=capsys)
    (tmp_path / "notes.docx").write_bytes(b"x")
    said = refused(tmp_path / "notes.docx", capsys=capsys)
    assert "nothing recognised; found 1 .docx; name the domain with --domain=p" in said
    assert len(said.splitlines()) == 1
    np.save(tmp_path / "a.npy", np.array([{}], object), allow_pickle=True)
    said = refused(tmp_path / "a.npy", capsys=capsys)
    assert "a.npy: not a readable .npy file" in said
    assert "pickled files are refused" in said
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "out.ply").symlink_to("/etc/hosts")
    said = refused(tmp_path / "in", capsys=capsys)
    assert "found no files; 1 links out of the folder are not followed" in said


def test_what_is_not_read_is_named(tmp_path, capsys):
    for name in ("1.heic", "2.HEIC", "part.tar.gz", "LICENSE"):
        (tmp_path / name).write_bytes(b"x")
    found = (
        "found 2 .heic, 1 without an ending, 1 .tar; archives within are not opened: "
        "unpack them or name one; "
    )
    said = refused(tmp_path, capsys=capsys)
    assert f"nothing recognised; {found}name the domain" in said
    said = refused(tmp_path, "--domain=images", capsys=capsys)
    assert f"nothing that looks like images; {found}allowed: .npz, .npy," in said
    said = refused(tmp_path / "part.tar.gz", capsys=capsys)
    assert "part.tar.gz: not a readable archive" in said


def test_images_that_patches_do_not_divide_are_padded_or_scaled(tmp_path, capsys):
    pytest.importorskip("PIL")
    from PIL import Image

    pixels = np.random.default_rng(0).integers(0, 256, (40, 9, 14), dtype=np.uint8)
    np.save(tmp_path / "a.npy", pixels)
    (tmp_path / "b").mkdir()
    for i in range(40):
        Image.fromarray(pixels[i]).save(tmp_path / "b" / f"{i}.png")
    for name, size in (("a.npy", 16), ("b", 8)):
        check([str(tmp_path / name)])
        note = (
            f"NOTE: read with data.image_size={size}, since with 0 it cannot be (dmp: "
            "patch must divide"
        )
        assert note in capsys.readouterr().out
        with pytest.raises(SystemExit):
            check([str(tmp_path / name), "--config.data.image_size=21"])
        said = capsys.readouterr().err
        assert "patch 4 and image_size 21 x 21; allowed: dmp.patches among 1, 3" in said
        check([str(tmp_path / name), "--config.dmp.patches=(1,)"])
        assert "read with data.image_size" not in capsys.readouterr().out


@pytest.mark.parametrize(
    "name", [n for n, kind in DOMAINS.items() if kind.usual_config]
)
def test_every_domain_reports_what_comes_with_the_package(name):
    if name == "molecules":
        pytest.importorskip("rdkit")
    config = default_config(name)
    small = {"point_clouds": ["data.num_train=8", "data.num_test=8"],
             "expression": ["data.num_train=2", "data.num_test=2", "data.cache_dir="],
             "molecules": ["data.source=sample"]}  # fmt: skip
    dataset = load_data(set_fields(config, small.get(name, [])))
    assert isinstance(dataset.report, DataReport)
    lines = dataset.report.lines(dataset.name)
    assert lines[0].startswith(f"data: {dataset.name}; ")
    assert sum(dataset.report.splits.values()) > 0


def test_matrices_of_10x_are_no_clouds(tmp_path, capsys):
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "raw_probe_bc_matrix.h5", "w") as file:
        file["matrix"] = [1]
    with h5py.File(tmp_path / "clouds.h5", "w") as file:
        file["matrix"] = [1]
    assert DOMAINS["point_clouds"].recognise(tmp_path / "clouds.h5") is not None
    (tmp_path / "clouds.h5").unlink()
    said = refused(tmp_path, capsys=capsys)
    assert "raw_probe_bc_matrix.h5: " in said
    assert "may be data of" not in said


def test_genes_are_chosen_where_all_do_not_fit_into_memory(
    tmp_path, capsys, monkeypatch
):
    rng = np.random.default_rng(0)
    genes = [f"g{i}" for i in range(600)]
    lines = [",".join(["ID", "x", "y", *genes])]
    for i, counts in enumerate(rng.poisson(2, (40, 600))):
        lines.append(",".join(map(str, [f"c{i}", i, i * i, *counts])))
    (tmp_path / "a.csv").write_text("\n".join(lines))
    # Patches take some 20 kB for each gene.
    path, free = str(tmp_path / "a.csv"), 32_000_000
    monkeypatch.setattr("ncgn_jax.data.host_memory.available_bytes", lambda: free)
    sizes = ["--config.data.num_nodes=32", "--config.data.num_train=64"]
    check([path, *sizes])
    shown = capsys.readouterr().out
    assert "NOTE: read with" not in shown
    assert "contents: 600 genes" in shown
    free = 14_000_000
    check([path, *sizes])
    shown = capsys.readouterr().out
    assert "contents: 500 genes" in shown
    note = (
        "NOTE: read with data.genes=top:500, since with all it cannot be (80 patches "
        "of 32 cells x 600 genes take"
    )
    assert note in shown
    assert "--config.data.genes=top:500" in shown.splitlines()[-1]
    said = refused(path, *sizes, "--config.data.genes=top:550", capsys=capsys)
    assert "are free; allowed: 80% of them, by data.genes=top:500" in said
