"""Generated clouds against the closed form: zero for the truth, large for noise."""

from pathlib import Path

import numpy as np
import pytest

from ncgn_jax.config import apply_overrides, load_config
from ncgn_jax.domains import make_task
from ncgn_jax.metrics.table import format_table
from ncgn_jax.point_clouds.primitives import BOX, make_primitives
from ncgn_jax.point_clouds.truth import truth_row

CONFIG = Path(__file__).resolve().parents[2] / "configs" / "primitives.py"


def test_truth_has_no_error():
    clouds, _, _ = make_primitives(12, 100, seed=3)
    row = truth_row(clouds)
    assert row["truth_rms"] < 1e-4
    assert row["truth_in_prior"] == 1.0


def test_noise_of_known_size_is_measured():
    clouds, _, _ = make_primitives(8, 400, seed=1)
    noise = np.random.default_rng(0).normal(scale=0.02, size=clouds.shape)
    # Only the part along the normal counts, and the fit takes up a little of it.
    np.testing.assert_allclose(truth_row(clouds + noise)["truth_rms"], 0.02, rtol=0.05)


def test_sizes_outside_the_prior_are_seen():
    clouds, _, _ = make_primitives(8, 100, seed=2)
    assert truth_row(2.5 * clouds)["truth_in_prior"] == 0.0


def test_missing_classes_show_as_total_variation():
    clouds, labels, _ = make_primitives(30, 100, seed=4)
    row = truth_row(clouds[labels == BOX])
    # 1/2 (|1 - 1/3| + 1/3 + 1/3) = 2/3.
    np.testing.assert_allclose(row["truth_class_distance"], 2 / 3)


def test_collapsed_clouds_count_as_wrong():
    clouds = np.zeros((4, 50, 3))
    row = truth_row(clouds)
    assert np.isnan(row["truth_rms"])
    assert row["truth_in_prior"] == 0.0
    assert row["truth_clouds"] == 0
    np.testing.assert_allclose(row["truth_class_distance"], 1.0)


def test_only_a_subset_is_fitted():
    clouds, _, _ = make_primitives(9, 60, seed=0)
    assert truth_row(clouds, max_clouds=5)["truth_clouds"] == 5


@pytest.mark.slow
def test_task_adds_truth_to_samples_and_anchors():
    fields = [
        "data.num_points=64", "data.num_train=24", "data.num_test=12",
        "evaluate.max_matched_clouds=0", "evaluate.max_emd_clouds=0",
    ]  # fmt: skip
    task = make_task(apply_overrides(load_config(CONFIG), fields))
    rows = task.evaluate({"ema": {"points": task.dataset.train[:10]}})
    assert rows["ema"]["truth_rms"] < 1e-3
    assert rows["train"]["truth_rms"] < 1e-3
    assert rows["train"]["truth_in_prior"] == 1.0
    assert rows["noise"]["truth_rms"] > 0.5
    assert rows["noise"]["truth_in_prior"] == 0.0
    assert "truth_rms" not in rows["origin"]
    assert "rms e-2" in format_table(rows, task.columns, "caption")
