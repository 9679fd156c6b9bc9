"""A run never forgets what it was trained on: resuming, sampling, measuring."""

import dataclasses
import json
import shutil

import numpy as np
import pytest

from ncgn_jax import generate as generate_file
from ncgn_jax import memory
from ncgn_jax.config import load_config, with_fields
from ncgn_jax.data.digest import digest
from ncgn_jax.domains import DOMAINS, make_task
from ncgn_jax.faults import CheckpointError, ConfigError, DataError
from ncgn_jax.generate import generate, load_run
from ncgn_jax.loop import train
from ncgn_jax.memory import check_names
from ncgn_jax.run.checkpoint import Checkpoints
from ncgn_jax.run.state import TrainState
from ncgn_jax.running import run
from ncgn_jax.tasks.facts import from_plain, to_plain
from tests.line_task import LineTask, line_config

pytestmark = pytest.mark.usefixtures("line_domain")
HALF = "train.num_steps=4"


@pytest.fixture
def folder(tmp_path):
    """A run of four steps."""
    train(line_config(HALF), tmp_path / "run")
    return tmp_path / "run"


@pytest.fixture
def steeper(folder, monkeypatch):
    """Other data under the same name, after the run."""
    data = {"slope": 3.0, "offset": 5.0}
    monkeypatch.setattr(LineTask, "load_dataset", classmethod(lambda *_: data))


def about(folder):
    return Checkpoints(folder, "", read_only=True).read_about("newest")


OTHER = [
    "train.learning_rate=0.5", "seed=3", "model.width=8", "process.schedule=vp",
    "process.target=data", "train.optimizer=muon", "train.batch_size=16",
    "train.ema_decay=0.5", "process.loss_weight=min_snr",
]  # fmt: skip


@pytest.mark.parametrize("num_steps", [4, 8])
def test_all_that_differs_is_told_before_a_run_goes_on(folder, num_steps):
    """Also of a finished run."""
    config = line_config(*OTHER, f"train.num_steps={num_steps}")
    with pytest.raises(ConfigError) as error:
        train(config, folder)
    for field in OTHER:
        assert f"  {field.split('=')[0]}: was " in str(error.value)
    assert "model.width: was 4, now 8" in str(error.value)
    ways = str(error.value).splitlines()[-1]
    assert "--accept=process.loss_weight,seed,train.batch_size" in ways
    assert "model.width" not in ways
    assert about(folder).step == 4


def test_what_is_accepted_by_name_is_taken_and_kept_in_mind(folder, capsys):
    config = line_config("train.learning_rate=0.5", "seed=3")
    with pytest.raises(ConfigError, match=r"seed: was 0, now 3\nways"):
        train(config, folder, accept=["train.learning_rate"])
    accept = ["train.learning_rate", "seed"]
    train(config, folder, accept=accept)
    assert (
        "accepted: train.learning_rate: was 0.001, now 0.5" in capsys.readouterr().out
    )
    (change,) = about(folder).record["changes"]
    assert change["step"] == 4
    assert change["fields"]["seed"] == ["0", "3"]
    # From now on this is the run's own.
    train(line_config("train.learning_rate=0.5", "seed=3", "train.num_steps=9"), folder)
    assert len(about(folder).record["changes"]) == 1


def test_free_fields_may_change(folder):
    free = ["train.log_every_steps=3", "train.max_to_keep=1", "sample.num_steps=9"]
    train(line_config(*free), folder)
    assert about(folder).record["changes"] == []


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("model.width", "model.width decides the model"),
        ("train.learning_rat", "did you mean 'train.learning_rate'"),
    ],
)
def test_names_that_cannot_be_accepted(name, said):
    with pytest.raises(ConfigError, match=said):
        check_names([name], line_config())


def test_other_data_are_refused_or_taken_by_name(folder, steeper):
    with pytest.raises(ConfigError, match=r"data: was a line \[\w+\], now a line"):
        train(line_config(), folder)
    train(line_config(), folder, accept=["data"])
    # The weights rely on the facts of the first data.
    assert about(folder).record["facts"]["middle"] == 1.0


