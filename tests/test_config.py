"""Configurations: reading, overriding, every fault at once, JSON and back."""

import json
import sys

import jax
import pytest
from ml_collections import ConfigDict, config_dict

from ncgn_jax import config as config_module
from ncgn_jax.config import (
    CONFIG_VERSION,
    ConfigError,
    apply_overrides,
    check_known_fields,
    config_from_json,
    config_to_json,
    field_types,
    load_config,
    split_config_arguments,
    versions,
)
from ncgn_jax.faults import get_field
from ncgn_jax.run.preemption import Preempted, Preemption

FILE = """
from ml_collections import ConfigDict, config_dict

def get_config():
    config = ConfigDict()
    config.seed = 0
    config.name = "smoke"
    config.dmp = ConfigDict({"schedule": "exp", "sizes": (64, 32), "strength": 0.5})
    config.dmp.limit = config_dict.placeholder(int)
    config.train = ConfigDict({"batch_size": 8, "ema": True, "tags": ["a", "b"]})
    return config
"""


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "smoke.py"
    path.write_text(FILE)
    return load_config(path)


def test_load_locks_and_turns_lists_into_tuples(config):
    assert config.is_locked
    assert config.train.is_locked
    assert config.train.tags == ("a", "b")
    assert field_types(config)["dmp.limit"] is int


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("def get_config(:", "syntax error in .*bad.py, line 1"),
        ("raise SystemExit(3)", "does not run: SystemExit: 3"),
        ("def get_config(): raise SystemExit", r"get_config\(\) of .* fails: SystemE"),
        ("import no_such_module_here", "does not run.*no_such_module_here"),
        ("config = 3", r"does not define get_config\(\)"),
        (
            "def get_config(a): return a",
            "needs an argument, a: write --config",
        ),
        ("def get_config(): return {}", "gives a dict instead of a ConfigDict"),
        ("def get_config(): return 1 / 0", "ZeroDivisionError"),
    ],
)
def test_unusable_files_are_refused(tmp_path, text, words):
    path = tmp_path / "bad.py"
    path.write_text(text)
    with pytest.raises(ConfigError, match=words):
        load_config(path)


def test_a_signal_while_a_file_runs_ends_the_program(tmp_path):
    path = tmp_path / "slow.py"
    path.write_text("import os, signal\nos.kill(os.getpid(), signal.SIGTERM)\n1 + 1\n")
    with pytest.raises(Preempted), Preemption():
        load_config(path)


def test_missing_file_names_one_like_it(tmp_path):
    (tmp_path / "modelnet.py").write_text(FILE)
    with pytest.raises(ConfigError, match=r"did you mean 'modelnet'"):
        load_config(tmp_path / "modelnt.py")
    with pytest.raises(ConfigError, match=r"absent\.py$"):  # like none of them
        load_config(tmp_path / "absent.py")
    with pytest.raises(ConfigError, match="there is no configuration file"):
        load_config(tmp_path / "absent" / "x.py")
    with pytest.raises(ConfigError, match="there is no configuration file"):
        load_config(tmp_path)


def test_form_faults_come_together(tmp_path):
    path = tmp_path / "bad.py"
    path.write_text(
        "from ml_collections import ConfigDict\n"
        "def get_config():\n"
        "    return ConfigDict({'a': {'b': {'c': 1}, 'd': None}, 'e': {1, 2}})\n"
    )
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    message = str(caught.value)
    assert "3 faults" in message
    assert "a.b: found 'a section'; allowed: at most two levels" in message
    assert "a.d: found None" in message
    assert "e: found {1, 2}" in message


