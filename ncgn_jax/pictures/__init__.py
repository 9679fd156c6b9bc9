"""Draws curves, panels, schedules, losses and comparisons.

Pure functions turn numpy arrays into a `matplotlib.figure.Figure`. They build figures
without pyplot, so that nothing depends on a display, a back end or global state. The
figures stay readable when printed in grey: lightness, marker or line style repeats
every meaning that hue carries.

Example:
    import numpy as np
    from ncgn_jax import pictures

    x = np.linspace(0.0, 1.0, 20)
    panel = pictures.Panel("growth", "time (s)", "height (m)", {"square": (x, x**2)})
    pictures.save_figure(pictures.draw_panels([panel]), "runs/example/growth.png")
"""

from ncgn_jax.pictures.comparison import draw_comparison
from ncgn_jax.pictures.curves import draw_loss, draw_schedule
from ncgn_jax.pictures.output import save_figure
from ncgn_jax.pictures.panels import Panel, draw_panels

__all__ = [
    "Panel",
    "draw_comparison",
    "draw_loss",
    "draw_panels",
    "draw_schedule",
    "save_figure",
]
