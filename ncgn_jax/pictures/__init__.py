"""Pictures of clouds, graphs, fields, schedules, losses and comparisons.

Pure functions from numpy arrays to a `matplotlib.figure.Figure`. Figures are built
without pyplot, so that nothing depends on a display, a back end or global state, and
they stay readable when printed in grey: every meaning carried by hue is also carried
by lightness, marker or line style.

Example:
    import numpy as np
    from ncgn_jax import pictures

    clouds = {"samples": np.random.default_rng(0).normal(size=(4, 100, 3))}
    figure = pictures.draw_clouds(clouds, columns=4)
    pictures.save_figure(figure, "runs/example/clouds.png")
"""

from ncgn_jax.expression.draw_fields import draw_fields, draw_path
from ncgn_jax.expression.draw_imputation import draw_profiles, draw_scatter, draw_tissue
from ncgn_jax.pictures.comparison import draw_comparison
from ncgn_jax.pictures.curves import draw_loss, draw_schedule
from ncgn_jax.pictures.output import save_figure
from ncgn_jax.pictures.panels import Panel, draw_panels
from ncgn_jax.point_clouds.draw_attention import draw_attention
from ncgn_jax.point_clouds.draw_clouds import draw_clouds
from ncgn_jax.point_clouds.draw_page import write_interactive_clouds
from ncgn_jax.point_clouds.draw_path import DenoisingState, draw_denoising_path

__all__ = [
    "DenoisingState",
    "Panel",
    "draw_attention",
    "draw_clouds",
    "draw_comparison",
    "draw_denoising_path",
    "draw_fields",
    "draw_loss",
    "draw_panels",
    "draw_path",
    "draw_profiles",
    "draw_scatter",
    "draw_schedule",
    "draw_tissue",
    "save_figure",
    "write_interactive_clouds",
]
