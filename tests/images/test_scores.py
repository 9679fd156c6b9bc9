"""Rows of images: the classifier behind them, anchors, and what each set shows."""

import chex
import jax
import numpy as np
import pytest

from ncgn_jax.faults import DataError
from ncgn_jax.images import classifier, pixels, scores
from ncgn_jax.images.classifier import (
    TurnedImages,
    extract_features,
    shift_at_random,
    train_classifier,
)
from ncgn_jax.images.features import (
    frechet_distance,
    inception_score,
    kernel_distance,
)
from ncgn_jax.images.inception import InceptionViews
from ncgn_jax.images.pixels import (
    nearest_training_distance,
    sliced_wasserstein_pixels,
)
from ncgn_jax.images.scores import ImageScorer
from ncgn_jax.metrics.table import format_table

pytestmark = pytest.mark.usefixtures("compile_quickly")

TITLES = ["FD-clf", "KD-clf e-3", "precision", "recall", "density", "coverage"]
CLASS_TITLES = ["class %", "IS-clf"]
PIXEL_TITLES = ["SWD pixels e-2", "SWD patches e-2", "NN ratio"]


def make_images(count, seed, size=8):
    """Bright upper half, left half or upper left quarter, with noise."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(3, size=count)
    half = size // 2
    images = np.full((count, size, size, 1), -0.7, np.float32)
    images[labels == 0, :half] = 0.7
    images[labels == 1, :, :half] = 0.7
    images[labels == 2, :half, :half] = 0.7
    return images + 0.2 * rng.standard_normal(images.shape, np.float32), labels


def blur(images):
    return images.mean(axis=2, keepdims=True).repeat(8, axis=2)


@pytest.fixture(scope="module")
def data():
    return (*make_images(300, 0), *make_images(120, 1))


@pytest.fixture(scope="module")
def scorer(data):
    return ImageScorer(*data, num_classes=3, num_steps=30)


@pytest.fixture(scope="module")
def table(scorer):
    fresh, labels = make_images(60, 2)
    samples = {
        "fresh": (fresh, labels),
        "blurred": (blur(fresh), labels),
        "collapsed": (np.repeat(fresh[:1], 60, axis=0), np.repeat(labels[:1], 60)),
        "unasked": (fresh, None),
    }
    return scorer.rows(samples, max_images=120)


def test_rows_and_columns_are_in_order(scorer, table):
    rows = table
    samples = ["fresh", "blurred", "collapsed", "unasked"]
    assert list(rows) == [*samples, "noise", "train", "held_out"]
    titles = [column.title for column in scorer.columns]
    assert titles == TITLES + CLASS_TITLES + PIXEL_TITLES
    keys = {column.key for column in scorer.columns}
    for name, row in rows.items():
        missing = keys - set(row)
        assert missing == ({"class_accuracy"} if name == "unasked" else set())
        assert np.all(np.isfinite(list(row.values())))
    assert "FID" not in format_table({"a": {}}, scorer.columns).split("| ")
    assert scorer.describe_features() == "classifier of 3 classes, 30 steps, seed 0"
    sizes = {(row["num_generated"], row["num_reference"]) for row in rows.values()}
    assert sizes == {(60, 120), (60, 60)}


def test_real_images_are_told_from_bad_ones(table):
    rows = table
    for key in ("fd_clf", "kd_clf", "swd_pixels", "swd_patches"):
        for real in ("fresh", "train", "held_out"):
            for bad in ("noise", "blurred", "collapsed"):
                assert rows[real][key] < 0.5 * rows[bad][key], (key, real, bad)
    for real in ("fresh", "train", "held_out"):
        assert rows[real]["class_accuracy"] == 1
        assert rows[real]["precision"] > 0.7
        assert rows[real]["recall"] > 0.7
        assert rows[real]["coverage"] > 0.7
        assert 2.5 < rows[real]["is_clf"] <= 3
    assert rows["noise"]["class_accuracy"] < 0.7
    assert rows["blurred"]["class_accuracy"] < 0.9
    assert rows["collapsed"]["recall"] == pytest.approx(0, abs=0.02)
    assert rows["collapsed"]["is_clf"] == pytest.approx(1)
    assert rows["noise"]["nn_ratio"] > 1.5


def test_noise_is_asked_for_the_classes_of_training_images(data):
    """All of one class: a classifier that says so is right."""
    train, labels, test, test_labels = data
    same = np.full_like(labels, 2), np.full_like(test_labels, 2)
    scorer = ImageScorer(train, same[0], test, same[1], num_classes=3, num_steps=30)
    rows = scorer.rows({"a": (test, test_labels)}, max_images=60)
    assert rows["noise"]["class_accuracy"] == rows["train"]["class_accuracy"] == 1
    assert rows["a"]["class_accuracy"] == np.mean(test_labels[:60] == 2)


def test_copies_are_seen(table):
    rows = table
    assert (rows["train"]["nn_ratio"], rows["train"]["nn_share_near"]) == (0, 1)
    for name in ("fresh", "held_out"):
        assert rows[name]["nn_ratio"] == pytest.approx(1, abs=0.05)
        assert rows[name]["nn_share_near"] < 0.1


def test_a_row_holds_the_measures_of_its_own_images(data, scorer, table):
    """Columns made again from the classifier and the raw arrays."""
    train, train_labels, test, _ = data
    rows = table
    fresh, _ = make_images(60, 2)
    params = train_classifier(train, train_labels, 3, 30, 128, 0)
    scale = np.sqrt((extract_features(params, train).features ** 2).mean())
    own, real = (extract_features(params, part) for part in (fresh, test))
    sets = own.features / scale, real.features / scale
    assert rows["fresh"]["fd_clf"] == pytest.approx(frechet_distance(*sets), rel=1e-4)
    smeared = extract_features(params, blur(fresh)).features / scale
    expected = kernel_distance(smeared, sets[1])  # of other random subsets
    assert rows["blurred"]["kd_clf"] == pytest.approx(expected, rel=0.05)
    expected = inception_score(own.probabilities)
    assert rows["fresh"]["is_clf"] == pytest.approx(expected)
    near, usual = (nearest_training_distance(p, train).distance for p in (fresh, test))
    expected = np.median(near) / np.median(usual)
    assert rows["fresh"]["nn_ratio"] == pytest.approx(expected)


def test_at_most_so_many_images_are_measured(scorer):
    fresh, labels = make_images(60, 2)
    late = np.concatenate([fresh[:20], 9 + fresh[20:]])
    rows = scorer.rows({"a": (fresh[:20], labels[:20])}, max_images=20)
    others = scorer.rows({"a": (late, labels)}, max_images=20)
    assert rows == others
    assert {row["num_reference"] for row in rows.values()} == {20, 10}
    assert rows["held_out"]["num_generated"] == 10


def test_measures_that_need_more_images_are_absent(scorer):
    fresh, labels = make_images(60, 2)
    few = scorer.rows({"a": (fresh[:3], labels[:3])}, max_images=60)
    assert "precision" not in few["a"]
    assert {"coverage", "fd_clf", "class_accuracy"} <= set(few["a"])
    tiny = scorer.rows({"a": (fresh, labels)}, max_images=4)
    assert "coverage" not in tiny["a"]
    assert "precision" not in tiny["held_out"]
    with pytest.raises(DataError, match="at least 4"):
        scorer.rows({"a": (fresh, labels)}, max_images=3)
    with pytest.raises(DataError, match="'a': 1"):
        scorer.rows({"a": (fresh[:1], labels[:1])}, max_images=20)
    with pytest.raises(DataError, match="3 test images"):
        ImageScorer(fresh, labels, fresh[:3], labels[:3], 3)


def test_the_classifier_is_trained_once_for_all_rows(data, monkeypatch):
    calls = []

    def count(*args):
        calls.append(args)
        return train_classifier(*args)

    monkeypatch.setattr(scores, "train_classifier", count)
    scorer = ImageScorer(*data, num_classes=3, num_steps=2, seed=4)
    assert not calls
    fresh, labels = make_images(20, 2)
    first = scorer.rows({"a": (fresh, labels), "b": (fresh, labels)}, 20)
    again = scorer.rows({"a": (fresh, labels)}, 20)
    assert len(calls) == 1
    assert calls[0][2:] == (3, 2, 128, 4)
    assert first["a"] == first["b"] == again["a"]


def test_images_without_classes_are_told_by_their_turns(data):
    train, _, test, _ = data
    zeros = np.zeros(len(train), int), np.zeros(len(test), int)
    scorer = ImageScorer(train, zeros[0], test, zeros[1], num_classes=1, num_steps=30)
    titles = [column.title for column in scorer.columns]
    assert titles == TITLES + PIXEL_TITLES
    fresh, _ = make_images(60, 2)
    samples = {"fresh": (fresh, np.zeros(60)), "down": (fresh[:, ::-1], None)}
    rows = scorer.rows(samples, max_images=60)
    described = scorer.describe_features()
    assert described == "classifier of quarter turns, 30 steps, seed 0"
    assert not {"class_accuracy", "is_clf"} & set(rows["fresh"])
    for bad in ("noise", "down"):
        assert rows["fresh"]["fd_clf"] < 0.5 * rows[bad]["fd_clf"]


def test_turned_images():
    images = np.random.default_rng(0).normal(size=(40, 5, 8, 2))
    turned = TurnedImages(images, seed=3)
    assert set(turned.turns) == {0, 1, 2, 3}
    assert turned.shape == (40, 5, 5, 2)
    rows = np.random.default_rng(1).permutation(40)
    results = zip(images[rows], turned[rows], turned.turns[rows], strict=True)
    for image, result, turn in results:
        square = image[:, 1:6]
        for _ in range(turn):  # a quarter turn: columns, last first, become rows
            square = np.stack([square[:, j] for j in reversed(range(5))])
        np.testing.assert_array_equal(result, square)


def test_training_is_repeatable():
    images, labels = make_images(40, 0)
    first, again, other = (
        train_classifier(images, labels, 3, 3, 64, seed) for seed in (0, 0, 1)
    )
    chex.assert_trees_all_equal(first, again)
    gaps = jax.tree.map(lambda a, b: np.abs(a - b).max(), first, other)
    # More than three steps at 3e-3 could: the initial parameters are others.
    assert gaps["params"]["head"]["kernel"] > 0.05


def test_every_image_is_learnt_from_once_an_epoch(monkeypatch):
    images, labels = make_images(40, 0)
    seen = []

    def record(params, opt_state, images, labels, *_):
        pairs = zip(images, labels, strict=True)
        seen.extend((image.tobytes(), int(label)) for image, label in pairs)
        return params, opt_state

    monkeypatch.setattr(classifier, "_train_step", record)
    train_classifier(images, labels, 3, 2, 20, seed=0)
    pairs = zip(images, labels, strict=True)
    assert sorted(seen) == sorted((image.tobytes(), int(n)) for image, n in pairs)


@pytest.mark.parametrize(("size", "expected"), [(8, 0), (9, 2)])
def test_training_is_compiled_once_and_shifts_larger_images(
    monkeypatch, size, expected
):
    images, labels = make_images(40, 0, size)
    shifts = []

    def record(images, shift, rng):
        shifts.append(shift)
        return shift_at_random(images, shift, rng)

    monkeypatch.setattr(classifier, "shift_at_random", record)
    # A batch size that no other test has, so that nothing is compiled yet.
    for seed in (0, 1):
        train_classifier(images, labels, 3, 3, 37, seed)
    assert shifts == [expected]


@pytest.mark.parametrize("num_steps", [1, 2])
def test_the_shortest_trainings_change_something(num_steps):
    images, labels = make_images(10, 0)
    params = train_classifier(images, labels, 3, num_steps, 4, seed=0)
    chex.assert_tree_all_finite(params)
    more = train_classifier(images, labels, 3, num_steps + 1, 4, seed=0)
    gap = np.abs(params["params"]["head"]["kernel"] - more["params"]["head"]["kernel"])
    assert gap.max() > 0


def test_batches_do_not_change_features(monkeypatch):
    images, labels = make_images(11, 0)
    params = train_classifier(images, labels, 3, 1, 4, seed=0)
    monkeypatch.setattr(classifier, "_BATCH", 11)
    whole = extract_features(params, images)
    monkeypatch.setattr(classifier, "_BATCH", 4)
    parts = extract_features(params, images)
    chex.assert_trees_all_close(whole, parts, rtol=1e-4, atol=1e-6)
    assert whole.features.shape == (11, 64)
    np.testing.assert_allclose(whole.probabilities.sum(axis=1), 1, rtol=1e-5)


def test_inceptions_columns_appear_only_with_its_weights(data, monkeypatch):
    """A stand-in for Inception: features are two pixels."""

    class StandIn:
        def __init__(self, weights):
            self.weights = weights

        def __call__(self, images):
            features = images[:, [0, 3], [1, 2], 0].astype(float)
            bright = 1 / (1 + np.exp(-features[:, :1]))
            return InceptionViews(features, np.concatenate([bright, 1 - bright], 1))

    monkeypatch.setattr(scores, "InceptionFeatures", StandIn)
    scorer = ImageScorer(*data, num_classes=3, num_steps=1, inception="weights.pth")
    assert [column.title for column in scorer.columns[-2:]] == ["FID", "IS"]
    fresh, labels = make_images(30, 2)
    rows = scorer.rows({"fresh": (fresh, labels)}, max_images=500)
    own, real = (StandIn("")(part) for part in (fresh, data[2]))
    expected = frechet_distance(own.features, real.features)
    assert rows["fresh"]["fid"] == pytest.approx(expected)
    expected = inception_score(own.probabilities)
    assert rows["fresh"]["inception_score"] == pytest.approx(expected)
    assert {"fid", "inception_score"} <= set(rows["held_out"]) & set(rows["noise"])


class OnDisk:
    """Images that can only be read some rows at a time."""

    def __init__(self, images, most):
        self.images, self.most, self.shape = images, most, images.shape
        self.dtype = images.dtype

    def __len__(self):
        return len(self.images)

    def __getitem__(self, rows):
        found = self.images[rows]
        assert len(found) <= self.most
        return found


@pytest.mark.parametrize(
    "num_classes", [3, pytest.param(1, marks=pytest.mark.thorough)]
)
def test_training_images_are_never_read_as_a_whole(data, monkeypatch, num_classes):
    monkeypatch.setattr(scores, "_MOST_FOR_SCALE", 100)
    monkeypatch.setattr(pixels, "_BLOCK", 128)
    train, labels, test, test_labels = data
    fresh = make_images(60, 2)
    tables = [
        ImageScorer(
            part, labels, test, test_labels, num_classes=num_classes, num_steps=3
        ).rows({"a": fresh}, max_images=60)
        for part in (train, OnDisk(train, most=256))
    ]
    assert tables[0] == tables[1]


def test_the_nearest_image_is_looked_for_among_all_or_so_many(data, monkeypatch):
    monkeypatch.setattr(pixels, "_BLOCK", 7)
    train, labels, *rest = data
    hidden = train.copy()
    fresh, _ = make_images(20, 2)
    hidden[201] = fresh[4]
    whole = ImageScorer(hidden, labels, *rest, num_classes=3, num_steps=1)
    distance, index = whole.nearest(fresh)
    assert (distance[4], index[4]) == (0, 201)
    assert whole.looked_at == "all 300"
    part = ImageScorer(hidden, labels, *rest, 3, num_steps=1, max_nearest=30)
    distance, index = part.nearest(fresh)
    assert len(set(index)) > 1
    assert distance[4] > 0
    chosen = np.linspace(0, 299, 30).astype(int)
    gaps = np.linalg.norm((fresh[:, None] - hidden[chosen]).reshape(20, 30, -1), axis=2)
    np.testing.assert_allclose(distance, gaps.min(axis=1), rtol=1e-6)
    np.testing.assert_array_equal(index, chosen[gaps.argmin(axis=1)])
    assert part.looked_at == "30 of 300"


def test_samples_that_are_not_finite_are_refused_in_words(scorer):
    fresh, labels = make_images(20, 2)
    fresh[[3, 5], 1, 1] = np.nan
    with pytest.raises(DataError, match="samples 'ema': 2 of 20 images hold NaN or"):
        scorer.rows({"ema": (fresh, labels)}, max_images=20)


def test_samples_of_some_classes_are_compared_with_test_images_of_these(data):
    train, train_labels, test, test_labels = data
    own = test_labels == 1
    scorer = ImageScorer(*data, num_classes=3, num_steps=2, classes=(1, 1))
    assert scorer.num_reference == own.sum() < len(test)
    fresh, labels = make_images(60, 2)
    rows = scorer.rows({"a": (fresh, labels)}, max_images=500)
    assert rows["a"]["num_reference"] == own.sum()
    assert rows["train"]["class_accuracy"] == pytest.approx(
        np.mean(scorer_classes(scorer, train[train_labels == 1]) == 1), abs=0.05
    )
    whole = ImageScorer(*data, num_classes=3, num_steps=2)
    distances = sliced_wasserstein_pixels(fresh, test[own])
    assert rows["a"]["swd_pixels"] == pytest.approx(distances, rel=0.02)
    assert (
        whole.rows({"a": (fresh, labels)}, 500)["a"]["swd_pixels"]
        != rows["a"]["swd_pixels"]
    )
    assert scorer.describe_reference("abc") == "test images of b"
    assert whole.describe_reference("abc") == "test images of all classes"


def scorer_classes(scorer, images):
    params, _ = scorer._classifier
    return extract_features(params, images).probabilities.argmax(axis=1)


def test_too_few_test_images_of_the_classes_asked_for_are_said(data):
    train, train_labels, test, _ = data
    rare = np.where(np.arange(len(test)) < 3, 2, 0)
    scorer = ImageScorer(train, train_labels, test, rare, 3, num_steps=2, classes=(2,))
    assert scorer.lacks_classes
    assert scorer.num_reference == len(test)
    assert "ALL classes, as fewer than 4 are of c" in scorer.describe_reference("abc")