@pytest.mark.parametrize(
    ("override", "value"),
    [
        ("seed=3", 3),
        ("name=linear=2", "linear=2"),
        ("dmp.strength=1e-3", 1e-3),
        ("dmp.strength=2", 2.0),
        ("dmp.sizes=1,2,3", (1, 2, 3)),
        ("dmp.sizes=(7,)", (7,)),
        ("dmp.sizes=()", ()),
        ("dmp.limit=5", 5),
        ("dmp.limit=none", None),
        ("train.ema=false", False),
        ("train.ema=True", True),
        ("train.ema", True),
        ("train.tags=x, y", ("x", "y")),
        ("train.tags=HLA-A,IC50 (nM), 7", ("HLA-A", "IC50 (nM)", "7")),
        ("name=", ""),
    ],
)
def test_overrides_follow_the_type(config, override, value):
    result = apply_overrides(config, [override])
    found = get_field(result, override.partition("=")[0])
    assert found == value
    assert type(found) is type(value)
    assert result.is_locked


def test_overrides_leave_the_original(config):
    before = config_to_json(config)
    apply_overrides(config, ["dmp.limit=5", "seed=9"])
    assert config_to_json(config) == before


def test_every_bad_override_is_told_at_once(config):
    bad = {
        "dmp.schedul=linear": "dmp.schedul: unknown; fields of dmp: "
        "limit, schedule, sizes, strength (did you mean 'dmp.schedule'?)",
        "batch_size=4": "(did you mean 'train.batch_size'?)",
        "dpm.schedule=exp": "there is no section 'dpm'; sections: dmp, train "
        "(did you mean 'dmp.schedule'?)",
        "dmp=3": "dmp: is a section; its fields: dmp.limit, dmp.schedule",
        "seed=1.5": "seed: found '1.5'; allowed: an integer",
        "train.ema=maybe": "train.ema: found 'maybe'; allowed: true or false",
        "dmp.strength=abc": "dmp.strength: found 'abc'; allowed: a number",
        "dmp.sizes=1,b": "dmp.sizes: found '1,b'; allowed: a tuple of int",
        "dmp.limit=x": "dmp.limit: found 'x'; allowed: an integer",
        "train.batch_size": "train.batch_size: found 'no value'",
    }
    with pytest.raises(ConfigError) as caught:
        apply_overrides(config, list(bad))
    message = str(caught.value)
    assert f"{len(bad)} faults" in message
    for words in bad.values():
        assert words in message


def test_split_keeps_the_rest_in_order():
    argv = [
        "main",
        "--config=a.py",
        "--workdir",
        "runs/x",
        "--config.dmp.schedule=linear",
        "--config.dmp.strength",
        "-0.5",
        "-config.train.ema",
        "--mode=train",
        "--configure=1",
        "--",
        "--config.x=1",
    ]
    path, overrides, rest = split_config_arguments(argv)
    assert path == "a.py"
    assert overrides == ["dmp.schedule=linear", "dmp.strength=-0.5", "train.ema"]
    assert rest == [
        "main",
        "--workdir",
        "runs/x",
        "--mode=train",
        "--configure=1",
        "--",
        "--config.x=1",
    ]


def test_split_path_as_next_argument_and_absent():
    assert split_config_arguments(["--config", "a.py"]) == ("a.py", [], [])
    assert split_config_arguments(["m"]) == (None, [], ["m"])
    with pytest.raises(ConfigError, match=r"more than once: a.py, b.py"):
        split_config_arguments(["--config=a.py", "--config=b.py"])
    with pytest.raises(ConfigError, match="needs the path"):
        split_config_arguments(["--config", "--mode=train"])


def test_known_fields(config):
    check_known_fields(config, config)
    other = apply_overrides(config, ["dmp.limit=4"]).copy_and_resolve_references()
    other.unlock()
    other.train.batch_sise = 3
    other.dmp.strength = 1
    del other["name"]
    other.name = 4
    with pytest.raises(ConfigError) as caught:
        check_known_fields(other, config)
    message = str(caught.value)
    assert "2 faults" in message
    assert "(did you mean 'train.batch_size'?)" in message
    assert "name: found 4; allowed: text" in message


