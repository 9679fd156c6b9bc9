"""A new domain is a task class and one line in the registry."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest

from ncgn_jax import domains
from ncgn_jax.config import with_fields
from ncgn_jax.evaluate import evaluate
from ncgn_jax.generate import generate
from ncgn_jax.loop import train
from tests import toy_domain

SMALL = {
    "data.num_points": 8, "train.num_steps": 4, "train.batch_size": 32,
    "train.checkpoint_every_steps": 2, "model.convolution": "gcn",
    "train.decay": "constant", "sample.num_samples": 6, "sample.num_steps": 3,
    "sample.sampler": "euler", "evaluate.weights": ("ema",),
}  # fmt: skip


def test_it_is_short():
    lines = Path(toy_domain.__file__).read_text().splitlines()
    assert len([line for line in lines if line.strip()]) <= 120


def test_a_new_domain_trains_samples_evaluates_and_resumes(tmp_path, monkeypatch):
    monkeypatch.setitem(domains.DOMAINS, "marks", toy_domain.MarkTask)
    config = with_fields(domains.default_config("marks"), SMALL)
    domains.validate(config)
    train(with_fields(config, {"train.num_steps": 2}), tmp_path / "parts")
    resumed = train(config, tmp_path / "parts")
    assert int(resumed.step) == 4
    task = domains.make_task(config)
    samples = generate(config, tmp_path / "parts", task, resumed)
    assert samples["ema"]["points"].shape == (6, 8, 3)
    evaluate(config, tmp_path / "parts", task, samples, 4)
    table = json.loads((tmp_path / "parts" / "table.json").read_text())
    assert set(table["rows"]) == {"ema", "train"}
    assert table["meta"]["data_set"] == "marked circle"


@pytest.mark.thorough
def test_its_resumed_run_equals_an_uninterrupted_one(tmp_path, monkeypatch):
    monkeypatch.setitem(domains.DOMAINS, "marks", toy_domain.MarkTask)
    config = with_fields(domains.default_config("marks"), SMALL)
    whole = train(config, tmp_path / "whole")
    train(with_fields(config, {"train.num_steps": 2}), tmp_path / "parts")
    resumed = train(config, tmp_path / "parts")
    jax.tree.map(np.testing.assert_array_equal, whole, resumed)
