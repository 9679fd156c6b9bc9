"""Stored tutorials were executed as they stand, and say nothing of one machine."""

import ast
import copy
import importlib
import json

import pytest

from docs.run_notebooks import DIGEST, MAX_BYTES, TUTORIALS, code_digest, faults

NOTEBOOKS = sorted(TUTORIALS.glob("*.ipynb"))


def executed(*cells):
    """Makes a notebook of code cells (source, printed text), executed in order."""
    notebook = {
        "metadata": {},
        "cells": [
            {
                "cell_type": "code",
                "source": [source],
                "execution_count": count,
                "outputs": [{"output_type": "stream", "name": "stdout", "text": text}],
            }
            for count, (source, text) in enumerate(cells, start=1)
        ],
    }
    notebook["metadata"][DIGEST] = code_digest(notebook)
    return notebook


def test_there_are_tutorials():
    assert NOTEBOOKS


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_was_executed_as_it_stands(path):
    content = path.read_bytes()
    notebook = json.loads(content)
    assert (notebook["nbformat"], notebook["metadata"]["kernelspec"]["name"]) == (
        4,
        "python3",
    )
    assert notebook["cells"][0]["cell_type"] == "markdown"
    assert faults(notebook, len(content)) == []


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_what_notebooks_import_exists(path):
    """So that a name that is gone is noticed without running them."""
    cells = json.loads(path.read_bytes())["cells"]
    for source in ("".join(c["source"]) for c in cells if c["cell_type"] == "code"):
        if source.startswith("%%"):
            continue  # no Python
        code = "\n".join(line for line in source.splitlines() if line[:1] not in "%!")
        for node in ast.walk(ast.parse(code)):
            if isinstance(node, ast.ImportFrom) and "ncgn_jax" in str(node.module):
                module = importlib.import_module(node.module)
                for name in node.names:
                    assert hasattr(module, name.name), name.name


def test_executed_notebook_has_no_faults():
    assert faults(executed(("1", "1\n"), ("open('/tmp/a')", "done\n")), 100) == []


def test_edited_code_is_noticed():
    notebook = executed(("1", "1\n"))
    notebook["cells"][0]["source"] = ["2"]
    assert faults(notebook, 100) == ["its code is not that which was executed"]


@pytest.mark.parametrize("counts", [[2, 1], [1, None], [1, 3]])
def test_other_orders_are_noticed(counts):
    notebook = executed(("1", ""), ("2", ""))
    for cell, count in zip(notebook["cells"], counts, strict=True):
        cell["execution_count"] = count
    assert faults(notebook, 100)


def test_errors_are_noticed():
    notebook = copy.deepcopy(executed(("1/0", "")))
    error = {"output_type": "error", "ename": "ZeroDivisionError", "traceback": []}
    notebook["cells"][0]["outputs"] = [error]
    assert faults(notebook, 100) == ["cell 1 ended with an error"]


@pytest.mark.parametrize(
    "text", ["saved /home/me/a.png", "'/tmp/x/y'", "<Axes at 0x7f01>", "1%\r2%"]
)
def test_machines_and_progress_bars_are_noticed(text):
    assert len(faults(executed(("1", text)), 100)) == 1


def test_relative_paths_may_be_shown():
    assert faults(executed(("1", "runs/tmp/a.png, data/home/b")), 100) == []


def test_large_notebooks_are_noticed():
    assert len(faults(executed(("1", "")), MAX_BYTES + 1)) == 1
