"""The command `ncgn` and what it hands on."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import trimesh

from ncgn_jax import command
from ncgn_jax.command import COMMANDS, main
from ncgn_jax.config import load_config, shipped_configs
from ncgn_jax.faults import ConfigError, DataError
from ncgn_jax.loop import train
from ncgn_jax.point_clouds.scans import read_scan
from tests.line_task import CONFIG_FILE, line_config

REPOSITORY = Path(__file__).resolve().parent.parent


def test_commands_are_listed(capsys):
    main(["--help"])
    shown = capsys.readouterr().out
    for name in COMMANDS:
        assert f"ncgn {name}" in shown
    with pytest.raises(SystemExit, match="no command 'trian'.*did you mean 'train'"):
        main(["trian"])


def test_help_is_that_of_the_command(capsys):
    for name in ("sample", "complete", "compare", "levels"):
        with pytest.raises(SystemExit) as stop:
            main([name, "--help"])
        assert stop.value.code == 0
        assert capsys.readouterr().out.startswith(f"usage: ncgn {name} ")


def test_every_study_can_be_named():
    folders = (REPOSITORY / "ncgn_jax" / "studies").glob("*/__main__.py")
    assert sorted(path.parent.name for path in folders) == sorted(command._STUDIES)
    with pytest.raises(SystemExit, match="allowed: geometry_of_noise"):
        main(["study", "alchemy"])


def test_configurations_have_names():
    assert set(shipped_configs()) == {
        p.stem for p in (REPOSITORY / "configs").glob("*.py")
    }
    by_path = load_config(REPOSITORY / "configs" / "smoke.py")
    assert load_config("smoke").to_dict() == by_path.to_dict()
    with pytest.raises(ConfigError, match="no configuration 'smok'.*'smoke'"):
        load_config("smok")


@pytest.mark.parametrize(("field", "status"), [("num_steps=3", 0), ("num_steps=0", 2)])
def test_check_reads_and_stops(field, status, tmp_path):
    config = tmp_path / "line.py"
    config.write_text(CONFIG_FILE)
    arguments = [f"--config={config}", f"--config.train.{field}"]
    found = subprocess.run(
        [sys.executable, "-m", "ncgn_jax.command", "check", *arguments],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
    )
    assert found.returncode == status, found.stderr
    assert ("data: a line" in found.stdout) == (status == 0)
    assert ("at least 1" in found.stderr) == (status == 2)
    assert not (REPOSITORY / "runs" / "line").exists()


@pytest.mark.usefixtures("line_domain")
def test_what_has_no_model_of_its_own_is_not_exported(tmp_path):
    train(line_config("train.num_steps=2"), tmp_path / "run")
    with pytest.raises(SystemExit, match="line has none"):
        main(["export", str(tmp_path / "run"), str(tmp_path / "out")])
    with pytest.raises(SystemExit, match="exists already"):
        main(["export", str(tmp_path / "run"), str(tmp_path / "run")])


@pytest.mark.parametrize("kind", ["npy", "ply", "xyz", "obj"])
def test_scans_are_read_as_they_are(kind, tmp_path):
    points = np.random.default_rng(0).normal(size=(9, 3)) * 1e3
    path = tmp_path / f"scan.{kind}"
    if kind == "npy":
        np.save(path, np.concatenate([points, np.ones((9, 3))], axis=1))
    elif kind == "xyz":
        np.savetxt(path, points)
    elif kind == "obj":
        path.write_text("".join(f"v {x} {y} {z}\n" for x, y, z in points))
    else:
        trimesh.PointCloud(points).export(path)
    np.testing.assert_allclose(read_scan(path), points, rtol=1e-6)


def test_what_is_no_scan_is_named(tmp_path):
    with pytest.raises(DataError, match="no such file"):
        read_scan(tmp_path / "scan.ply")
    (tmp_path / "scan.ply").write_text("nothing")
    with pytest.raises(DataError, match="scan.ply: no points"):
        read_scan(tmp_path / "scan.ply")
    np.save(tmp_path / "flat.npy", np.ones((4, 2)))
    with pytest.raises(DataError, match=r"shape \(4, 2\); allowed: \[point, 3\]"):
        read_scan(tmp_path / "flat.npy")
