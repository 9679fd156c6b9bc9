"""The rules of the house, read off the syntax trees of all files."""

import ast
import functools
from pathlib import Path

import pytest

PACKAGE = "ncgn_jax"
ROOT = Path(__file__).resolve().parent.parent / PACKAGE


@functools.cache
def trees():
    """The syntax tree of every file, by its path in the package."""
    return {
        path.relative_to(ROOT).as_posix(): ast.parse(path.read_text(), str(path))
        for path in sorted(ROOT.rglob("*.py"))
    }


# What a part may import besides itself. Parts are the packages and top modules.
DOMAINS = {"point_clouds", "expression", "molecules", "images"}
GROUND = {"faults", "process", "graphs", "models", "metrics", "data", "pictures"}
GROUND |= {"processes", "parallel", "fields", "run", "config", "registry"}
TASKS = GROUND | {"tasks"}
ALL_DOMAINS = TASKS | DOMAINS
LOADING = ALL_DOMAINS | {"domains", "memory", "plugins"}
LOOP = LOADING | {"loading", "starting", "loop"}
ALLOWED = {
    "faults": set(),
    "registry": set(),
    "process": {"faults"},
    "graphs": {"faults"},
    "metrics": {"faults"},
    "data": {"faults"},
    "pictures": {"data"},
    "fields": {"faults"},
    "processes": {"faults"},
    "models": {"graphs"},
    "parallel": {"processes"},
    "config": {"faults", "parallel"},
    "run": {"faults", "processes", "config", "data", "registry"},
    "convert": {"data", "faults", "graphs", "models", "processes"},
    "tasks": GROUND,
    **dict.fromkeys(DOMAINS, TASKS),
    "domains": ALL_DOMAINS,
    "memory": ALL_DOMAINS | {"domains"},
    "plugins": ALL_DOMAINS | {"domains"},
    "loop": LOOP,
    "training": LOOP,
    "check": LOOP,
    "verbs": LOOP,
    "generate": LOOP,
    "evaluate": LOOP | {"generate"},
    "levels": LOOP | {"generate"},
    "comparison": LOOP | {"generate", "evaluate"},
    "compare": LOOP | {"generate", "evaluate", "comparison"},
    "studies": LOOP,
    "loading": LOADING,
    "starting": LOADING | {"loading"},
    "dmp": TASKS,
    "help": ALL_DOMAINS | {"domains"},
    "running": LOOP | {"generate", "evaluate", "help"},
    "main": {"running", "run"},
    "command": LOOP | {"main", "check", "compare", "levels", "verbs"},
}
# Besides these, only a domain's config.py, load.py and task.py read a ConfigDict.
READS_CONFIG = {
    "faults.py", "fields.py", "config.py", "domains.py", "memory.py", "loop.py",
    "check.py", "generate.py", "evaluate.py", "levels.py", "training.py", "help.py",
    "compare.py",
    "run/optimizer.py", "tasks/__init__.py", "tasks/settings.py", "comparison/runs.py",
    "comparison/speed.py", "comparison/variants.py", "molecules/autoencoder_task.py",
    "studies/range_and_resolution/shapes.py",
}  # fmt: skip


def part_of(name):
    """The package below ours, or the top module, that a file belongs to."""
    return name.split("/")[0].removesuffix(".py")


def dotted(name):
    return f"{PACKAGE}.{name.removesuffix('.py').replace('/', '.')}".removesuffix(
        ".__init__"
    )


def modules_of(name, tree):
    """Every module that a file imports, at any depth of its code, typing too."""
    package = [PACKAGE, *name.split("/")[:-1]]
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


def imported_parts(name, tree):
    ours = {
        module.split(".")[1]
        for module in modules_of(name, tree)
        if module.startswith(f"{PACKAGE}.")
    }
    return ours & set(ALLOWED)


def has_place(name, tree):
    """A part may import what ALLOWED says, and no domain another."""
    own = part_of(name)
    if own == "__init__":
        return None
    if own not in ALLOWED:
        return "say in ALLOWED what the new part may import"
    wrong = imported_parts(name, tree) - ALLOWED[own] - {own}
    return f"{own} may not import {sorted(wrong)}" if wrong else None


def leaves_devices_to_parallel(name, tree):
    uses = [
        node
        for node in ast.walk(tree)
        if (isinstance(node, ast.Attribute) and node.attr == "pmap")
        or (isinstance(node, ast.Name) and node.id == "pmap")
        or (isinstance(node, ast.alias) and node.name.split(".")[-1] == "pmap")
    ]
    return "names pmap" if bool(uses) != (name == "parallel.py") else None


def leaves_jraph_to_one_module(name, tree):
    uses = any(module.split(".")[0] == "jraph" for module in modules_of(name, tree))
    right = uses == (name == "graphs/message_passing.py")
    return None if right else "imports jraph"


def is_named_and_described(name, tree):
    vague = {"utils", "util", "helpers", "helper", "common", "misc"}
    if vague & {part.removesuffix(".py") for part in name.split("/")}:
        return "a vague name"
    return None if ast.get_docstring(tree) else "a module says what it is for"


