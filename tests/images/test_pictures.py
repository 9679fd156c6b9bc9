"""Pictures of the image task, and the classes that are sampled."""

import dataclasses
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from matplotlib import image

from ncgn_jax.domains import make_task
from ncgn_jax.faults import DataError
from ncgn_jax.images import pictures as image_pictures
from ncgn_jax.images.draw_images import draw_costs, draw_image_rows
from ncgn_jax.images.pictures import draw_classes, draw_paths
from tests.images.image_tasks import small_config, small_task, stubbed


def predict_anything(params, bucket, x_t, t, label):
    """Depends on all that a network knows."""
    return jnp.tanh(bucket.patch * x_t) + 0.1 * (t + label)[:, None, None, None]


def test_classes_are_sampled_in_turn_if_named():
    task = stubbed(small_task("sample.classes=(3,7)"), predict_anything)
    samples = task.sample({}, {}, 5, 0)
    np.testing.assert_array_equal(samples["labels"], [3, 7, 3, 7, 3], strict=False)
    assert samples["images"].dtype == np.uint8
    with pytest.raises(DataError, match=r"sample\.classes=\(10,\); .* 0\.\.9"):
        make_task(small_config("sample.classes=(10,)"))


@pytest.mark.parametrize("random", [False, True])
def test_paths_compile_nothing_and_end_in_the_samples(tmp_path, monkeypatch, random):
    monkeypatch.setattr(image_pictures, "draw_image_rows", lambda *args, title: args)
    # Two images a device, so that fewer would be another program.
    sizes = "sample.num_samples=16", "sample.batch_size=16", "sample.num_steps=12"
    task, traced = small_task(*sizes, f"sample.random_buckets={random}"), []

    def predict(*args):  # called when a program is traced
        traced.append(1)
        return predict_anything(*args)

    task = stubbed(task, predict)
    samples = task.sample({}, {}, task.config.sample.num_samples, task.config.seed)
    assert traced
    traced.clear()
    names, start_and_path = task.facts.class_names, task.first_paths({})
    assert not traced
    rows, titles, _, headings, grids = draw_paths(
        task.model, *start_and_path, tmp_path / "a.png"
    )
    np.testing.assert_array_equal(rows[:, -1], samples["images"][:4])
    assert titles == [names[label] for label in samples["labels"][:4]]
    assert headings[0] == "noise"
    assert headings[-1] == "t = 1.00"
    assert len(headings) == len(grids) == rows.shape[1]
    assert len(rows[0]) == 1 + (8 if random else 3)
    assert set(grids[1:]) == {4, 2, 1}
    assert grids[0] is None


@pytest.mark.parametrize("num_classes", [3, 200])
def test_sheets_have_rows_of_classes_or_names_of_each_image(num_classes, monkeypatch):
    seen = {}

    def record(rows, titles, path, captions=(), title=""):
        seen.update(rows=rows, titles=titles, captions=captions)

    monkeypatch.setattr(image_pictures, "draw_image_rows", record)
    count, facts = 60, small_task().facts
    names = tuple(f"class number {i} of many" for i in range(num_classes))
    facts = dataclasses.replace(facts, class_names=names)
    labels = np.arange(count) * (num_classes // 3) % num_classes + np.arange(count) // 3
    labels = labels % num_classes
    images = np.arange(count, dtype=np.uint8)[:, None, None, None]
    images = np.broadcast_to(images, (count, 8, 8, 1))
    draw_classes({"images": images, "labels": labels}, facts, Path("a.png"))
    assert all(len(row) <= 10 for row in seen["rows"])
    numbers = [row[:, 0, 0, 0] for row in seen["rows"]]
    if num_classes == 3:
        assert seen["titles"] == ["class number.."] * 3
        for label, row in enumerate(numbers):
            np.testing.assert_array_equal(row, np.flatnonzero(labels == label)[:10])
    else:
        np.testing.assert_array_equal(np.concatenate(numbers), np.arange(count))
        assert [len(row) for row in seen["captions"]] == [10] * 6


def test_a_caption_stands_above_each_image(tmp_path):
    rows = [np.zeros((3, 8, 8, 1), np.uint8), np.zeros((2, 8, 8, 1), np.uint8)]
    captions = [["a", "b", "c"], ["d", "e"]]
    plain = draw_image_rows(rows, ["", ""], tmp_path / "plain.png")
    named = draw_image_rows(rows, ["", ""], tmp_path / "a.png", captions=captions)
    sizes = [image.imread(path).shape for path in (plain, named)]
    assert sizes[1][0] > sizes[0][0] + 10


def test_costs_are_drawn(tmp_path):
    path = draw_costs([0.0, 0.7, 1.0], [1.0, 4.0], [4, 16], 2.0, tmp_path / "cost.png")
    assert image.imread(path)[..., :3].min() < 0.3
