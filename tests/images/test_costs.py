"""Multiply-adds: counted by hand, of training and samples, in comparisons."""

import json

import numpy as np
import pytest

import ncgn_jax.compare
from ncgn_jax.compare import compare
from ncgn_jax.comparison.variants import make_variants
from ncgn_jax.config import config_to_json
from ncgn_jax.domains import make_task
from ncgn_jax.generate import read_run_config
from ncgn_jax.images.costs import count_macs, sampling_macs, training_macs
from ncgn_jax.images.task import ImageTask
from ncgn_jax.tasks.sampling import Sampling, Stretch
from tests.images.image_tasks import REPOSITORY, SMALL, small_task


def test_multiply_adds_are_those_counted_by_hand():
    """Per token 12 D^2 a block; per image 6 D^2 of modulation; attended pairs 2 D."""
    task = small_task("model.width=128", "model.num_layers=2", "dmp.patches=(2,)",
                      "dmp.num_neighbors=0")  # fmt: skip
    width, layers, tokens = 128, 2, 16
    block = tokens * 12 * width**2 + 6 * width**2 + 2 * tokens**2 * width
    ends = tokens * (2 * 4 * width) + 2 * width**2 + 256 * width + width**2
    wanted = layers * block + ends
    assert task.forward_macs[0] == pytest.approx(wanted, rel=0.06)
    # The gradient in data is not asked for, so a step costs nearly three passes.
    trained = count_macs(task.model, with_gradient=True)[0]
    assert 2.5 < trained / task.forward_macs[0] < 3.5
    costs = task.costs(10)
    assert costs["train_tmac"] == pytest.approx(10 * 16 * trained / 1e12)
    assert costs["sample_mmac"] == pytest.approx(2 * 5 * task.forward_macs[0] / 1e6)


def test_training_is_the_sum_over_images_of_all_steps():
    """3 steps of 4 images of 10, and 2 steps of 8 images of 100."""
    counts = np.array([3, 2]), np.array([4, 8]), np.array([10, 100])
    assert training_macs(*counts) == 120 + 1600


@pytest.mark.parametrize(
    ("sampler", "guidance", "wanted"),
    [
        ("euler", 0.0, 230),
        ("ancestral", 0.0, 230),
        ("heun", 0.0, 460),
        ("euler", 1.0, 460),
        ("heun", 0.5, 920),
    ],
)
def test_guidance_and_stretches_enter_the_cost_of_a_sample(sampler, guidance, wanted):
    """3 steps of 10 and 2 of 100; Heun asks twice a step, guidance twice a time."""
    stretches = [
        Stretch(0, 0, np.array([0.0, 0.1, 0.2, 0.5])),
        Stretch(1, 3, np.array([0.5, 0.8, 1.0])),
    ]
    model, macs = small_task().model, np.array([10, 100])
    sampling = Sampling(sampler, guidance=guidance)
    assert sampling_macs(model, stretches, sampling, macs) == wanted


def with_macs(*overrides):
    """A task whose images cost 1, 4 and 16 GMAC in training, 1, 10, 100 MMAC else."""
    task = small_task("train.batch_size=128", "sample.num_steps=3", *overrides)
    task = ImageTask(task.config, task.dataset)
    vars(task).update(
        forward_macs=np.array([1e6, 1e7, 1e8]),
        _training_macs=np.array([1e9, 4e9, 16e9]),
        bucket_of_step=lambda steps: np.array([0, 0, 1, 0, 2, 1, 0, 0, 1, 2])[steps],
    )
    return task


def test_costs_of_a_task():
    plain, equal = with_macs(), with_macs("dmp.equal_tokens=True")
    # Of 128 images 5 steps of the first patches, 3 of the second and 2 of the third;
    # with equal tokens every step costs what 128 images of the first do.
    assert plain.costs(10)["train_tmac"] == pytest.approx(0.128 * (5 + 12 + 32))
    assert equal.costs(10)["train_tmac"] == pytest.approx(1.28)
    assert equal.costs(2)["train_tmac"] == pytest.approx(0.256)
    assert equal.step_macs() == pytest.approx(128e9)
    shares = plain.model.shares
    wanted = 128e9 * (shares[0] + 4 * shares[1] + 16 * shares[2])
    assert plain.step_macs() == pytest.approx(wanted)
    # One step in each bucket, by Heun.
    assert plain.costs(1)["sample_mmac"] == pytest.approx(222)
    guided = with_macs("sample.guidance=2.0", "sample.sampler=euler")
    assert guided.costs(1)["sample_mmac"] == pytest.approx(222)
    euler = with_macs("sample.sampler=euler")
    assert euler.costs(1)["sample_mmac"] == pytest.approx(111)


@pytest.mark.thorough
@pytest.mark.slow
def test_comparisons_at_equal_multiply_adds(tmp_path, monkeypatch):
    """Each run has the steps that its patches leave it, and its own costs in its row.

    Though all are evaluated by one task.
    """
    monkeypatch.setattr(ncgn_jax.compare, "time_training_steps", lambda *_: 0.25)
    monkeypatch.setattr(ncgn_jax.compare, "time_sampling", lambda *_: 2.0)

    def train_and_sample(run, tasks):
        """Makes up the samples: costs do not depend on them."""
        run.folder.mkdir(parents=True)
        (run.folder / "config.json").write_text(config_to_json(run.config))
        images = np.random.default_rng(0).integers(0, 255, (6, 8, 8, 1))
        labels = np.arange(6, dtype=np.int32)
        return {"ema": {"images": images.astype(np.uint8), "labels": labels}}, 1

    monkeypatch.setattr(ncgn_jax.compare, "train_and_sample", train_and_sample)
    variants = make_variants(
        str(REPOSITORY / "configs" / "digits.py"),
        [
            *SMALL, "train.optimizer=adam", "sample.sampler=euler", "dmp.patches=(2,1)",
            "evaluate.classifier_steps=2", "evaluate.max_images=16",
        ],
        explicit=["dmp:", "large: dmp.patches=(4,)"],
    )  # fmt: skip
    text = compare(variants, tmp_path, num_seeds=1, tmac=3e-5)
    assert "3e-05 TMAC of training each" in text
    assert "train TMAC" in text
    assert "sample MMAC" in text
    steps, rows, tasks = {}, {}, {}
    for variant in variants:
        folder = tmp_path / variant.folder / f"seed{variant.config.seed}"
        name = variant.name
        result = json.loads((folder / "result.json").read_text())
        (rows[name],) = result["rows"].values()
        steps[name] = read_run_config(folder).train.num_steps
        tasks[name] = make_task(variant.config)
        assert rows[name]["train_tmac"] == pytest.approx(3e-5, rel=0.15)
        own = tasks[name].costs(steps[name])["train_tmac"]
        assert rows[name]["train_tmac"] == pytest.approx(own)
    assert steps["large"] > 2.5 * steps["dmp"] > 15
    # Five Euler steps, of which dmp takes some with its smallest patches.
    coarse, fine = tasks["dmp"].forward_macs / 1e6
    count = (rows["dmp"]["sample_mmac"] - 5 * coarse) / (fine - coarse)
    assert count == pytest.approx(round(count), abs=1e-6)
    assert 1 <= round(count) <= 4
    (largest,) = tasks["large"].forward_macs / 1e6
    assert rows["large"]["sample_mmac"] == pytest.approx(5 * largest)
