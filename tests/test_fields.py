"""Rows of fields: defaults, checks, and one meaning of a name in all domains."""

import math
from pathlib import Path

import pytest
from ml_collections import ConfigDict

from ncgn_jax import main
from ncgn_jax.config import CONFIG_VERSION, apply_overrides, with_fields
from ncgn_jax.domains import (
    DOMAINS,
    complete_config,
    default_config,
    set_fields,
    validate,
)
from ncgn_jax.faults import ConfigError, Faults
from ncgn_jax.fields import (
    Field,
    by_section,
    check_rows,
    each,
    number,
    one_of,
    some_of,
    whole,
    with_defaults,
)
from ncgn_jax.help import format_page

REPOSITORY = Path(__file__).resolve().parent.parent
# Fields that differ between domains, with the reason.
DIFFERENT = {
    "data.source": "each domain has sources of its own",
    "model.network": "each domain has networks of its own",
}


def test_faults_of_all_rows_together():
    rows = (
        Field("dmp.schedule", "exp", "help", one_of(["linear", "relu", "exp"])),
        Field("dmp.k", 1, "help", whole()),
        Field("dmp.flag", 1, "help", whole()),
        Field("dmp.absent", 1, "help", whole()),
        Field("dmp.rate", 0.5, "help", number(0.0, 1.0)),
        Field("dmp.open", 0.5, "help", number(0.0, 1.0, without_ends=True)),
        Field("x", 0.0, "help", number(0)),
        Field("y", 0.0, "help", number()),
        Field("some", (), "help", some_of("ab")),
        Field("sizes", (), "help", each(whole(2, 4))),
        Field("names", (), "help", items=str),
        Field("unset", None, "help", whole(), int),
    )
    values = {"schedule": "expp", "k": 0, "rate": 1.0, "open": 1.0, "flag": True}
    config = ConfigDict({"dmp": values, "x": math.nan, "y": math.inf, "unset": None})
    config.some, config.sizes, config.names = ("a", "c"), (2, 5), ("a", 1)
    faults = Faults()
    check_rows(config, rows, faults)
    assert faults.lines == [
        "dmp.schedule: found 'expp'; allowed: linear, relu, exp (did you mean 'exp'?)",
        "dmp.k: found 0; allowed: an integer of at least 1",
        "dmp.flag: found True; allowed: an integer of at least 1",
        "dmp.absent: missing from the configuration",
        "dmp.open: found 1.0; allowed: a finite number, 0.0 < value < 1.0",
        "x: found nan; allowed: a finite number, 0 <= value",
        "y: found inf; allowed: a finite number",
        "some: found 'c'; allowed: a, b",
        "sizes: found 5; allowed: an integer, 2 <= value <= 4",
        "names: found 1; allowed: items of type str",
    ]


def test_only_known_fields_get_other_defaults():
    rows = (Field("a.b", 1, "help"),)
    assert with_defaults(rows, {"a.b": 2})[0].default == 2
    with pytest.raises(KeyError, match="a.c"):
        with_defaults(rows, {"a.c": 2})


@pytest.mark.parametrize("task", DOMAINS)
def test_defaults_are_allowed_and_every_field_is_explained(task):
    rows = DOMAINS[task].fields
    assert len({row.name for row in rows}) == len(rows)
    faults = Faults()
    check_rows(default_config(task), rows, faults)
    assert faults.lines == []
    assert sum(len(group) for _, group in by_section(rows)) == len(rows)
    for row in rows:
        assert row.help.endswith("."), row.name
        assert row.help[0].isupper() or row.help[0].isdigit(), row.name
        assert row.default is not None or row.kind, row.name


def test_a_name_means_the_same_in_all_domains():
    """One text, type and check for a name; defaults may differ."""
    found = {}
    for task, kind in DOMAINS.items():
        for row in kind.fields:
            if row.name in DIFFERENT:
                continue
            said = row.help, row.type, row.check and row.check.words
            first = found.setdefault(row.name, (task, said))
            assert said == first[1], f"{row.name} in {first[0]} and {task}"


