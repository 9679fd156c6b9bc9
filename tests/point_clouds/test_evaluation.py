"""A row of clouds holds what its parts return; W is read beside its floor."""

import dataclasses

import numpy as np
import pytest

from ncgn_jax.metrics.table import format_table
from ncgn_jax.metrics.transport import wasserstein_flat, wasserstein_matched
from ncgn_jax.point_clouds import evaluation
from ncgn_jax.point_clouds.anchors import ANCHOR_NAMES
from ncgn_jax.point_clouds.columns import (
    POINT_CLOUD_COLUMNS,
    add_floor,
    warn_below_floor,
)
from ncgn_jax.point_clouds.distances import chamfer_matrix, minimum_matching_distance
from ncgn_jax.point_clouds.evaluation import (
    EvaluationSettings,
    evaluate_anchors,
    evaluate_clouds,
    prepare_reference,
)

SETTINGS = EvaluationSettings(max_matched_clouds=4, max_emd_clouds=3)


def boxes(seed, num=12):
    """Flat boxes of random sides inside +-0.25."""
    draw = np.random.default_rng(seed)
    sides = draw.uniform(0.05, 0.25, size=(num, 1, 3))
    return (sides * draw.uniform(-1, 1, size=(num, 20, 3))).astype(np.float32)


def test_a_row_holds_what_the_measures_return():
    generated, reference = boxes(0), boxes(1)
    row = evaluate_clouds(generated, reference, SETTINGS)
    assert row["w_flat"] == pytest.approx(wasserstein_flat(generated, reference))
    matched = wasserstein_matched(generated, reference, max_clouds=4)
    assert row["w_matched"] == pytest.approx(matched.value)
    assert row["w_matched_generated"] == 4
    distances = chamfer_matrix(4 * generated, 4 * reference)
    assert row["chamfer_mmd"] == pytest.approx(
        minimum_matching_distance(distances), rel=1e-5
    )
    assert (row["chamfer_clouds"], row["emd_clouds"]) == (12, 3)
    assert row["spread"] == pytest.approx(generated.std(), rel=1e-5)
    assert row["mean_extent"] == pytest.approx(4 * np.ptp(generated, 1).max(1).mean())
    assert all(isinstance(value, (int, float)) for value in row.values())
    assert {column.key for column in POINT_CLOUD_COLUMNS} - set(row) == {"w_over_floor"}


def test_a_prepared_reference_changes_nothing_and_is_computed_once(monkeypatch):
    generated, reference = boxes(0, num=7), boxes(1)
    plain = evaluate_clouds(generated, reference, SETTINGS)
    prepared = prepare_reference(reference, SETTINGS)
    calls = []

    def count(a, b=None):
        calls.append(b is None)
        return chamfer_matrix(a, b)

    monkeypatch.setattr(evaluation, "chamfer_matrix", count)
    assert evaluate_clouds(generated, prepared, SETTINGS) == pytest.approx(plain)
    assert calls.count(True) == 1  # inside the generated set only
    assert calls.count(False) == 1
    other = dataclasses.replace(SETTINGS, seed=1)
    with pytest.raises(ValueError, match="prepared for"):
        evaluate_clouds(generated, prepared, other)


def test_expensive_measures_can_be_left_out():
    settings = EvaluationSettings(max_matched_clouds=0, max_emd_clouds=0)
    row = evaluate_clouds(boxes(0), boxes(1), settings)
    assert "w_matched" not in row
    assert "emd_1nna" not in row
    assert "1-NNA EMD" not in format_table({"train": row}, POINT_CLOUD_COLUMNS)


def test_scores_do_not_depend_on_the_scaling_of_the_input():
    large = dataclasses.replace(SETTINGS, half_width=1.0)
    small = evaluate_clouds(boxes(0), boxes(1), SETTINGS)
    scaled = evaluate_clouds(4 * boxes(0), 4 * boxes(1), large)
    by_scale = {"w_flat", "w_matched", "spread", "spread_reference"}
    for key, value in small.items():
        expected = 4 * value if key in by_scale else value
        assert scaled[key] == pytest.approx(expected, rel=1e-5), key


def test_anchor_rows_order_as_they_must():
    rows = evaluate_anchors(boxes(0, 40), boxes(1, 40), SETTINGS, num_clouds=40)
    assert set(rows) == set(ANCHOR_NAMES)
    # What W cannot see, and the others can.
    assert rows["origin"]["w_flat"] < rows["train"]["w_flat"] < rows["noise"]["w_flat"]
    assert rows["train"]["w_matched"] < rows["origin"]["w_matched"]
    assert rows["origin"]["chamfer_1nna"] > 0.9 > rows["train"]["chamfer_1nna"]
    assert rows["held_out"]["num_reference"] == 20


def test_w_below_the_floor_is_a_warning():
    sizes = {"num_generated": 5, "num_reference": 5}
    rows = {
        "train": {"w_flat": 0.01204, **sizes},
        "origin": {"w_flat": 0.00905, **sizes},
        "good": {"w_flat": 0.01190, **sizes},
        "narrow": {"w_flat": 0.01180, **sizes},
        "few": {"w_flat": 0.01204, "num_generated": 4, "num_reference": 5},
    }
    lines = warn_below_floor(rows)
    assert [line.split(":")[0] for line in lines] == ["narrow", "few"]
    assert "collapse or narrow spread, not success" in lines[0]
    assert "cannot be read" in warn_below_floor({"good": rows["good"]})[0]


@pytest.mark.parametrize(
    "change", [{"half_width": 0}, {"max_chamfer_clouds": 1}, {"max_emd_clouds": 1}]
)
def test_wrong_settings_are_refused(change):
    with pytest.raises(ValueError, match=next(iter(change))):
        EvaluationSettings(**change)


def test_w_stands_beside_its_ratio_to_the_floor():
    rows = add_floor({"train": {"w_flat": 0.5}, "model": {"w_flat": 2.0}, "none": {}})
    assert rows["model"]["w_over_floor"] == 4.0
    assert rows["train"]["w_over_floor"] == 1.0
    assert rows["none"] == {}
