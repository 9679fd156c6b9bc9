"""Makes the pictures of README and of the site, into docs/pictures.

    python -m docs.make_pictures

All show shipped models and embedded data, with fixed seeds, so that the same versions
of the libraries draw the same pictures. RDKit draws the molecules.
"""

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch
from PIL import Image

import ncgn_jax as ncgn
from ncgn_jax.data.whole_files import whole_file
from ncgn_jax.expression.draw_fields import EXPRESSION
from ncgn_jax.graphs import build_graphs
from ncgn_jax.graphs.range_resolution import num_supernodes_exact
from ncgn_jax.loading import SHIPPED, read_source
from ncgn_jax.molecules.draw_molecules import render_molecule
from ncgn_jax.pictures import draw_schedule
from ncgn_jax.pictures.style import (
    CATEGORIES,
    DASHES,
    FAINT,
    INK,
    LABEL_SIZE,
    TICK_SIZE,
    TITLE_SIZE,
    dress_axes,
)
from ncgn_jax.point_clouds.draw_clouds import centred
from ncgn_jax.point_clouds.draw_path import DenoisingState, draw_denoising_path
from ncgn_jax.point_clouds.projection import (
    draw_points,
    frame_panel,
    half_extent,
    project_points,
)
from ncgn_jax.point_clouds.trained import TrainedClouds
from ncgn_jax.point_clouds.views import NetworkView, denoising_states, state_of
from ncgn_jax.process import interpolate
from ncgn_jax.process.schedules import make_schedule

FOLDER = Path(__file__).parent / "pictures"
DPI = 200
SHAPES = ("chair", "lamp", "table", "car", "bottle", "mug")
MOLECULE_SEED, DIGIT_SEED, FIELD_SEED, SHAPE_SEED, PATH_SEED = 1, 0, 0, 3, 3
TIMES = (0.0, 0.3, 0.6, 0.8, 0.95, 1.0)
SCHEDULES = ("linear", "trigonometric", "vp")


class Material(NamedTuple):
    """What the models make for the pictures.

    Attributes:
      clouds: Clouds of `SHAPES`, [cloud, point, 3].
      digits: Two of each digit, [image, height, width], bytes.
      smiles: Valid molecules.
      fields: Expression, [field, time, place, gene].
      genes: Names of the genes.
      path: States of a sampler on its way, from noise to data.
    """

    clouds: np.ndarray
    digits: np.ndarray
    smiles: tuple[str, ...]
    fields: np.ndarray
    genes: tuple[str, ...]
    path: list[DenoisingState]


def gather() -> Material:
    """Samples from the four shipped models."""
    model = cast(TrainedClouds, ncgn.load("shapes"))
    clouds = model.sample(
        len(SHAPES), label=SHAPES, num_points=2048, steps=16, seed=SHAPE_SEED
    )
    digits = ncgn.load("digits").sample(20, label=list(range(10)), seed=DIGIT_SEED)
    molecules = ncgn.load("qm9").sample(32, seed=MOLECULE_SEED)
    fields = ncgn.load("turing").sample(8, seed=FIELD_SEED)
    num_times = len(np.unique(fields.positions[0, :, -1]))
    shape = (len(fields.values), num_times, -1, len(fields.genes))
    return Material(
        clouds.points,
        digits.pixels()[..., 0],
        molecules.valid,
        fields.values.reshape(shape),
        fields.genes,
        _walk(model),
    )


def _walk(model: TrainedClouds) -> list[DenoisingState]:
    """Returns noise, and where the sampler leaves each bucket."""
    view = NetworkView(model.model, model.params, model.model_state)
    label = np.asarray([model.class_names.index("chair")], np.int32)
    states = denoising_states(
        view, model.params, model.model_state, label, PATH_SEED, model.sampling
    )
    return [states[0], *(s for s in states if s["label"].startswith("leaves"))]


