"""The rules of the house, read off the syntax trees of all files."""

import ast
import doctest
import importlib
from pathlib import Path

import jax
import pytest

PACKAGE = "ncgn_jax"
ROOT = Path(__file__).resolve().parent.parent / PACKAGE
FILES = sorted(ROOT.rglob("*.py"))
TREES = {path: ast.parse(path.read_text(), str(path)) for path in FILES}
NAMES = [path.relative_to(ROOT).as_posix() for path in FILES]

# What a part may import besides itself. Parts are the packages and top modules.
DOMAIN = {"process", "graphs", "metrics", "data", "pictures", "faults"}
TASK_LEVEL = DOMAIN | {"models", "parallel", "logs"}
RUN_LEVEL = TASK_LEVEL | {"tasks", "state", "checkpoint", "config", "processes"}
RUN_LEVEL |= {"lock", "preemption", "optimizer"}
COMPARE_LEVEL = RUN_LEVEL | {"train", "generate", "evaluate"}
ALLOWED = {
    **dict.fromkeys(DOMAIN, set()),
    "processes": set(),
    "parallel": {"processes"},
    "lock": {"processes"},
    "preemption": {"processes"},
    "logs": set(),
    "optimizer": set(),
    "state": set(),
    "checkpoint_format": set(),
    "models": {"graphs"},
    "convert": {"graphs", "models"},
    "config": {"faults", "parallel"},
    "checkpoint": {"checkpoint_format", "config", "processes"},
    "tasks": TASK_LEVEL,
    "train": RUN_LEVEL,
    "generate": RUN_LEVEL | {"train"},
    "evaluate": RUN_LEVEL | {"train", "generate"},
    "levels": RUN_LEVEL | {"train", "generate"},
    "speed": RUN_LEVEL | {"train"},
    "variants": RUN_LEVEL | {"train"},
    "compare_runs": COMPARE_LEVEL | {"variants"},
    "compare_report": COMPARE_LEVEL | {"compare_runs"},
    "compare": COMPARE_LEVEL | {"speed", "variants", "compare_runs", "compare_report"},
    "studies": RUN_LEVEL | {"train"},
    "main": COMPARE_LEVEL | {"compare"},
}


def part_of(path):
    """The package below ours, or the top module, that a file belongs to."""
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def modules_of(path, tree):
    """Every module that a file imports, at any depth of its code."""
    package = [PACKAGE, *path.relative_to(ROOT).parts[:-1]]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            yield module
            yield from (f"{module}.{alias.name}" for alias in node.names)


def calls_of(tree, name):
    """Calls of a function or method of that name, however it was imported."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            called = getattr(node.func, "attr", getattr(node.func, "id", None))
            if called == name:
                yield node


def keywords_of(call):
    return {
        keyword.arg: getattr(keyword.value, "value", None) for keyword in call.keywords
    }


def test_there_is_something_to_check():
    assert {"main.py", "train.py", "graphs/multiscale.py"} <= set(NAMES)


def test_every_part_has_its_place():
    parts = {part_of(path) for path in FILES} - {"__init__"}
    assert parts <= set(ALLOWED), "say in ALLOWED what the new part may import"


@pytest.mark.parametrize("path", FILES, ids=NAMES)
def test_imports_run_one_way(path):
    own = part_of(path)
    ours = {
        name.split(".")[1]
        for name in modules_of(path, TREES[path])
        if name.startswith(f"{PACKAGE}.")
    }
    parts = ours & set(ALLOWED)
    wrong = parts - ALLOWED.get(own, set()) - {own}
    assert not wrong, f"{own} may not import {sorted(wrong)}"
    if own != "__init__":
        assert ours <= set(ALLOWED)


def test_the_order_of_the_parts_has_no_circle():
    left = {part: set(needs) for part, needs in ALLOWED.items()}
    while left:
        free = {part for part, needs in left.items() if not needs & set(left)}
        assert free, f"these import each other: {sorted(left)}"
        left = {part: needs for part, needs in left.items() if part not in free}


@pytest.mark.parametrize("path", FILES, ids=NAMES)
def test_only_parallel_knows_pmap(path):
    uses = [
        node
        for node in ast.walk(TREES[path])
        if (isinstance(node, ast.Attribute) and node.attr == "pmap")
        or (isinstance(node, ast.Name) and node.id == "pmap")
        or (isinstance(node, ast.alias) and node.name.split(".")[-1] == "pmap")
    ]
    assert bool(uses) == (path.name == "parallel.py")


@pytest.mark.parametrize("path", FILES, ids=NAMES)
def test_files_are_short_named_and_described(path):
    vague = {"utils", "util", "helpers", "helper", "common", "misc"}
    assert not vague & {part.removesuffix(".py") for part in path.parts}
    num_lines = len(path.read_text().splitlines())
    assert num_lines <= 450
    assert ast.get_docstring(TREES[path]), "a module says what it is for"


@pytest.mark.parametrize("path", FILES, ids=NAMES)
def test_no_file_is_unpickled(path):
    tree = TREES[path]
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            assert not keywords_of(node).get("allow_pickle")
    assert not {"pickle", "cPickle", "dill", "cloudpickle", "joblib"} & {
        name.split(".")[0] for name in modules_of(path, tree)
    }
    imports = {name.split(".")[0] for name in modules_of(path, tree)}
    if "torch" in imports:
        for call in calls_of(tree, "load"):
            if getattr(getattr(call.func, "value", None), "id", None) != "np":
                assert keywords_of(call).get("weights_only") is True


def test_the_loader_of_checkpoints_is_among_the_files_checked():
    tree = TREES[ROOT / "convert.py"]
    kinds = [set(keywords_of(call)) for call in calls_of(tree, "load")]
    assert {"weights_only", "map_location"} in kinds
    assert {"allow_pickle"} in kinds


@pytest.mark.parametrize("path", FILES, ids=NAMES)
def test_nothing_runs_at_import(path):
    """Top-level statements define; calls appear in assignments and guards only."""
    for node in TREES[path].body:
        if isinstance(node, ast.Expr):
            call = isinstance(node.value, ast.Call)
            # jax's way of attaching a gradient to a function.
            attaches = call and getattr(node.value.func, "attr", "") == "defvjp"
            assert isinstance(node.value, ast.Constant) or attaches, ast.unparse(node)
        assert not isinstance(node, ast.For | ast.While | ast.With), ast.unparse(node)


WITH_EXAMPLES = [
    name
    for name in NAMES
    if name.startswith(("graphs/", "tasks/", "studies/")) or name == "convert.py"
    if ">>>" in (ROOT / name).read_text()
]


@pytest.mark.usefixtures("compile_quickly")
@pytest.mark.parametrize("name", WITH_EXAMPLES)
def test_examples_in_docstrings_run(name):
    dotted = name.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
    # Studies run in float64.
    with jax.enable_x64(name.startswith("studies/")):
        result = doctest.testmod(importlib.import_module(f"{PACKAGE}.{dotted}"))
    assert result.attempted > 0
    assert result.failed == 0