def test_json_round_trip(config):
    restored, version = config_from_json(config_to_json(config))
    assert version == CONFIG_VERSION
    assert restored.to_dict() == config.to_dict()
    assert isinstance(restored.dmp.sizes, tuple)
    assert restored.is_locked
    assert config_to_json(restored) == config_to_json(config)
    nested = ConfigDict(
        {"a": {"b": ((1, 2), ("x",))}, "c": config_dict.placeholder(int)}
    )
    assert config_from_json(config_to_json(nested)).config.a.b == ((1, 2), ("x",))


@pytest.mark.parametrize(
    "text",
    [
        "[1]",
        "null",
        "{",
        '{"config_version": 99}',
        '{"a.b": 1}',
        '{"a": {"__class__": 1}}',
        '{"a":' * 9999,
    ],
)
def test_what_is_no_stored_configuration_is_refused(text):
    with pytest.raises(ConfigError, match="not a stored configuration: "):
        config_from_json(text)


def test_versions_name_what_made_a_result(tmp_path, monkeypatch):
    found = versions()
    assert json.loads(json.dumps(found)) == found
    assert found["jax"] == jax.__version__
    assert found["device"] == jax.local_devices()[0].device_kind
    # A package installed into another project's checkout must not report that commit.
    monkeypatch.setattr(config_module, "__file__", str(tmp_path / "p" / "config.py"))
    assert versions()["git"] is None


def test_an_argument_may_follow_the_path(tmp_path):
    path = tmp_path / "sizes.py"
    path.write_text(
        "from ml_collections import ConfigDict\n"
        "def get_config(size='small'): return ConfigDict({'size': size})\n"
    )
    assert load_config(f"{path}:large").size == "large"
    assert load_config(path).size == "small"
    path.write_text(FILE)
    with pytest.raises(ConfigError, match="takes no argument; found 'large'"):
        load_config(f"{path}:large")


def test_a_file_may_import_its_neighbours(tmp_path):
    for folder, value in (("one", 1), ("two", 2)):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "neighbour.py").write_text(f"VALUE = {value}\n")
        (tmp_path / folder / "mine.py").write_text(
            "from ml_collections import ConfigDict\n"
            "from neighbour import VALUE\n"
            "def get_config(): return ConfigDict({'value': VALUE})\n"
        )
    before = list(sys.path)
    found = [load_config(tmp_path / f / "mine.py").value for f in ("one", "two", "one")]
    assert found == [1, 2, 1]
    assert sys.path == before


def test_no_before_a_field_is_false():
    _, overrides, rest = split_config_arguments(["m", "--noconfig.a.b", "--nothing"])
    assert overrides == ["a.b=false"]
    assert rest == ["m", "--nothing"]


def test_items_have_the_type_that_is_said():
    config = ConfigDict({"genes": ()}).lock()
    assert apply_overrides(config, ["genes=1,2"]).genes == (1, 2)
    names = apply_overrides(config, ["genes=1,2"], {"genes": str})
    assert names.genes == ("1", "2")


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("IC50 (nM)", ("IC50 (nM)",)),
        ("IC50 (nM),log(P)", ("IC50 (nM)", "log(P)")),
        ("(nM) IC50", ("(nM) IC50",)),
        ("(IC50 (nM), gap)", ("IC50 (nM)", "gap")),
        ("(a),(b)", ("(a)", "(b)")),
        ("(a, b)", ("a", "b")),
        ("('a, b', 'c')", ("a, b", "c")),
        ('"a, b"', ("a, b",)),
        ("'a', b", ("a", "b")),
        ("1,2", ("1", "2")),
        ("gap", ("gap",)),
        ("()", ()),
    ],
)
def test_names_may_have_brackets_and_commas(config, text, names):
    with config.unlocked():
        config.train.names = ()
    found = apply_overrides(config, [f"train.names={text}"], {"train.names": str})
    assert found.train.names == names
