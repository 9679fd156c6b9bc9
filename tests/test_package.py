"""The archives that are released: what is inside, and how an index shows them."""

import email
import importlib.util
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from html.parser import HTMLParser

import pytest
from markdown_it import MarkdownIt

from tests.conftest import REPOSITORY

FILES = [
    "CHANGELOG.md", "CITATION.cff", "CONTRIBUTING.md", "LICENSE", "MANIFEST.in",
    "NOTICE", "README.md", "pyproject.toml", "requirements.txt", "setup.py",
]  # fmt: skip
LINKED = """[one](docs/a.md), [two](https://b.example), ![three](c.png "title") `[d](e)`
[![four](f.png)](g.md) <a href="h.md">five</a> <img alt="six" src="i"> [7](#eight)
[`nine`](k/l.py)

```py
[ten](m.md)
```
"""
HELD = [
    "ncgn_jax/py.typed",
    "ncgn_jax/images/embedded/digits.npz",
    "ncgn_jax/molecules/embedded/qm9_sample.csv",
]


@pytest.fixture(scope="module")
def setup_module():
    spec = importlib.util.spec_from_file_location("setup", REPOSITORY / "setup.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def archives(tmp_path_factory):
    """Builds both archives in a copy, so that the tree stays clean."""
    copy = tmp_path_factory.mktemp("package") / "copy"
    without = shutil.ignore_patterns("__pycache__", "*.egg-info")
    for folder in ("ncgn_jax", "configs"):
        shutil.copytree(REPOSITORY / folder, copy / folder, ignore=without)
    for name in FILES:
        shutil.copy(REPOSITORY / name, copy / name)
    run("build", "--no-isolation", "--outdir", "dist", cwd=copy)
    (sdist,) = (copy / "dist").glob("*.tar.gz")
    (wheel,) = (copy / "dist").glob("*.whl")
    return sdist, wheel


def run(module, *arguments, cwd):
    command = [sys.executable, "-m", module, *map(str, arguments)]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


class Targets(HTMLParser):
    """Gathers every target of a link or a picture."""

    def __init__(self, markdown):
        super().__init__()
        self.found = []
        self.feed(MarkdownIt("commonmark", {"html": True}).render(markdown))

    def handle_starttag(self, tag, attrs):
        names = {"href", "src", "srcset"}
        self.found += [value for name, value in attrs if name in names]


def test_without_an_address_nothing_is_relative(setup_module):
    text = setup_module.long_description(LINKED)
    assert Targets(text).found == ["https://b.example"]
    expected = """one, [two](https://b.example), `[d](e)` five 7 `nine`
        ```py [ten](m.md) ```"""
    assert text.split() == expected.split()


def test_with_an_address_all_targets_are_below_it(setup_module):
    text = setup_module.long_description(LINKED, "https://r.example/x/")
    assert Targets(text).found == [
        "https://r.example/x/blob/HEAD/docs/a.md",
        "https://b.example",
        "https://r.example/x/raw/HEAD/c.png",
        "https://r.example/x/blob/HEAD/g.md",
        "https://r.example/x/raw/HEAD/f.png",
        "https://r.example/x/blob/HEAD/h.md",
        "https://r.example/x/raw/HEAD/i",
        "https://r.example/x#eight",
        "https://r.example/x/blob/HEAD/k/l.py",
    ]
    assert "`[d](e)`" in text
    assert "[ten](m.md)" in text


def test_archives_pass_the_checks_of_an_index(archives):
    sdist, wheel = archives
    run("twine", "check", "--strict", sdist, wheel, cwd=wheel.parent)
    run("check_wheel_contents", wheel, cwd=wheel.parent)


def test_wheel_holds_all_that_is_needed(archives):
    with zipfile.ZipFile(archives[1]) as file:
        names = set(file.namelist())
        (metadata,) = (n for n in names if n.endswith(".dist-info/METADATA"))
        about = email.message_from_bytes(file.read(metadata))
        (points,) = (n for n in names if n.endswith("/entry_points.txt"))
        assert b"ncgn = ncgn_jax.command:main" in file.read(points)
    # Modules, and whatever lies beside them.
    files = {
        path.relative_to(REPOSITORY).as_posix()
        for path in (REPOSITORY / "ncgn_jax").rglob("*.*")
        if path.is_file() and path.suffix != ".pyc"
    }
    configs = {f"ncgn_jax/configs/{p.name}" for p in (REPOSITORY / "configs").iterdir()}
    configs = {name for name in configs if name.endswith(".py")}
    assert len({name for name in files if "/shipped/" in name}) >= 12
    assert files | configs | set(HELD) <= names
    licences = {name.rsplit("/", 1)[1] for name in names if "/licenses/" in name}
    assert licences == {"LICENSE", "NOTICE"}
    assert about["License-Expression"] == "Apache-2.0"
    description = about.get_payload()
    assert len(description) > 1000
    assert [t for t in Targets(description).found if not t.startswith("https:")] == []


def test_source_archive_is_whole_and_no_more(archives):
    with tarfile.open(archives[0]) as file:
        names = {name.partition("/")[2] for name in file.getnames()}
    assert set(FILES) | set(HELD) | {"configs/quickstart.py"} <= names
    assert not {name for name in names if name.startswith(("tests", "docs"))}


def test_versions_and_extras_agree():
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    citation = (REPOSITORY / "CITATION.cff").read_text()
    assert f"\nversion: {project['version']}\n" in citation
    assert f"\nlicense: {project['license']}\n" in citation
    extras = set(project["optional-dependencies"])
    named = {
        name
        for path in (REPOSITORY / "ncgn_jax").rglob("*.py")
        for name in re.findall(r"ncgn_jax\[(\w+)\]", path.read_text())
    }
    named |= {
        name
        for path in (REPOSITORY / "ncgn_jax").rglob("*.py")
        for name in re.findall(
            r'import_optional\(\s*"[\w.]+",\s*"(\w+)"', path.read_text()
        )
    }
    assert {"meshes", "molecules"} <= named
    assert named - {"json"} <= extras  # json: an example in a docstring
