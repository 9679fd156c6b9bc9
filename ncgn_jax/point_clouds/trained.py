"""Trained models of point clouds: sample, complete, interpolate."""

import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import linear_sum_assignment
from scipy.spatial import cKDTree

from ncgn_jax.data.whole_files import whole_file, write_whole
from ncgn_jax.faults import RequestError
from ncgn_jax.point_clouds.distances import one_way_distances
from ncgn_jax.point_clouds.model import DIM, PointCloudModel
from ncgn_jax.point_clouds.sets import Frame
from ncgn_jax.tasks.classes import Label
from ncgn_jax.tasks.flow_map import FlowMap
from ncgn_jax.tasks.trained import ClassedModel, at_least, in_range_of_seeds

FORMATS = (".npy", ".obj", ".ply", ".png", ".xyz")
# Signal level from which completions are generated anew. From 0.7 the Chamfer distance
# to the hidden half of 32 shapes was 20.0e-3 in place of 18.6e-3.
_REFINED_FROM = 0.5


@dataclasses.dataclass(frozen=True)
class Clouds:
    """Point clouds that a model made.

    Attributes:
      points: float32 [cloud, point, 3], in the units of the training clouds, or of what
        was given; float64 where `data.normalise=set` is undone, so that places far
        from the origin stay exact.
      labels: Name of the class of each cloud; () without classes.
      note: What was assumed to make them, in words; empty for nothing.
    """

    points: np.ndarray
    labels: tuple[str, ...] = ()
    note: str = ""

    def __len__(self) -> int:
        return len(self.points)

    def save(self, path: str | Path) -> list[Path]:
        """Writes the clouds as .npy or .png (one file), .ply, .obj or .xyz (one each).

        Several clouds of `chairs.ply` become `chairs-00.ply`, `chairs-01.ply`, ...

        Args:
          path: File; its ending chooses the format.

        Returns:
          The files written.

        Raises:
          RequestError: If the format is none of these.
        """
        path = Path(path)
        kind = path.suffix.lower()
        if kind not in FORMATS:
            raise RequestError(
                f"path: found {path.name!r}; allowed: {', '.join(FORMATS)}"
            )
        if kind == ".npy":
            with whole_file(path) as file:
                np.save(file, self.points, allow_pickle=False)
            return [path]
        if kind == ".png":
            return [self._draw(path)]
        if len(self) == 1:
            return [_write_cloud(path, self.points[0])]
        width = max(2, len(str(len(self) - 1)))
        return [
            _write_cloud(path.with_stem(f"{path.stem}-{i:0{width}d}"), points)
            for i, points in enumerate(self.points)
        ]

    def _draw(self, path: Path) -> Path:
        """Draws all clouds, each above the name of its class."""
        from ncgn_jax.pictures.output import save_figure
        from ncgn_jax.point_clouds.draw_clouds import draw_clouds

        order = np.argsort(self.labels or [""] * len(self), kind="stable")
        name, columns = f"{len(self)} samples", min(8, len(self))
        captions = {name: [self.labels[i] for i in order]} if self.labels else None
        rows = -(-len(self) // columns)
        figure = draw_clouds({name: self.points[order]}, columns, rows, captions)
        return save_figure(figure, path)


class TrainedClouds(ClassedModel[PointCloudModel]):
    """A trained model of point clouds."""

    domain = "point_clouds"
    formats = FORMATS

    def sample(
        self,
        num: int,
        *,
        label: Label | Sequence[Label] | None = None,
        num_points: int | None = None,
        steps: int | None = None,
        sampler: str | None = None,
        guidance: float | None = None,
        seed: int = 0,
    ) -> Clouds:
        """Generates clouds.

        Args:
          num: Number of clouds.
          label: Class by name or number, or several that are taken in turn; None to
            draw as often as in training.
          num_points: Points of a cloud; None for as many as in training.
          steps: Sampler steps; None for those of the model's configuration, or the
            finest of its flow map if `sampler` asks for that, or for another instead.
          sampler: One of `process.SAMPLERS`, or `flow_map` if the model has one; None
            for that of the configuration.
          guidance: How far to move on from what is predicted without the class.
          seed: Seed of the noise. The same call gives the same clouds.

        Returns:
          The clouds, in the units of the training clouds.

        Raises:
          RequestError: If an argument is not possible.
        """
        seed = in_range_of_seeds(seed)
        num = at_least("num", num, 1)
        sampling = self._settings(steps=steps, sampler=sampler, guidance=guidance)
        if sampling.guidance and not self.model.num_classes:
            raise RequestError("guidance: this model was trained without classes")
        model, labels = self._sized(num_points), self._labels(label, num, seed)
        points = model.sample(self.params, self.model_state, labels, seed, sampling)
        return Clouds(self._frame.to_file(points), self._names(labels))

    def complete(
        self,
        scan: ArrayLike,
        *,
        num_points: int | None = None,
        draws: int = 1,
        proposals: int = 8,
        label: Label | None = None,
        center: Sequence[float] | None = None,
        extent: float | None = None,
        steps: int | None = None,
        seed: int = 0,
    ) -> Clouds:
        """Generates the rest of a cloud of which some points are given.

        Whole clouds are generated first; of each `proposals` of them the one that lies
        nearest to the given points is taken, and the given points take the places of
        those nearest to them. Then it is noised half way and generated anew around the
        given points, which are kept. Training clouds have their mean at 0 and their
        largest coordinate at 1, z up. Where the whole shape lies is unknown of a part:
        say `center` and `extent`, or those of the part are taken. A model of clouds
        that were not scaled each by itself knows: its scans are in the units of the
        training clouds.

        Args:
          scan: Given points, [point, 3], in any unit.
          num_points: Points of the whole cloud; None for as many as in training.
          draws: Number of completions.
          proposals: Clouds that each completion is chosen from.
          label: Class by name or number; None to draw one for each proposal, so that
            the given points choose it.
          center: Mean of the whole shape, in the units of the scan.
          extent: Largest distance of a coordinate from it, in the same units.
          steps: Sampler steps.
          seed: Seed of the noise.

        Returns:
          Whole clouds in the units of the scan, the given points first, as float32; as
          float64 by a model that keeps the unit of its data (`data.normalise`). `note`
          says what was assumed.

        Raises:
          RequestError: If an argument is not possible.
        """
        seed = in_range_of_seeds(seed)
        points = _cloud("scan", scan)
        model, draws = self._sized(num_points), at_least("draws", draws, 1)
        if len(points) >= model.num_points:
            raise RequestError(
                f"scan: found {len(points)} points; allowed: fewer than num_points, "
                f"{model.num_points}"
            )
        frame = self._frame
        if frame.normalise != "cloud":
            # The model knows where shapes lie, in the units of its data.
            center = frame.center if center is None else center
            extent = frame.unit if extent is None else extent
        middle = points.mean(0) if center is None else np.asarray(center, float)
        if middle.shape != (DIM,):
            raise RequestError(f"center: found {center!r}; allowed: three numbers")
        size = np.abs(points - middle).max() if extent is None else float(extent)
        if not (np.isfinite(size) and size > 0):
            raise RequestError(f"extent: found {size}; allowed: a positive number")
        assumed = [
            f"{name} {np.round(value, 4).tolist()} of the given part is taken for that "
            "of the whole"
            for name, value, told in (
                ("center", middle, center),
                ("extent", size, extent),
            )
            if told is None
        ]
        sampling, weights = self._flow(steps=steps), (self.params, self.model_state)
        each = at_least("proposals", proposals, 1)
        labels = self._labels(label, draws * each, seed)
        made = model.sample(*weights, labels, seed, sampling)
        given = ((points - middle) / size).astype(np.float32)
        chosen = _nearest_of_each(given, made, each)
        whole = np.stack([_around(given, made[i]) for i in chosen])
        is_given = np.broadcast_to(
            np.arange(whole.shape[1]) < len(given), whole.shape[:2]
        )
        labels = labels[chosen]
        # Noise of its own, not that of the proposals.
        whole = model.refine(
            *weights, whole, is_given, labels, seed + 1, sampling, _REFINED_FROM
        )
        found = whole.astype(float) * size + middle
        found = found if not frame.is_plain else found.astype(np.float32)
        # To the bit, whatever the units.
        found[:, : len(points)] = points
        return Clouds(found, self._names(labels), "; ".join(assumed))

    def interpolate(
        self,
        first: ArrayLike,
        second: ArrayLike,
        *,
        num: int = 8,
        label: Label | None = None,
        steps: int | None = None,
    ) -> Clouds:
        """Walks from one cloud to another through the noise of both.

        The flow is run backwards to the noise of each, points of one noise are paired
        with those of the other at least cost, and the flow is run from the noise on the
        arc between (spherical interpolation, as Song et al. 2021, arXiv 2010.02502,
        appendix D.5), which keeps its variance however alike the two are.

        Args:
          first: Cloud, [point, 3], in the units of the training clouds.
          second: Cloud of as many points.
          num: Clouds on the way, both ends included, at least 2.
          label: Class by name or number; needed by a model with classes.
          steps: Steps of the flow, each way.

        Returns:
          The clouds on the way, in the units of the training clouds.

        Raises:
          RequestError: If an argument is not possible.
        """
        num = at_least("num", num, 2)
        ends = np.stack([_cloud("first", first), _like(first, second)])
        ends = self._frame.from_file(ends)
        model = self._sized(ends.shape[1])
        if self.model.num_classes and label is None:
            raise RequestError(f"label: needed; allowed: {', '.join(self.class_names)}")
        sampling = self._settings(steps=steps, sampler="heun", guidance=0.0)
        labels = self._labels(label, num, 0)
        noise = model.to_noise(
            self.params, self.model_state, ends, labels[:2], sampling
        )
        cost = ((noise[0][:, None] - noise[1][None]) ** 2).sum(-1)
        partner = linear_sum_assignment(cost)[1]
        mixed = _arc(noise[0], noise[1][partner], num)
        points = model.from_noise(
            self.params, self.model_state, mixed.astype(np.float32), labels, sampling
        )
        return Clouds(self._frame.to_file(points), self._names(labels))

    def log_likelihood(
        self,
        clouds: ArrayLike,
        *,
        label: Label | Sequence[Label] | None = None,
        steps: int | None = None,
        probes: int = 8,
        exact: bool = False,
        seed: int = 0,
    ) -> np.ndarray:
        """Returns the log density of clouds under the model's flow, in nats, [cloud].

        It is that of the points in their order, in the units of the training clouds:
        of an unordered cloud it is log(num_points!) more. Data on a surface have no
        density in space; such numbers compare clouds, not models of other scalings.

        Args:
          clouds: [cloud, point, 3] in the units of the training clouds.
          label: Class by name or number, or several that are taken in turn; needed by
            a model with classes.
          steps: Steps of the flow.
          probes: Random probes of the trace (Hutchinson); more are less noisy.
          exact: Take the trace number by number, which is slow.
          seed: Seed of the probes.

        Raises:
          RequestError: If an argument is not possible.
        """
        seed = in_range_of_seeds(seed)
        frame = self._frame
        points = np.asarray(clouds, np.float64 if not frame.is_plain else np.float32)
        if points.ndim != 3 or points.shape[2] != DIM or not len(points):
            raise RequestError(
                f"clouds: found shape {points.shape}; allowed: [cloud, point, {DIM}]"
            )
        if not np.isfinite(points).all():
            raise RequestError("clouds: found numbers that are not finite")
        if self.model.num_classes and label is None:
            raise RequestError(f"label: needed; allowed: {', '.join(self.class_names)}")
        found = self._sized(points.shape[1]).log_likelihood(
            self.params,
            self.model_state,
            frame.from_file(points),
            self._labels(label, len(points), seed),
            seed,
            self._flow(steps=steps, guidance=0.0),
            0 if exact else at_least("probes", probes, 1),
        )
        return found - points[0].size * np.log(frame.unit)

    @property
    def _flow_map(self) -> FlowMap | None:
        return self.model.flow_map

    @property
    def _frame(self) -> Frame:
        """How the training clouds were moved and scaled."""
        return self.model.facts.frame

    def _sized(self, num_points: int | None) -> PointCloudModel:
        """Returns the model of a number of points; kept, since compiling is slow."""
        if num_points is None or num_points == self.model.num_points:
            return self.model
        count = at_least("num_points", num_points, 2)
        if count not in self._sizes:
            self._sizes[count] = self.model.resized(count)
        return self._sizes[count]

    @functools.cached_property
    def _sizes(self) -> dict[int, PointCloudModel]:
        return {}


def _cloud(argument: str, points: ArrayLike) -> np.ndarray:
    """Returns a cloud as float64, or refuses it."""
    try:
        found = np.asarray(points, float)
    except (TypeError, ValueError) as error:
        raise RequestError(f"{argument}: no array of numbers: {error}") from error
    if found.ndim != 2 or found.shape[1] != DIM or not len(found):
        raise RequestError(
            f"{argument}: found shape {found.shape}; allowed: [point, {DIM}]"
        )
    if not np.isfinite(found).all():
        raise RequestError(f"{argument}: found numbers that are not finite")
    return found


def _arc(first: np.ndarray, second: np.ndarray, num: int) -> np.ndarray:
    """Returns arrays on the arc from one to another, [num, ...], ends included."""
    lengths = np.linalg.norm(first), np.linalg.norm(second)
    cosine = np.sum(first * second, dtype=float) / (lengths[0] * lengths[1])
    # Equal arrays have no arc; a line is as good near them.
    angle = max(float(np.arccos(np.clip(cosine, -1.0, 1.0))), 1e-4)
    share = np.linspace(0.0, 1.0, num)[:, None, None]
    return (
        np.sin((1 - share) * angle) * first + np.sin(share * angle) * second
    ) / np.sin(angle)


def _nearest_of_each(given: np.ndarray, made: np.ndarray, each: int) -> np.ndarray:
    """Returns which of every `each` clouds lies nearest to given points, int [draw]."""
    best = np.argmin(one_way_distances(given, made).reshape(-1, each), axis=1)
    return best + each * np.arange(len(best))


def _around(given: np.ndarray, cloud: np.ndarray) -> np.ndarray:
    """Puts given points in the places of those of a cloud that lie nearest to them."""
    distance = cKDTree(given).query(cloud)[0]
    order = np.argsort(distance, kind="stable")
    return np.concatenate([given, cloud[np.sort(order[len(given) :])]])


def _like(first: ArrayLike, second: ArrayLike) -> np.ndarray:
    found, wanted = _cloud("second", second), np.asarray(first).shape
    if found.shape != wanted:
        raise RequestError(f"second: found shape {found.shape}; allowed: {wanted}")
    return found


def _write_cloud(path: Path, points: np.ndarray) -> Path:
    is_double = points.dtype == np.float64  # as coordinates of a survey need
    if path.suffix.lower() == ".ply":
        name = "double" if is_double else "float"
        properties = "".join(f"property {name} {axis}\n" for axis in "xyz")
        header = (
            f"ply\nformat binary_little_endian 1.0\nelement vertex {len(points)}\n"
            f"{properties}end_header\n"
        )
        content = points.astype("<f8" if is_double else "<f4").tobytes()
        with whole_file(path) as file:
            file.write(header.encode() + content)
        return path
    start = "v " if path.suffix.lower() == ".obj" else ""
    digits = 17 if is_double else 9
    lines = (
        start + " ".join(f"{x:.{digits}g}" for x in point) for point in points.tolist()
    )
    return write_whole(path, "\n".join(lines) + "\n")
