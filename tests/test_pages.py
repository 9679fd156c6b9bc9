"""What the pages name is there: fields, commands, modules and files."""

import importlib
import importlib.util
import re
import tomllib
from collections.abc import Iterable
from pathlib import Path

import pytest

from ncgn_jax import domains
from ncgn_jax.command import COMMANDS
from ncgn_jax.fields import SECTIONS
from ncgn_jax.loading import shipped_models

ROOT = Path(__file__).resolve().parent.parent
WRITTEN = [
    ROOT / "docs" / "get-started.md",
    ROOT / "docs" / "decisions.md",
    *sorted((ROOT / "docs" / "concepts").glob("*.md")),
    *sorted((ROOT / "docs" / "how-to").glob("*.md")),
]
FIELDS = {row.name for task in domains.DOMAINS.values() for row in task.fields}
FIELD = re.compile(rf"`(?:--config\.)?((?:{'|'.join(SECTIONS)})\.[a-z_]+)(?![\w.])")
SET = re.compile(r"--config\.([a-z_]+(?:\.[a-z_]+)?)=")
VERB = re.compile(r"^ncgn (\w+)", re.MULTILINE)
CONFIG = re.compile(r"--config=(?:configs/)?([a-z0-9_]+)(?:\.py)?(?=[\s`\\]|$)")
CODE = re.compile(r"^```py\n(.*?)^```", re.DOTALL | re.MULTILINE)
# A configuration that a reader writes.
OWN = {"my_marks", "FILE"}


def is_in_package(name: str) -> bool:
    """Tells modules, files and functions of the package from fields."""
    home, _, own = name.partition(".")
    if own in ("py", "json"):
        return True
    try:
        module = importlib.import_module(f"ncgn_jax.{home}")
    except ModuleNotFoundError:
        return False
    if hasattr(module, own):
        return True
    is_package = hasattr(module, "__path__")
    return is_package and importlib.util.find_spec(f"ncgn_jax.{name}") is not None


def unknown_fields(text: str) -> Iterable[str]:
    named = {*FIELD.findall(text), *SET.findall(text)} - FIELDS
    return sorted(name for name in named if not is_in_package(name))


@pytest.mark.parametrize("page", WRITTEN, ids=lambda page: page.stem)
def test_pages_name_what_there_is(page):
    text = page.read_text(encoding="utf-8")
    assert not unknown_fields(text)
    assert set(VERB.findall(text)) <= set(COMMANDS)
    known = {path.stem for path in (ROOT / "configs").glob("*.py")} | OWN
    assert set(CONFIG.findall(text)) <= known


@pytest.mark.parametrize("page", WRITTEN, ids=lambda page: page.stem)
def test_python_on_pages_is_python(page):
    for block in CODE.findall(page.read_text(encoding="utf-8")):
        compile(block, str(page), "exec")


@pytest.mark.parametrize("page", WRITTEN, ids=lambda page: page.stem)
def test_items_of_lists_do_not_run_into_what_stands_before(page):
    # Python-Markdown takes them for text there, where other dialects do not.
    text = re.sub(r"^```.*?^```", "", page.read_text("utf-8"), flags=re.DOTALL | re.M)
    assert not re.findall(r"^(?! *- |  \S|#|$).*\n- .*", text, flags=re.MULTILINE)


def test_get_started_lists_what_comes_with_the_package():
    text = (ROOT / "docs" / "get-started.md").read_text(encoding="utf-8")
    table = text.partition("## The configurations")[2]
    for path in (ROOT / "configs").glob("*.py"):
        assert f"`{path.stem}`" in table
    for name in shipped_models():
        assert f"| `{name}` |" in text


def test_get_started_lists_the_extras():
    text = (ROOT / "docs" / "get-started.md").read_text(encoding="utf-8")
    table = text.partition("## Install")[2].partition('```bash\npip install -e ".[')[0]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    for extra in project["project"]["optional-dependencies"]:
        assert f"`{extra}`" in table


def test_headers_of_configurations_name_pages_of_the_site():
    for path in (ROOT / "configs").glob("*.py"):
        header = path.read_text(encoding="utf-8").split('"""')[1]
        assert "README.md," not in header
        for page in re.findall(r"docs/[\w/-]+\.md", header):
            named = ROOT / page
            assert named.is_file() or "results" in named.parts


def test_a_field_that_is_gone_is_found():
    assert unknown_fields("`dmp.plan`") == ["dmp.plan"]
    assert unknown_fields("--config.train.steps=3") == ["train.steps"]
    assert not unknown_fields("`data.report` and `model.width=3`")