def test_facts_that_weights_rely_on_cannot_be_others(folder, monkeypatch):
    def learn(cls, config, dataset):
        return cls.facts_type(("x", "z"), 1.0)

    monkeypatch.setattr(LineTask, "learn", classmethod(learn))
    monkeypatch.setattr(LineTask, "digest", "other")
    with pytest.raises(
        ConfigError, match=r"data \(names\): was \(x, y\), now \(x, z\)"
    ):
        train(line_config(), folder, accept=["data"])


def test_facts_are_compared_part_by_part_and_shown_where_they_differ():
    old = {"flag": False, "mean": [0.5] * 9, "size": [1.5, 2.5], "none": None}
    new = {"flag": True, "mean": [0.5] * 6 + [0.75] * 3, "size": [1.5, 2.5], "none": 3}
    assert list(map(str, memory._fact_differences("units", old, new))) == [
        "data (units.flag): was False, now True",
        "data (units.mean): was (6 more, 0.5, 0.5, 0.5), now (6 more, 0.75, 0.75, "
        "0.75)",
        "data (units.none): was None, now 3",
    ]
    names = [f"g{i}" for i in range(20)]
    (found,) = memory._fact_differences("genes", names, [*names[:19], "other"])
    assert str(found) == "data (genes): was (19 more, g19), now (19 more, other)"
    (found,) = memory._fact_differences("genes", names, ["x", *names[1:]])
    assert found.was.startswith("(g0, g1, g2,")
    assert found.was.endswith("g11 and 8 more)")


def test_runs_without_a_record_take_it_from_the_data(folder, monkeypatch, capsys):
    """As versions before 2026-11-29 stored them."""
    monkeypatch.setattr("ncgn_jax.loop.make_record", lambda *_: None)
    old = folder.with_name("old")
    train(line_config(HALF), old)
    assert about(old).record == {}
    monkeypatch.undo()
    monkeypatch.setitem(DOMAINS, "line", LineTask)
    task, _ = load_run(line_config(), old, with_data=False)
    assert task.facts.middle == 1.0
    assert "did not store what its data taught it" in capsys.readouterr().out
    train(line_config(), old)
    assert about(old).record["facts"]["middle"] == 1.0


def no_data(monkeypatch):
    def load(cls, config):
        raise DataError("the data are gone")

    monkeypatch.setattr(LineTask, "load_dataset", classmethod(load))


def sets_of(folder):
    return sorted(path.name for path in (folder / "samples").iterdir())


def test_the_folder_alone_is_enough_to_sample(folder, monkeypatch, capsys):
    no_data(monkeypatch)
    moved = folder.rename(folder.with_name("moved"))
    fields = ["sample.num_samples=5", "evaluate.weights=ema"]
    run(None, fields, str(moved), "sample", pictures=False)
    assert "model of data: a line" in capsys.readouterr().out
    (name,) = sets_of(moved)
    with np.load(moved / "samples" / name / "ema.npz") as file:
        assert file["y"].shape == (5,)
    stored = json.loads((moved / "samples" / name / "about.json").read_text())
    assert stored["step"] == 4
    assert stored["sample"]["num_samples"] == 5
    with pytest.raises(DataError, match="the data are gone"):
        run(None, fields, str(moved), "evaluate")
    with pytest.raises(ConfigError, match="holds no run"):
        run(None, [], str(folder), "sample")
    with pytest.raises(ConfigError, match="--workdir=FOLDER is enough"):
        run(None, [], None, "sample")


def test_sets_of_samples_live_beside_each_other(folder, capsys):
    def sample(*fields, name=None):
        overrides = ["sample.num_samples=5", "evaluate.weights=ema", *fields]
        run(None, overrides, str(folder), "sample", samples=name, pictures=False)
        return capsys.readouterr().out

    assert "5 samples (ema weights" in sample()
    assert "stored samples (ema weights)" in sample()
    sample("sample.num_samples=6")
    sample("seed=1", name="mine")
    assert len(sets_of(folder)) == 3
    assert "stored samples" in sample("seed=1", name="mine")
    with pytest.raises(ConfigError, match=r"mine holds samples of other weights"):
        sample("seed=2", name="mine")