@pytest.mark.parametrize("task", ["point_clouds", "images", "molecules"])
def test_guidance_is_off_at_0_in_all_domains(task):
    config = default_config(task)
    assert config.sample.guidance == 0
    with pytest.raises(ConfigError, match="sample.guidance: found -1.0"):
        validate(with_fields(config, {"sample.guidance": -1.0}))


@pytest.mark.parametrize(
    ("task", "fields", "how"),
    [
        ("point_clouds", {}, "0 without model.class_conditional"),
        (
            "point_clouds",
            {"model.class_conditional": True, "model.label_dropout": 0.0},
            "0 without model.label_dropout",
        ),
        ("images", {"model.label_dropout": 0.0}, "0 without model.label_dropout"),
        ("molecules", {}, "0 without model.conditions"),
    ],
)
def test_guidance_without_what_it_needs_is_refused(task, fields, how):
    fields = {**fields, "sample.guidance": 1.5}
    with pytest.raises(
        ConfigError, match=f"sample.guidance: found 1.5; allowed: {how}"
    ):
        validate(with_fields(default_config(task), fields))


def test_items_of_empty_tuples_are_names():
    config = default_config("expression").lock()
    named = set_fields(config, ["sample.hidden_genes=1,2", "data.genes=HLA-A"])
    assert named.sample.hidden_genes == ("1", "2")
    assert named.data.genes == ("HLA-A",)


def test_stored_guidance_of_images_is_converted():
    """Version 1 wrote g of free + g (told - free): 1 was none."""
    stored = default_config("images").to_dict()
    stored["sample"]["guidance"] = 1.5
    stored["dmp"]["random_buckets"] = True
    del stored["sample"]["random_buckets"]
    config = complete_config(ConfigDict(stored), version=1)
    assert config.sample.guidance == 0.5
    assert config.sample.random_buckets
    again = complete_config(config, CONFIG_VERSION)
    assert again.sample.guidance == 0.5


def test_stored_fields_that_are_gone():
    stored = default_config("expression").to_dict()
    stored["task"] = "transcriptomics"
    stored["train"]["ema_warm_up"] = True
    config = complete_config(ConfigDict(stored), version=1)
    assert config.task == "expression"
    assert "ema_warm_up" not in config.train
    validate(config)
    stored["train"]["ema_warm_up"] = False
    with pytest.raises(ConfigError, match="train.ema_warm_up=False is gone"):
        complete_config(ConfigDict(stored), version=1)


def test_help_lists_every_field_with_default_and_meaning(capsys):
    main.main(["main", "--help"])
    said = capsys.readouterr().out
    for task, kind in DOMAINS.items():
        for row in kind.fields:
            assert f"--config.{row.name}=" in said, (task, row.name)
            assert row.help.split()[0] in said
    for flag in ("--workdir=", "--mode=", "--checkpoint="):
        assert flag in said


def test_help_of_a_configuration_shows_its_values(capsys):
    arguments = [
        f"--config={REPOSITORY / 'configs' / 'digits.py'}",
        "--config.sample.num_steps=7",
        "--help",
    ]
    main.main(["main", *arguments])
    said = capsys.readouterr().out
    assert "--config.sample.num_steps=7\n" in said
    assert "--config.train.optimizer=muon\n" in said
    assert "--config.autoencoder" not in said


def test_the_page_of_fields_is_up_to_date():
    page = REPOSITORY / "docs" / "reference" / "fields.md"
    assert page.read_text() == format_page(), (
        "python -m ncgn_jax.help > docs/reference/fields.md"
    )


def test_the_page_has_every_field_once():
    """A field that domains share stands in one line, and names its domains."""
    lines = format_page().splitlines()
    rows = {(row.name, row.help) for kind in DOMAINS.values() for row in kind.fields}
    for name, meaning in rows:
        start = f"| `{name}` | {meaning.replace('|', chr(92) + '|')} |"
        assert sum(line.startswith(start) for line in lines) == 1, name
    (guidance,) = (line for line in lines if line.startswith("| `sample.guidance` "))
    assert guidance.endswith("| Point clouds, Molecules, Images |")


def test_overrides_of_unknown_tasks_are_still_read():
    config = ConfigDict({"task": "none", "a": 1}).lock()
    assert set_fields(config, ["a=2"]).a == apply_overrides(config, ["a=2"]).a == 2