def draw_strip(made: Material) -> Figure:
    """Draws samples of the four domains on one card."""
    width, height = 8.0, 2.1
    figure = Figure((width, height))
    figure.patches.append(
        FancyBboxPatch(
            (0.02, 0.02),
            width - 0.04,
            height - 0.04,
            boxstyle="round,pad=0,rounding_size=0.12",
            transform=figure.dpi_scale_trans,
            facecolor="white",
            edgecolor="#d5dbe1",
            linewidth=0.8,
            zorder=-1,
        )
    )
    titles = {
        "point clouds": 0.18,
        "gene expression": 3.42,
        "molecules": 5.02,
        "images": 6.72,
    }
    for title, left in titles.items():
        figure.text(
            left / width,
            1.0 - 0.26 / height,
            title,
            fontsize=TITLE_SIZE,
            color=INK,
            weight="bold",
        )
    for place, cloud in enumerate(made.clouds):
        row, column = divmod(place, 3)
        axes = _panel(figure, 0.12 + 1.03 * column, 0.95 - 0.87 * row, 1.05, 0.85)
        axes.axis("off")
        cloud = centred(cloud)
        own = half_extent(cloud)
        frame_panel(axes, 1.03 * own)
        axes.set_xlim(-1.25 * own, 1.25 * own)
        draw_points(axes, project_points(cloud, size=own), own, dot=1.1)
    for gene in range(2):
        for place in range(2):
            axes = _panel(figure, 3.42 + 0.71 * place, 0.97 - 0.82 * gene, 0.66, 0.76)
            _show_map(axes, made.fields[place, ..., 1 + gene])
    for place, smiles in enumerate(_choose(made.smiles, 4)):
        row, column = divmod(place, 2)
        axes = _panel(figure, 5.02 + 0.83 * column, 0.98 - 0.84 * row, 0.72, 0.72)
        axes.axis("off")
        image = render_molecule(smiles)[0]
        if image is not None:
            axes.imshow(_trimmed(image), interpolation="lanczos")
    for place, image in enumerate(made.digits[:12]):
        row, column = divmod(place, 3)
        axes = _panel(figure, 6.72 + 0.4 * column, 1.34 - 0.4 * row, 0.38, 0.38)
        axes.axis("off")
        axes.imshow(image, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
    return figure


def _choose(smiles: Sequence[str], count: int) -> list[str]:
    """Chooses valid molecules with a ring and both oxygen and nitrogen, if there are.

    Others look much alike at the size of a stamp.
    """
    rich = [s for s in smiles if "1" in s and "O" in s.upper() and "N" in s.upper()]
    return list(dict.fromkeys([*rich, *smiles]))[:count]


def _trimmed(image: np.ndarray) -> np.ndarray:
    """Cuts a transparent margin off, [row, column, 4]."""
    inked = image[..., 3] > 0
    rows, columns = (np.flatnonzero(inked.any(axis=axis)) for axis in (1, 0))
    return image[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def _panel(
    figure: Figure, left: float, bottom: float, width: float, height: float
) -> Axes:
    """Adds a panel whose place is given in inches."""
    across, up = figure.get_size_inches()
    return figure.add_axes((left / across, bottom / up, width / across, height / up))


def _show_map(axes: Axes, field: np.ndarray) -> None:
    axes.axis("off")
    axes.imshow(field, cmap=EXPRESSION, origin="lower", aspect="auto")


def draw_noise_and_time(made: Material) -> Figure:
    """Draws a cloud between noise and data, the coefficients, and signal levels."""
    figure = Figure((8.0, 4.3))
    cloud = centred(made.clouds[0][::2])
    data = jnp.asarray(cloud / cloud.std())
    noise = jax.random.normal(jax.random.key(0), data.shape)
    linear = make_schedule("linear")
    for place, t in enumerate(TIMES):
        axes = _panel(figure, 0.08 + 1.31 * place, 2.6, 1.29, 1.29)
        axes.axis("off")
        x_t = np.asarray(
            interpolate(linear, jnp.full((1,), t), data[None], noise[None])
        )
        size = 3.2
        frame_panel(axes, size)
        draw_points(axes, project_points(x_t[0], size=size), size, dot=2.6)
        axes.set_title(f"t = {t:g}", fontsize=LABEL_SIZE, color=INK, pad=2)
    figure.text(
        0.012,
        0.955,
        "From noise to data",
        fontsize=TITLE_SIZE,
        color=INK,
        weight="bold",
    )
    t = np.linspace(0.0, 1.0, 201)
    left = _panel(figure, 0.62, 0.5, 3.1, 1.75)
    dress_axes(left, "time t   (0 = noise, 1 = data)", "coefficient")
    left.set_title("x(t) = alpha · data + sigma · noise", **_bold())
    alpha, sigma = linear.coefficients(t)[:2]
    for index, (name, values) in enumerate({"alpha": alpha, "sigma": sigma}.items()):
        left.plot(t, values, color=CATEGORIES[index], ls=DASHES[index], lw=1.8)
        end = 0.82 if index == 0 else 0.18
        left.annotate(
            name,
            (end, 0.82),
            xytext=(-7 if index == 0 else 7, 3),
            textcoords="offset points",
            ha="right" if index == 0 else "left",
            fontsize=LABEL_SIZE,
            color=CATEGORIES[index],
        )
    right = _panel(figure, 4.72, 0.5, 3.1, 1.75)
    dress_axes(right, "time t   (0 = noise, 1 = data)", "signal level")
    right.set_title("signal level = alpha / (alpha + sigma)", **_bold())
    for index, name in enumerate(SCHEDULES):
        level = make_schedule(name).signal_level(t)
        right.plot(
            t, level, color=CATEGORIES[index], ls=DASHES[index], lw=1.6, label=name
        )
    right.legend(fontsize=TICK_SIZE, frameon=False, labelcolor=INK, loc="upper left")
    for axes in (left, right):
        axes.set(xlim=(0, 1), ylim=(0, 1.02))
    return figure


def _bold() -> dict[str, Any]:
    return {"fontsize": TITLE_SIZE, "color": INK, "weight": "bold", "loc": "left"}


def draw_noise_buckets() -> Figure:
    """Draws range and resolution against the signal level, of the model of shapes."""
    model = cast(TrainedClouds, ncgn.load("shapes")).model
    levels = np.linspace(0.0, 1.0, 401)
    degree, schedule = model.graphs.num_neighbors, model.graphs.schedule
    supernodes = np.asarray(
        [num_supernodes_exact(a, model.num_points, degree, schedule) for a in levels]
    )
    buckets = model.time.buckets
    return draw_schedule(
        levels,
        {
            f"schedule '{schedule.name}'": (
                supernodes,
                degree * model.num_points / supernodes,
            )
        },
        bucket_edges=[bucket.low for bucket in buckets[1:]],
        bucket_shapes=[(b.num_supernodes, b.num_neighbors) for b in buckets],
    )


def draw_coarse_graphs(made: Material) -> Figure:
    """Draws one noisy cloud in every bucket, with the graph that it gets there."""
    model = cast(TrainedClouds, ncgn.load("shapes")).model
    cloud = centred(made.clouds[0])
    chosen = np.random.default_rng(0).choice(len(cloud), model.num_points, False)
    data = jnp.asarray(cloud[chosen] / cloud.std(), jnp.float32)
    noise = jax.random.normal(jax.random.key(0), data.shape)
    states = []
    for number, bucket in enumerate(model.time.buckets):
        level = (bucket.low + bucket.high) / 2.0
        t = float(model.time.schedule.time_of_signal_level(level))
        when = jnp.full((1,), t)
        x_t = interpolate(model.time.schedule, when, data[None], noise[None])
        label = f"bucket {number + 1} of {len(model.time.buckets)}"
        states.append(state_of(build_graphs(x_t, bucket), bucket, t, level, label))
    return draw_denoising_path(states)


def draw_model_file() -> Figure:
    """Draws what the two files of an exported model hold, and what reads them."""
    about, arrays = read_source("shapes")
    content = json.loads((SHIPPED / "shapes" / "model.json").read_text())
    numbers = sum(array.size for array in arrays.values())
    table = about.evaluation or {}
    facts = ", ".join(key.replace("_", " ") for key in content["facts"])
    lines = {
        "domain": about.domain,
        "config": f"{sum(map(len, _sections(content['config'])))} fields: "
        "process, buckets, network, sampler",
        "facts": facts,
        "data, digest": f"what it was trained on; {about.digest}",
        "step": f"{about.step:,}",
        "versions": ", ".join(
            f"{name} {about.versions[name]}" for name in ("python", "jax", "flax")
        ),
        "evaluation": f"its table, {len(table.get('rows', ()))} rows",
    }
    figure = Figure((8.0, 2.75))
    axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))
    axes.set(xlim=(0, 8.0), ylim=(0, 2.75))
    axes.axis("off")
    _box(axes, 0.1, 0.82, 4.75, 1.83, "model.json")
    for row, (name, said) in enumerate(lines.items()):
        height = 2.22 - 0.215 * row
        axes.text(0.25, height, name, fontsize=LABEL_SIZE, color=CATEGORIES[0])
        axes.text(1.2, height, said, fontsize=LABEL_SIZE, color=INK)
    _box(axes, 0.1, 0.1, 4.75, 0.6, "weights.safetensors")
    axes.text(
        0.25,
        0.2,
        f"{len(arrays)} arrays by path, {numbers:,} numbers, float32",
        fontsize=LABEL_SIZE,
        color=INK,
    )
    axes.add_patch(
        FancyArrowPatch(
            (4.9, 1.38), (5.55, 1.38), arrowstyle="-|>", mutation_scale=12, color=INK
        )
    )
    _box(axes, 5.6, 0.1, 2.3, 2.55, 'ncgn.load("shapes")')
    verbs = [
        name
        for name in ("sample", "complete", "interpolate", "log_likelihood", "export")
        if callable(getattr(TrainedClouds, name))
    ]
    for row, verb in enumerate(verbs):
        axes.text(
            5.75,
            2.2 - 0.3 * row,
            f".{verb}(…)",
            fontsize=LABEL_SIZE,
            color=INK,
            family="monospace",
        )
    axes.text(
        5.75,
        0.22,
        "needs no data,\nno run, no configuration",
        fontsize=LABEL_SIZE,
        color="#5b6672",
        linespacing=1.3,
    )
    return figure