def test_samples_of_another_precision_are_made_anew():
    """Though the type of matrix products is a field of training."""
    smoke = load_config("smoke")
    with_data = make_task(smoke)
    state = TrainState(0, {}, {}, {}, {})
    abouts = [
        generate_file._describe(config, with_data.with_config(config), state)
        for config in (smoke, with_fields(smoke, {"model.dtype": "bfloat16"}))
    ]
    assert len(set(map(generate_file._stamp, abouts))) == 2


def test_samples_of_other_weights_at_the_same_step_are_made_anew(folder):
    config, found = line_config("sample.num_samples=5"), []
    for rate in (0.001, 0.1):
        shutil.rmtree(folder / "checkpoints", ignore_errors=True)
        own = with_fields(config, {"train.learning_rate": rate, "train.num_steps": 4})
        train(own, folder)
        found.append(generate(own, folder, *load_run(own, folder))["raw"]["y"])
    assert np.abs(found[0] - found[1]).max() > 1e-3
    assert len(sets_of(folder)) == 2


def test_only_fields_of_sampling_may_differ_in_samples(folder):
    with pytest.raises(ConfigError, match="model.width: was 4, now 8"):
        run(None, ["model.width=8"], str(folder), "sample")
    # What does not train is not asked about, on whatever devices.
    run(None, ["train.batch_size=12"], str(folder), "sample", pictures=False)
    with pytest.raises(ConfigError, match="multiple of the 8 devices"):
        run(None, ["train.batch_size=12"], str(folder), "train")


def test_measuring_needs_the_runs_own_data(folder, steeper):
    with pytest.raises(ConfigError, match=r"(?s)data: was .*--accept=data"):
        run(None, [], str(folder), "evaluate")
    run(None, [], str(folder), "evaluate", pictures=False, accept=["data"])
    assert (folder / "table.json").is_file()
    task, _ = load_run(line_config(), folder, accept=["data"])
    assert task.facts.middle == 1.0


def test_an_absent_checkpoint_is_named(folder, tmp_path):
    with pytest.raises(CheckpointError, match="no checkpoint 3 .* there are"):
        load_run(line_config(), folder, "3")
    with pytest.raises(CheckpointError, match="train first"):
        load_run(line_config(), tmp_path / "nothing")


@dataclasses.dataclass(frozen=True)
class Part:
    name: str
    values: np.ndarray


def test_a_digest_changes_with_content_and_not_with_what_it_is_called():
    values = np.arange(6.0)
    one = digest({"a": Part("first", values), "b": ("x", 1)})
    assert one == digest({"b": ("x", 1), "a": Part("second", values.copy())})
    others = [
        {"a": Part("first", values.reshape(2, 3)), "b": ("x", 1)},
        {"a": Part("first", values.astype(np.float32)), "b": ("x", 1)},
        {"a": Part("first", values[::-1]), "b": ("x", 1)},
        {"a": Part("first", values), "b": ("x", 2)},
        {"a": Part("first", values), "b": ("y", 1)},
        {"a": Part("first", values), "c": ("x", 1)},
        {"a": Part("first", values), "b": ("x", 1, 0)},
    ]
    assert len({one, *map(digest, others)}) == 1 + len(others)


def test_rows_on_disk_are_looked_at_here_and_there():
    class Rows:
        dtype = np.dtype(np.int32)

        def __init__(self, content):
            self.content, self.shape = content, content.shape

        def __len__(self):
            return len(self.content)

        def __getitem__(self, rows):
            assert len(rows) <= 256
            return self.content[rows]

    content = np.arange(3000, dtype=np.int32)
    assert digest(Rows(content)) == digest(Rows(content.copy()))
    assert digest(Rows(content)) != digest(Rows(content + 1))
    assert digest(Rows(content)) != digest(Rows(content[:-1]))


def test_damaged_facts_are_named():
    facts = LineTask.learn(None, {"slope": 2.0, "offset": 1.0})
    plain = json.loads(json.dumps(to_plain(facts)))
    assert from_plain(type(facts), plain) == facts
    with pytest.raises(DataError, match=r"middle"):
        from_plain(type(facts), {"names": ["x"]})
    with pytest.raises(DataError, match=r"Expected `float`, got `str`.*middle"):
        from_plain(type(facts), {"names": ["x"], "middle": "far"})
    with pytest.raises(DataError, match="middle that are not finite"):
        to_plain(dataclasses.replace(facts, middle=float("nan")))
