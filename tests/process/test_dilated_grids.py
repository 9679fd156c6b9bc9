"""Tests dilated time grids: published numbers, the window, refused arguments."""

import numpy as np
import pytest

from ncgn_jax.process import dilated_grids, make_time_grid
from ncgn_jax.process.dilated_grids import DILATED_GRIDS, make_dilated_grid

DILATED = DILATED_GRIDS[1:]
PUBLISHED = {
    "dilated_vp": [0, 0.039062, 0.078125, 0.117188, 0.15625]
    + [0.367188, 0.578125, 0.789062, 1],
    "dilated_ve": [0, 0.210938, 0.421875, 0.632812, 0.84375]
    + [0.882812, 0.921875, 0.960938, 1],
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_grids_are_the_published_ones(name):
    times = make_dilated_grid(name, 8, dim=1024, kappa=5.0)
    np.testing.assert_allclose(times, PUBLISHED[name], atol=1e-6)


@pytest.mark.parametrize("name", DILATED_GRIDS)
@pytest.mark.parametrize("num_steps", [1, 2, 7, 100])
@pytest.mark.parametrize("dim", [1, 16, 26, 1024, 10**6])
@pytest.mark.parametrize("kappa", [0.5, 3.0, 5.0])
def test_times_rise_from_noise_to_data(name, num_steps, dim, kappa):
    times = make_dilated_grid(name, num_steps, dim, kappa)
    assert times.shape == (num_steps + 1,)
    assert times.dtype == np.float64
    assert times[0] == 0.0
    assert times[-1] == 1.0
    assert (np.diff(times) > 0).all()


@pytest.mark.parametrize("dim", [64, 10**4, 10**6])
def test_half_of_the_steps_lie_in_the_window_and_share_it_equally(dim):
    kappa, num_steps = 3.0, 40
    window, half = kappa / np.sqrt(dim), num_steps // 2
    grids = {name: make_dilated_grid(name, num_steps, dim, kappa) for name in DILATED}
    np.testing.assert_allclose(grids["dilated_vp"][half], window)
    np.testing.assert_allclose(1 - grids["dilated_ve"][half], window)
    inside = {
        "dilated_vp": grids["dilated_vp"][: half + 1],
        "dilated_ve": grids["dilated_ve"][half:],
        # Here the noise falls by equal amounts.
        "dilated_ve_trigonometric": np.sqrt(
            1 - grids["dilated_ve_trigonometric"][half:] ** 2
        ),
    }
    for name, places in inside.items():
        steps = np.abs(np.diff(places))
        np.testing.assert_allclose(steps, window / half, rtol=1e-6, err_msg=name)
    outside = {
        "dilated_vp": grids["dilated_vp"][half:],
        "dilated_ve": grids["dilated_ve"][: half + 1],
        "dilated_ve_trigonometric": grids["dilated_ve_trigonometric"][: half + 1],
    }
    for name, places in outside.items():
        steps = np.diff(places)
        np.testing.assert_allclose(steps, steps[0], err_msg=name)


@pytest.mark.parametrize("name", DILATED)
def test_the_two_halves_meet(name):
    dilate = {
        "dilated_vp": dilated_grids.dilate_vp,
        "dilated_ve": dilated_grids.dilate_ve,
        "dilated_ve_trigonometric": dilated_grids.dilate_ve_trigonometric,
    }[name]
    below, at = dilate(np.array([0.5 - 1e-12, 0.5]), 400, 5.0)
    np.testing.assert_allclose(below, at, atol=1e-11)


@pytest.mark.parametrize("name", DILATED)
@pytest.mark.parametrize("kappa", [4.0, 5.0])
def test_a_window_that_is_all_of_time_dilates_nothing(name, kappa):
    times = make_dilated_grid(name, 10, dim=16, kappa=kappa)
    np.testing.assert_array_equal(times, make_time_grid("uniform", 10))
    assert (make_dilated_grid(name, 10, dim=16, kappa=3.9) != times).any()


def test_a_grid_is_accepted_as_times():
    times = make_dilated_grid("dilated_ve", 50, dim=1024)
    np.testing.assert_array_equal(make_time_grid(times), times)


def test_bad_numbers_are_refused():
    with pytest.raises(ValueError, match="unknown dilated grid 'vp'; valid: constant"):
        make_dilated_grid("vp", 8, 100)
    with pytest.raises(ValueError, match="num_steps must be at least 1, got 0"):
        make_dilated_grid("constant", 0, 100)
    with pytest.raises(ValueError, match="dim must be at least 1, got 0"):
        make_dilated_grid("constant", 8, 0)
    with pytest.raises(ValueError, match="kappa must be positive, got 0"):
        make_dilated_grid("dilated_vp", 8, 100, kappa=0)