def _sections(config: dict[str, Any]) -> list[dict[str, Any]]:
    return [part for part in config.values() if isinstance(part, dict)]


def _box(
    axes: Axes, left: float, bottom: float, width: float, height: float, title: str
) -> None:
    axes.add_patch(
        FancyBboxPatch(
            (left, bottom),
            width,
            height,
            boxstyle="round,pad=0,rounding_size=0.08",
            facecolor="#f3f5f7",
            edgecolor=FAINT,
            linewidth=0.8,
        )
    )
    axes.text(
        left + 0.15,
        bottom + height - 0.22,
        title,
        fontsize=TITLE_SIZE,
        color=INK,
        weight="bold",
    )


def write_small(
    figure: Figure, path: Path, clear: bool = False, tight: bool = False
) -> Path:
    """Saves a picture with 256 colours, a third as large as with all.

    Args:
      figure: The figure.
      path: PNG file to write.
      clear: Whether the ground is left transparent.
      tight: Whether empty margins are cut off.
    """
    drawn = io.BytesIO()
    figure.savefig(
        drawn,
        format="png",
        dpi=DPI,
        transparent=clear,
        facecolor="none" if clear else "white",
        bbox_inches="tight" if tight else None,
        pad_inches=0.12,
    )
    image = Image.open(drawn)
    if clear:  # The other methods know no transparency.
        image = image.quantize(256, Image.Quantize.FASTOCTREE)
    else:
        image = image.convert("RGB").quantize(256, dither=Image.Dither.NONE)
    with whole_file(path) as file:
        image.save(file, format="png", optimize=True)
    return path


def main() -> None:
    """Makes all pictures and prints their paths."""
    made = gather()
    figures = {
        "strip": draw_strip(made),
        "denoising-path": draw_denoising_path(made.path),
        "noise-and-time": draw_noise_and_time(made),
        "noise-buckets": draw_noise_buckets(),
        "coarse-graphs": draw_coarse_graphs(made),
        "model-file": draw_model_file(),
    }
    tight = ("denoising-path", "noise-buckets", "coarse-graphs")
    for name, figure in figures.items():
        path = FOLDER / f"{name}.png"
        print(write_small(figure, path, clear=name == "strip", tight=name in tight))


if __name__ == "__main__":
    main()