def unpickles_nothing(name, tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and keywords_of(node).get("allow_pickle"):
            return "allow_pickle"
    imports = {module.split(".")[0] for module in modules_of(name, tree)}
    if imports & {"pickle", "cPickle", "dill", "cloudpickle", "joblib"}:
        return "imports an unpickler"
    if "torch" in imports:
        for call in calls_of(tree, "load"):
            by_numpy = getattr(getattr(call.func, "value", None), "id", None) == "np"
            if not by_numpy and keywords_of(call).get("weights_only") is not True:
                return "loads a torch file with code"
    return None


def does_nothing_at_import(name, tree):
    """Top-level statements define; calls appear in assignments and guards only."""
    for node in tree.body:
        if isinstance(node, ast.Expr):
            call = isinstance(node.value, ast.Call)
            # jax's way of attaching a gradient to a function.
            attaches = call and getattr(node.value.func, "attr", "") == "defvjp"
            if not (isinstance(node.value, ast.Constant) or attaches):
                return ast.unparse(node)
        if isinstance(node, ast.For | ast.While | ast.With):
            return ast.unparse(node)
    return None


def reads_configurations_in_its_place(name, tree):
    reads = any(
        isinstance(node, ast.Name | ast.alias)
        and "ConfigDict" in (getattr(node, "id", None), getattr(node, "name", None))
        for node in ast.walk(tree)
    )
    domain, _, file = name.partition("/")
    allowed = name in READS_CONFIG or (
        domain in DOMAINS and file in ("config.py", "load.py", "task.py")
    )
    return "reads a ConfigDict" if reads and not allowed else None


def takes_models_not_tasks(name, tree):
    """No argument `task` of any type, and no method that might be there."""
    for node in ast.walk(tree):
        if isinstance(node, ast.arg) and node.arg == "task" and node.annotation:
            kind = ast.unparse(node.annotation)
            if "Any" in kind:
                return f"takes task: {kind}"
            if part_of(name) in DOMAINS and "Task" in kind:
                return f"takes task: {kind}"
    for call in calls_of(tree, "getattr"):
        if "task" in ast.unparse(call.args[0]):
            return ast.unparse(call)
    return None


def describes_public_functions(name, tree):
    missing = []

    def visit(body, prefix=""):
        for node in body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                if node.name.startswith("_"):
                    continue
                if not ast.get_docstring(node):
                    missing.append(prefix + node.name)
                if isinstance(node, ast.ClassDef):
                    visit(node.body, f"{node.name}.")

    visit(tree.body)
    return f"no docstring: {', '.join(missing)}" if missing else None


RULES = [
    has_place,
    leaves_devices_to_parallel,
    leaves_jraph_to_one_module,
    is_named_and_described,
    unpickles_nothing,
    does_nothing_at_import,
    reads_configurations_in_its_place,
    takes_models_not_tasks,
    describes_public_functions,
]


@pytest.mark.parametrize("rule", RULES, ids=[rule.__name__ for rule in RULES])
def test_every_file(rule):
    assert {"main.py", "loop.py", "graphs/multiscale.py"} <= set(trees())
    faults = {name: rule(name, tree) for name, tree in trees().items()}
    assert not {name: fault for name, fault in faults.items() if fault}


@pytest.mark.parametrize(
    ("rule", "name", "text"),
    [
        (has_place, "images/task.py", "from ncgn_jax.molecules import sets"),
        (has_place, "graphs/grids.py", "def f():\n  from ncgn_jax import images.task"),
        (has_place, "metrics/table.py", "import ncgn_jax.point_clouds.anchors"),
        (leaves_devices_to_parallel, "loop.py", "from jax import pmap"),
        (leaves_jraph_to_one_module, "models/pna.py", "def f():\n  import jraph.utils"),
        (is_named_and_described, "data/utils.py", '"""Does things."""'),
        (is_named_and_described, "data/cache.py", "x = 1"),
        (unpickles_nothing, "data/cache.py", "np.load(x, allow_pickle=True)"),
        (unpickles_nothing, "convert.py", "import torch\ntorch.load(x)"),
        (does_nothing_at_import, "loop.py", "print(1)"),
        (reads_configurations_in_its_place, "images/model.py", "x: ConfigDict"),
        (takes_models_not_tasks, "images/costs.py", "def f(task: Any): pass"),
        (takes_models_not_tasks, "images/costs.py", "def f(task: ImageTask): pass"),
        (takes_models_not_tasks, "compare.py", "getattr(task, 'costs', None)"),
        (describes_public_functions, "loop.py", "def f(): pass"),
    ],
)
def test_each_rule_can_be_broken(rule, name, text):
    text = text.replace(
        "from ncgn_jax import images.task", "import ncgn_jax.images.task"
    )
    assert rule(name, ast.parse(text))


def find_circle(needs):
    """Modules of which each is needed by another one, [] if there is none."""
    left = {module: set(others) for module, others in needs.items()}
    while left:
        free = {module for module, others in left.items() if not others & set(left)}
        if not free:
            return sorted(left)
        left = {m: others for m, others in left.items() if m not in free}
    return []


def test_no_modules_import_each_other():
    known = {dotted(name): name for name in trees()}
    needs = {}
    for module, name in known.items():
        others = {found for found in modules_of(name, trees()[name]) if found in known}
        # A package is imported with each of its modules; that is no dependence.
        others -= {module, module.rpartition(".")[0]}
        if name.endswith("__init__.py"):
            others = {other for other in others if not other.startswith(f"{module}.")}
        needs[module] = others
    assert find_circle(needs) == []
    assert find_circle({part: own - {part} for part, own in ALLOWED.items()}) == []
    assert find_circle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["a", "b", "c"]


def test_the_loader_of_checkpoints_is_among_the_files_checked():
    tree = trees()["convert.py"]
    kinds = [set(keywords_of(call)) for call in calls_of(tree, "load")]
    assert {"weights_only", "map_location"} in kinds
