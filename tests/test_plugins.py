"""Plug-ins: what they register trains, reads, measures, and is asked for by name."""

import importlib.metadata
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import optax
import pytest

from ncgn_jax import domains, plugins, registry
from ncgn_jax.config import with_fields
from ncgn_jax.domains import default_config, make_task, validate
from ncgn_jax.evaluate import evaluate
from ncgn_jax.faults import CheckpointError, ConfigError, DataError, RequestError
from ncgn_jax.loading import load
from ncgn_jax.loop import train
from ncgn_jax.run.optimizer import make_optimizer
from tests.line_task import LineTask

REPOSITORY = Path(__file__).resolve().parent.parent
EXAMPLE = REPOSITORY / "docs" / "examples" / "plugin.py"
SMALL = {
    "data.num_points": 16,
    "dmp.num_neighbors": 3,
    "model.width": 8,
    "model.network": "local",
    "train.optimizer": "lion",
    "train.num_steps": 2,
    "train.batch_size": 16,
    "train.warmup_steps": 1,
}


@pytest.fixture(autouse=True)
def registered(monkeypatch):
    """Forgets after each test what it registered."""
    monkeypatch.setattr(registry, "_REGISTERED", {})
    monkeypatch.setattr(domains, "DOMAINS", domains.DOMAINS)
    before = dict(domains.DOMAINS)
    sys.modules.pop("ncgn_plugin_plugin", None)
    yield
    domains.DOMAINS.clear()
    domains.DOMAINS.update(before)


def write_pts(path: Path, num: int = 40) -> Path:
    clouds = np.random.default_rng(0).normal(size=(num, 20, 3)) * [1, 2, 1]
    blocks = ("\n".join(" ".join(map(str, p)) for p in cloud) for cloud in clouds)
    path.write_text("\n\n".join(blocks))
    return path


def test_the_example_reads_trains_and_measures(tmp_path, capsys):
    path = write_pts(tmp_path / "mine.pts")
    config = with_fields(
        default_config("point_clouds"), {**SMALL, "data.path": str(path)}
    )
    with pytest.raises(ConfigError) as error:
        validate(config)
    said = str(error.value)
    assert "model.network: found 'local'; allowed: ncgn, hourglass" in said
    assert "train.optimizer: found 'lion'; allowed: adam, muon" in said
    plugins.import_plugins([str(EXAMPLE)])
    validate(config)
    task = make_task(config)
    assert len(task.dataset.train) + len(task.dataset.test) == 40
    assert f"{path} (reader of a plug-in): 40 clouds" in str(task.report)
    state = train(config, tmp_path / "run", task)
    assert "Dense_0" in state.params
    points = np.random.default_rng(1).normal(size=(4, 16, 3)).astype("f4")
    arrays = {"points": points, "label": np.zeros(4, np.int32)}
    rows = evaluate(config, tmp_path, task, {"ema": arrays}, 2)
    height = np.mean(points[..., 2].max(1) - points[..., 2].min(1))
    assert rows["ema"]["height"] == pytest.approx(height)
    assert "height" in capsys.readouterr().out
    assert "of a plug-in" in (tmp_path / "table.md").read_text()
    assert "Dense_0" in load(tmp_path / "run").params
    registry._REGISTERED.clear()
    with pytest.raises(
        CheckpointError, match="found 'local'; allowed: ncgn, hourglass, and"
    ):
        load(tmp_path / "run")


def test_the_registered_optimizer_is_the_rule():
    @plugins.optimizer("plain")
    def make_plain(rate, weight_decay):
        return optax.sgd(rate)

    fields = {"train.optimizer": "plain", "train.clip_norm": 0.0}
    fields |= {"train.learning_rate": 0.5, "train.warmup_steps": 0}
    fields |= {"train.decay": "constant"}
    tx = make_optimizer(with_fields(default_config("point_clouds"), fields))
    params = {"w": jax.numpy.ones(3)}
    updates, _ = tx.update({"w": jax.numpy.full(3, 2.0)}, tx.init(params), params)
    np.testing.assert_allclose(updates["w"], -1.0)


def test_refusals_name_the_choices(tmp_path):
    with pytest.raises(RequestError, match=r"domain: found 'clouds'; allowed: point_"):
        plugins.network("clouds", "mine")
    with pytest.raises(RequestError, match="domain 'images' exists already"):
        plugins.domain("images")(LineTask)
    with pytest.raises(ConfigError, match=r"--plugin=absent\.py: FileNotFoundError"):
        plugins.import_plugins(["absent.py"])
    broken = tmp_path / "broken.py"
    broken.write_text("1 / 0\n")
    for _ in range(2):  # A plug-in that failed is not taken for imported.
        with pytest.raises(ConfigError, match="ZeroDivisionError: division by zero"):
            plugins.import_plugins([str(broken)])
    broken.write_text("raise SystemExit(3)\n")
    with pytest.raises(ConfigError, match=r"broken\.py: SystemExit: 3"):
        plugins.import_plugins([str(broken)])
    with pytest.raises(ConfigError, match="No module named 'absent_module'"):
        plugins.import_plugins(["absent_module"])
    plugins.import_plugins([str(EXAMPLE)])
    config = with_fields(default_config("point_clouds"), {"data.path": "absent.pts"})
    with pytest.raises(DataError, match=r"data.path='absent.pts': no such file"):
        make_task(config)


def test_a_domain_of_ones_own_is_a_task():
    plugins.domain("line")(LineTask)
    plugins.domain("line")(LineTask)
    assert default_config("line").task == "line"


def test_plugins_among_arguments():
    given = ["main", "--plugin=a.py", "--plugin", "b", "--workdir=x", "--plug=c.py"]
    found, rest = plugins.split_plugins(given)
    assert found == ["a.py", "b"]
    assert rest == ["main", "--workdir=x", "--plug=c.py"]


def test_installed_plugins_are_imported_once(monkeypatch):
    plugins._import_installed.cache_clear()
    loaded = []

    class Point:
        name, value = "mine", "mine.module"

        def load(self):
            loaded.append(self.name)
            if len(loaded) > 1:
                raise ImportError("gone")

    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: [Point()])
    plugins.import_plugins()
    plugins.import_plugins()
    assert loaded == ["mine"]
    plugins._import_installed.cache_clear()
    with pytest.raises(ConfigError, match=r"plug-in mine \(mine\.module\): ImportErr"):
        plugins.import_plugins()
    plugins._import_installed.cache_clear()


@pytest.mark.slow
def test_the_command_takes_a_plugin(tmp_path):
    path = write_pts(tmp_path / "mine.pts")
    fields = {**SMALL, "data.path": path, "sample.num_samples": 4}
    command = [sys.executable, "-m", "ncgn_jax.command", "check"]
    command += [f"--plugin={EXAMPLE}", "--config=quickstart", "--workdir=run"]
    command += [f"--config.{name}={value}" for name, value in fields.items()]
    command += ["--config.data.source=auto", "--config.data.categories=()"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "model: local" in done.stdout
