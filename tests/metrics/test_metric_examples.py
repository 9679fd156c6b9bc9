"""The worked examples in the docstrings of the metrics run and hold."""

import doctest
import importlib

import pytest


@pytest.mark.parametrize(
    "name",
    [
        "anchors",
        "cloud_statistics",
        "evaluation",
        "point_clouds",
        "table",
        "transport",
    ],
)
def test_examples(name):
    module = importlib.import_module(f"ncgn_jax.metrics.{name}")
    failed, attempted = doctest.testmod(module)
    assert attempted > 0
    assert failed == 0
