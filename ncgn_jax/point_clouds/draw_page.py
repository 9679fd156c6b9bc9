"""Writes clouds to turn with the mouse into one HTML file that opens offline.

The page is `viewer.html` with the clouds written into it. It draws on a canvas with a
script of its own, loads nothing, and follows the light or dark setting of the reader.
"""

import base64
import html
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ncgn_jax.data.whole_files import write_whole
from ncgn_jax.point_clouds.draw_clouds import centred, check_clouds, common_size

MAX_SETS = 4
# Points of a page, of eight letters each, so that it stays below 3 MB.
MAX_POINTS = 300_000
_VIEWER = Path(__file__).parent / "viewer.html"
_MOST = 32767  # of int16


def write_interactive_clouds(
    clouds_by_row: Mapping[str, np.ndarray],
    path: str | Path,
    title: str = "Point clouds",
    max_clouds: int = 24,
    captions: Mapping[str, Sequence[str]] | None = None,
) -> Path:
    """Writes a page with the sets side by side and a slider over the clouds.

    Clouds are centred and share one scale; colour is height. Clouds of too many points
    are thinned at random, and the page says so.

    Args:
      clouds_by_row: Name to clouds, [cloud, point, 2 or 3]; at most four sets. Flat
        clouds lie in the plane z = 0.
      path: File to write, for example `samples.html`.
      title: Heading of the page.
      max_clouds: Most clouds of each set, >= 1.
      captions: Words for each cloud of a set, such as its class; a set may be absent.

    Returns:
      The path.

    Raises:
      ValueError: If there are more than four sets, or one is not
        [cloud, point, 2 or 3].
    """
    if len(clouds_by_row) > MAX_SETS:
        raise ValueError(f"at most {MAX_SETS} sets fit, got {list(clouds_by_row)}")
    sets = {
        name: [_in_space(centred(cloud)) for cloud in clouds[:max_clouds]]
        for name, clouds in check_clouds(clouds_by_row).items()
    }
    every = [cloud for clouds in sets.values() for cloud in clouds]
    largest = max(len(cloud) for cloud in every)
    most = max(1, MAX_POINTS // len(every))
    words = captions or {}
    content = {
        "size": common_size(every),
        "note": f"{most:,} of {largest:,} points of each are shown"
        if largest > most
        else "",
        "sets": [
            {
                "name": name,
                "clouds": [
                    {**_pack(cloud, most), "label": str(label)}
                    for cloud, label in zip(
                        clouds,
                        [*words.get(name, ())][: len(clouds)] or [""] * len(clouds),
                        strict=True,
                    )
                ],
            }
            for name, clouds in sets.items()
        ],
    }
    # A name may hold "</script>".
    data = json.dumps(content).replace("<", "\\u003c")
    page = _VIEWER.read_text(encoding="utf-8")
    page = page.replace("@TITLE@", html.escape(title)).replace("@DATA@", data)
    return write_whole(path, page)


def _in_space(cloud: np.ndarray) -> np.ndarray:
    """Returns the cloud with three coordinates."""
    return np.pad(cloud, ((0, 0), (0, 3 - cloud.shape[1])))


def _pack(cloud: np.ndarray, most: int) -> dict[str, Any]:
    """Returns at most so many points of a cloud as text, and their scale."""
    if len(cloud) > most:
        chosen = np.random.default_rng(0).choice(len(cloud), most, replace=False)
        cloud = cloud[np.sort(chosen)]
    scale = float(np.abs(cloud).max(initial=0.0)) or 1.0
    whole = np.round(cloud / scale * _MOST).astype("<i2")
    return {"scale": scale, "points": base64.b64encode(whole.tobytes()).decode()}
