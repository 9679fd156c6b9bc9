"""Saves pictures whole or not at all, also on a full disk or when killed."""

from pathlib import Path

from matplotlib.figure import Figure

from ncgn_jax.data.whole_files import whole_file


def save_figure(figure: Figure, path: str | Path, dpi: int = 200) -> Path:
    """Saves a figure whole or not at all, in the format named by the path's suffix.

    Args:
      figure: The figure.
      path: Where to, for example `clouds.png`, `.pdf` or `.svg`.
      dpi: Dots per inch of raster output, > 0.

    Returns:
      The path.

    Raises:
      ValueError: If the path has no suffix or matplotlib cannot write that format.
    """
    kind = Path(path).suffix.lstrip(".").lower()
    known = figure.canvas.get_supported_filetypes()
    if kind not in known:
        raise ValueError(
            f"cannot save a figure as '{path}': the suffix must be one of "
            f"{', '.join(sorted(known))}"
        )
    with whole_file(path) as file:
        figure.savefig(
            file,
            format=kind,
            dpi=dpi,
            facecolor="white",
            bbox_inches="tight",
            pad_inches=0.12,
        )
    return Path(path)
