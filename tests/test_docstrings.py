"""The examples in the docstrings of all modules run and give what they say."""

import doctest
import importlib
from pathlib import Path

import jax
import pytest

ROOT = Path(__file__).resolve().parent.parent / "ncgn_jax"
WITH_EXAMPLES = [
    path.relative_to(ROOT.parent).with_suffix("").as_posix().removesuffix("/__init__")
    for path in sorted(ROOT.rglob("*.py"))
    if ">>>" in path.read_text()
]


@pytest.mark.usefixtures("compile_quickly")
@pytest.mark.parametrize("name", WITH_EXAMPLES)
def test_examples_run(name):
    if "/molecules/" in name:
        pytest.importorskip("rdkit")
    # Studies run in float64.
    with jax.enable_x64("/studies/" in name):
        result = doctest.testmod(importlib.import_module(name.replace("/", ".")))
    assert result.attempted > 0
    assert result.failed == 0
