"""The colours, as readers with other eyes and a grey printer see them."""

import itertools

import numpy as np
import pytest
from matplotlib.colors import to_rgb

from ncgn_jax.expression.draw_fields import EXPRESSION
from ncgn_jax.pictures import style

# Machado et al. 2009, full severity, of linear RGB.
EYES = {
    "usual": np.eye(3),
    "deuteranope": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
    "protanope": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "tritanope": [
        [1.255528, -0.076749, -0.178779],
        [-0.078411, 0.930809, 0.147602],
        [0.004733, 0.691367, 0.303900],
    ],
}
TO_XYZ = np.array(
    [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
)


def to_lab(colors, eyes):
    """Converts sRGB as the eyes see it to CIELAB, [color, 3]."""
    rgb = np.array([to_rgb(color) for color in colors])
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    seen = np.clip(linear @ np.transpose(EYES[eyes]), 0.0, 1.0)
    xyz = seen @ TO_XYZ.T / [0.9505, 1.0, 1.089]
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16.0 / 116.0)
    x, y, z = f.T
    return np.stack([116.0 * y - 16.0, 500.0 * (x - y), 200.0 * (y - z)], axis=-1)


@pytest.mark.parametrize("eyes", EYES)
def test_categories_stay_apart_for_all_eyes(eyes):
    lab = to_lab(style.CATEGORIES, eyes)
    gaps = [np.linalg.norm(a - b) for a, b in itertools.combinations(lab, 2)]
    assert min(gaps) > 15.0


@pytest.mark.parametrize("eyes", EYES)
@pytest.mark.parametrize(
    "colormap", [style.NEAR_FAR, style.NEAR_FAR_WARM, style.LEVELS, EXPRESSION]
)
def test_maps_keep_their_order_for_all_eyes_and_in_grey(eyes, colormap):
    lightness = to_lab(colormap(np.linspace(0.0, 1.0, 33))[:, :3], eyes)[:, 0]
    steps = np.diff(lightness)
    assert (steps > 0.0).all() or (steps < 0.0).all()
    assert np.ptp(lightness) > 30.0
