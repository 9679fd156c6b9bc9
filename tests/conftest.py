"""Session-wide settings: eight CPU devices, strict broadcasting, shared data."""

import gc
from pathlib import Path

import jax
import pytest

from ncgn_jax.domains import DOMAINS
from tests.line_task import LineTask

jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_rank_promotion", "raise")
# Asserts of helpers fail as readably as those of tests.
pytest.register_assert_rewrite("tests.expression.cell_tables")

REPOSITORY = Path(__file__).resolve().parent.parent


def pytest_addoption(parser):
    parser.addoption(
        "--thorough",
        action="store_true",
        help="also the tests that repeat in full, or in further settings, what others "
        "test in small",
    )


def pytest_collection_modifyitems(config, items):
    """Puts slow tests first, so that no worker is left alone with one at the end."""
    if not config.getoption("--thorough"):
        left_out = [item for item in items if item.get_closest_marker("thorough")]
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


def pytest_collection_finish():
    """Looks for garbage rarely: tracing makes objects faster than it leaves cycles."""
    gc.freeze()
    gc.set_threshold(100_000, 20, 20)


@pytest.fixture
def rng():
    return jax.random.key(0)


@pytest.fixture(scope="module")
def compile_quickly():
    """For modules in which compiling costs far more than running."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture
def line_domain(monkeypatch):
    """Makes the domain of `tests.line_task` known."""
    monkeypatch.setitem(DOMAINS, "line", LineTask)


@pytest.fixture
def fixtures():
    return REPOSITORY / "tests" / "fixtures"


@pytest.fixture
def shared_data():
    folder = REPOSITORY.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("the data folder beside the repository is absent")
    return folder


@pytest.fixture
def primitives():
    """Names every primitive of a jaxpr, those inside calls too."""

    def walk(jaxpr):
        names = set()
        for equation in jaxpr.eqns:
            names.add(equation.primitive.name)
            for value in equation.params.values():
                for part in value if isinstance(value, tuple | list) else (value,):
                    inner = getattr(part, "jaxpr", part)
                    if hasattr(inner, "eqns"):
                        names |= walk(inner)
        return names

    return walk
