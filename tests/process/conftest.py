"""Lists the schedules that drive every test of the process, and enables x64."""

import jax
import numpy as np
import pytest

from ncgn_jax import process

SCHEDULES = {
    "linear": ("linear", {}),
    "linear_sigma_min": ("linear", {"sigma_min": 1e-3}),
    "trigonometric": ("trigonometric", {}),
    "ddpm_linear": ("ddpm_linear", {}),
    "ddpm_linear_short": ("ddpm_linear", {"num_steps": 20, "rescale_betas": True}),
    "ddpm_linear_one_step": ("ddpm_linear", {"num_steps": 1, "beta_start": 0.9}),
    "ddpm_cosine": ("ddpm_cosine", {}),
    "vp": ("vp", {}),
    "vp_small_floor": ("vp", {"time_floor": 1e-5}),
    "ve": ("ve", {}),
}
# alpha(0), sigma(1); tables that follow from the formulas by hand.
ENDS = {
    "linear": (0.0, 0.0),
    "linear_sigma_min": (0.0, 1e-3),
    "trigonometric": (0.0, 0.0),
    "ddpm_linear": (np.sqrt(4.035830e-05), 0.0),
    "ddpm_linear_short": (None, 0.0),
    "ddpm_linear_one_step": (np.sqrt(0.1), 0.0),
    "ddpm_cosine": (np.sqrt(2.428767e-09), 0.0),
    "vp": (np.exp(-0.5 * 10.05), np.sqrt(-np.expm1(-(1e-4 + 9.95e-6)))),
    "vp_small_floor": (np.exp(-0.5 * 10.05), None),
    "ve": (1.0, 0.002),
}


@pytest.fixture(scope="module")
def x64():
    with jax.enable_x64(True):
        yield


@pytest.fixture
def float32():
    """Disables x64 for single-precision tests in an x64 module."""
    with jax.enable_x64(False):
        yield


@pytest.fixture(params=list(SCHEDULES), scope="module")
def schedule_id(request):
    return request.param


@pytest.fixture(scope="module")
def schedule(schedule_id):
    name, options = SCHEDULES[schedule_id]
    return process.make_schedule(name, **options)


@pytest.fixture(params=process.SCHEDULES, scope="module")
def default_schedule(request):
    """Returns one schedule of each name, with default options."""
    return process.make_schedule(request.param)


@pytest.fixture
def ends(schedule_id):
    return ENDS[schedule_id]
