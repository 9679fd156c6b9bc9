"""The site: it builds strictly, alone, and says what code and stored results say."""

import ast
import importlib
import inspect
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import unicodedata
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from docs import commands, tables
from ncgn_jax.compare import make_parser
from ncgn_jax.comparison.variants import make_variants
from ncgn_jax.config import apply_overrides, load_config, split_config_arguments
from ncgn_jax.domains import validate
from ncgn_jax.metrics.summary import format_summary, summarise, write_summary
from ncgn_jax.metrics.table import Column, format_table, write_table

REPOSITORY = Path(__file__).resolve().parent.parent
DOCS = REPOSITORY / "docs"
REFERENCE = DOCS / "reference"
# Packages that the reference promises wholly: by `__all__`, or by what modules define.
BY_NAME = ("ncgn_jax", "ncgn_jax.process", "ncgn_jax.graphs", "ncgn_jax.pictures")
BY_MODULE = ("ncgn_jax.models", "ncgn_jax.metrics")
# Pages on which whoever calls is told what comes back.
FRONT = ("python.md", "modules/trained.md")


def referred(page: Path) -> list[str]:
    """Lists what a page of the reference describes."""
    return re.findall(r"^::: (\S+)$", page.read_text("utf-8"), re.MULTILINE)


def defined(module: str) -> list[str]:
    """Lists the public functions and classes that a module itself defines."""
    source = Path(f"{REPOSITORY / module.replace('.', '/')}.py").read_text("utf-8")
    kinds = ast.FunctionDef, ast.ClassDef
    found = [node.name for node in ast.parse(source).body if isinstance(node, kinds)]
    return [f"{module}.{name}" for name in found if not name.startswith("_")]


def described() -> list[str]:
    """Lists the names in the reference, for a module those that it defines."""
    found = []
    for page in REFERENCE.rglob("*.md"):
        for name in referred(page):
            is_module = Path(f"{REPOSITORY / name.replace('.', '/')}.py").is_file()
            found += defined(name) if is_module else [name]
    return sorted(found)


def test_every_promised_name_is_in_the_reference():
    promised = []
    for package in BY_NAME:
        names = importlib.import_module(package).__all__
        promised += [f"{package}.{name}" for name in names]
    for package in BY_MODULE:
        for path in (REPOSITORY / package.replace(".", "/")).glob("[!_]*.py"):
            promised += defined(f"{package}.{path.stem}")
    assert len(promised) > 100
    names = described()
    assert sorted(set(promised) - set(names)) == []
    assert len(set(names)) == len(names), "a name has two places"


def docstring_faults(name: str, thing: object, returns: bool) -> list[str]:
    """Lists what the docstring of a function, or of a class and its methods, lacks."""
    text = inspect.getdoc(thing) or ""
    if not re.match(r"[A-Z`]([^\n]|\n(?!\n))*[.:](\n\n|\Z)", text):
        return [f"{name} has no summary"]
    if inspect.isclass(thing):
        found = []
        for key, value in vars(thing).items():
            method = getattr(value, "__func__", value)
            if key.startswith("_") or not inspect.isfunction(method):
                continue
            # Dataclasses have methods that are not ours.
            source = Path(method.__code__.co_filename)
            if source.is_relative_to(REPOSITORY / "ncgn_jax"):
                found += docstring_faults(f"{name}.{key}", method, returns)
        return found
    signature = inspect.signature(thing)
    explained = re.findall(r"^  \*{0,2}(\w+): ", text, re.MULTILINE)
    names = [key for key in signature.parameters if key not in ("self", "cls")]
    found = [f"{name} does not explain {key}" for key in names if key not in explained]
    gives = names and signature.return_annotation not in (None, "None")
    if returns and gives and not re.search("Returns|Yields", text):
        found.append(f"{name} does not say what it returns")
    return found


def said_below(name: str) -> str:
    """Returns the docstring of a constant, which stands below it."""
    folder, _, last = name.rpartition(".")
    for path in (REPOSITORY / folder.replace(".", "/")).glob("*.py"):
        body = ast.parse(path.read_text("utf-8")).body
        for node, after in zip(body, body[1:], strict=False):
            targets = node.targets if isinstance(node, ast.Assign) else []
            if any(isinstance(t, ast.Name) and t.id == last for t in targets):
                value = getattr(after, "value", None)
                return getattr(value, "value", "") if value else ""
    return ""


def test_described_names_explain_themselves():
    pytest.importorskip("rdkit")
    front = {name for page in FRONT for name in referred(REFERENCE / page)}
    found = []
    for name in described():
        module, _, last = name.rpartition(".")
        thing = getattr(importlib.import_module(module), last)
        # Cached functions are wrapped.
        if inspect.isclass(thing) or inspect.isfunction(inspect.unwrap(thing)):
            found += docstring_faults(name, thing, name in front)
        elif not str(said_below(name)).endswith("."):
            found.append(f"{name} has no docstring")
    assert found == []


def test_a_silent_docstring_is_found():
    def silent(width: int, *, depth: int = 1) -> int:
        """Counts weights.

        Args:
          width: Width.
        """
        return width * depth

    assert docstring_faults("f", silent, True) == [
        "f does not explain depth",
        "f does not say what it returns",
    ]
    assert docstring_faults("f", lambda: 0, False) == ["f has no summary"]


def test_the_page_of_commands_is_up_to_date():
    """But for spaces: versions of Python break lines of usage differently."""
    page = (REFERENCE / "commands.md").read_text("utf-8")
    fresh = commands.format_page()
    assert page.split() == fresh.split(), (
        "python -m docs.commands > docs/reference/commands.md"
    )


def test_pages_show_the_stored_results():
    shown = set()
    for page in tables.pages():
        text = page.read_text("utf-8")
        assert text == tables.fill(text), f"{page.name}: python -m docs.tables"
        shown |= set(re.findall(r"<!-- table: (\S+) -->", text))
    assert shown == {path.stem for path in tables.DATA.glob("*.json")}
    for name in shown:
        result = tables.read_result(name)
        assert {len(row) for row in result.rows} == {len(result.columns)}, name
        assert re.fullmatch(r"20\d\d-\d\d-\d\d", result.date), name
        assert re.fullmatch(r"[0-9a-f]{7,}", result.commit), name


def test_stored_commands_still_mean_something(monkeypatch):
    """Their configurations, fields and variants exist, and are allowed."""
    # They were measured on one device; the tests have eight.
    for domain in ("point_clouds", "expression", "molecules", "images"):
        monkeypatch.setattr(f"ncgn_jax.{domain}.config.num_devices", lambda: 1)
    monkeypatch.setattr("ncgn_jax.tasks.settings.num_devices", lambda: 1)
    checked = 0
    for stored in tables.DATA.glob("*.json"):
        lines = tables.read_result(stored.stem).command.replace("\\\n", " ")
        for line in lines.replace("$seed", "0").splitlines():
            # `...` stands for further variants of the kind before it.
            words = [word for word in shlex.split(line) if word != "..."]
            if not {"ncgn_jax.compare", "ncgn_jax.main"} & set(words):
                continue
            place = words.index("-m") + 2
            path, overrides, rest = split_config_arguments(words[place:])
            if words[place - 1] == "ncgn_jax.compare":
                options = make_parser().parse_args(rest)
                assert make_variants(path, overrides, options.vary, options.variant)
            else:
                validate(apply_overrides(load_config(path), overrides))
            checked += 1
    assert checked > 15


@pytest.mark.parametrize("kind", ["table", "comparison"])
def test_what_a_run_wrote_becomes_a_result(kind, tmp_path, monkeypatch):
    columns = (Column("jsd", "JSD e-2", 100, 1, "lower"), Column("w", "W", 1, 2, "w"))
    rows = {"ema": {"jsd": 0.105, "w": 1.0}, "train": {"jsd": 0.02}}
    if kind == "table":
        names = ("data_set", "split", "sizes", "seed", "weights", "steps", "device")
        write_table(rows, tmp_path / kind, dict.fromkeys(names, "some"))
        text = format_table(rows, columns, "caption")
    else:
        seeds = {"ema": [rows["ema"], {"jsd": 0.115, "w": 2.0}]}
        anchors = {"train": rows["train"]}
        write_summary(tmp_path / kind, seeds, anchors, {"device": "some"}, {})
        text = format_summary(summarise(seeds), anchors, columns, "caption")
    (tmp_path / f"{kind}.md").write_text(text + "\n")
    page = tmp_path / "results" / "mine.md"
    page.parent.mkdir()
    page.write_text("# Mine\n")
    monkeypatch.setattr(tables, "DOCS", tmp_path)
    monkeypatch.setattr(tables, "DATA", tmp_path / "data")
    given = f"--add={tmp_path / kind}.json", "--name=mine", "--page=mine", "--title=T"
    with pytest.raises(SystemExit):
        tables.main(given)
    tables.main([*given, "--command=ncgn train", "--commit=abcdef0", "--machine=M"])
    stored = json.loads((tmp_path / "data" / "mine.json").read_text())
    assert stored["columns"] == ["", "JSD e-2", "W"]
    ours, train = stored["rows"]
    assert train == ["train", "2.0", "-"]
    assert ours[:2] == (["ema", "10.5"] if kind == "table" else ["ema", "11.0 ± 0.7"])
    assert "device: some" in stored["notes"][0]
    text = page.read_text()
    assert f"| {' | '.join(train)} |\n" in text
    for part in ("- Machine: M.", "commit `abcdef0`", "```bash\nncgn train\n```"):
        assert part in text
    tables.main([*given, "--command=other", "--commit=abcdef0", "--machine=M"])
    assert page.read_text() == text.replace("ncgn train", "other")


def text_of(page: Path) -> str:
    """Returns the Markdown of a page or a notebook, without code."""
    text = page.read_text("utf-8")
    if page.suffix == ".ipynb":
        cells = json.loads(text)["cells"]
        kept = ["".join(c["source"]) for c in cells if c["cell_type"] == "markdown"]
        text = "\n".join(kept)
    text = re.sub(r"^ *```.*?^ *```$", "", text, flags=re.DOTALL | re.MULTILINE)
    return re.sub(r"`[^`\n]*`", lambda code: code[0].strip("`").join("``"), text)


def links_of(text: str) -> list[str]:
    """Lists what Markdown links to, and the sources of its pictures."""
    plain = re.sub(r"`[^`\n]*`", "", text)
    found = re.findall(r"\]\(([^)\s]+)(?: \"[^\"]*\")?\)", plain)
    return found + re.findall(r"<(?:img|a)\b[^>]*(?:src|href)=\"([^\"]+)\"", plain)


def anchors_of(text: str) -> set[str]:
    """Lists the anchors of headings, as code hosts and as the site name them."""
    found = set(re.findall(r"\b(?:id|name)=\"([^\"]+)\"", text))
    for title in re.findall(r"^#+ (.+)$", text, re.MULTILINE):
        title = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", title)
        plain = re.sub(r"[^\w\s-]", "", title.replace("`", "").lower()).strip()
        found.add(re.sub(r"\s", "-", plain))
        kept = unicodedata.normalize("NFKD", plain).encode("ascii", "ignore").decode()
        found.add(re.sub(r"[-\s]+", "-", kept.strip()))
    return found


def link_faults(page: Path, top: Path) -> list[str]:
    """Lists the relative links of a page that lead nowhere."""
    found = []
    for link in links_of(text_of(page)):
        parts = urlsplit(link)
        if parts.scheme or parts.netloc:
            continue
        target = (page.parent / unquote(parts.path)).resolve() if parts.path else page
        if not target.exists() or not target.is_relative_to(top):
            found.append(f"{page.relative_to(top)}: {link}")
            continue
        is_text = parts.fragment and target.suffix in (".md", ".ipynb")
        if is_text and parts.fragment not in anchors_of(text_of(target)):
            found.append(f"{page.relative_to(top)}: {link}")
    return found


def test_links_lead_somewhere():
    pages = [*REPOSITORY.glob("*.md"), *DOCS.rglob("*.md"), *DOCS.rglob("*.ipynb")]
    pages += REPOSITORY.glob("ncgn_jax/shipped/*/*.md")
    assert len(pages) > 40
    assert [fault for page in pages for fault in link_faults(page, REPOSITORY)] == []


def test_links_that_lead_nowhere_are_found(tmp_path):
    (tmp_path / "b.md").write_text("# One `two` – 3\n\n## Noise (and time)\n")
    (tmp_path / "a.md").write_text(
        "[x](b.md#one-two-3) [y](b.md#noise-and-time) [z](https://no.where/)\n"
        '[f](c.md) [g](b.md#three) [h](#gone) <img src="p.png">\n'
        "`[code](d.md)`\n```\n[block](e.md)\n```\n"
    )
    found = link_faults(tmp_path / "a.md", tmp_path)
    assert [fault.split(": ")[1] for fault in found] == [
        "c.md", "b.md#three", "#gone", "p.png",
    ]  # fmt: skip


class Resources(HTMLParser):
    """Collects what a page loads, links to, and can be linked at."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.links: list[str] = []
        self.anchors: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        values = {key: value or "" for key, value in attrs}
        self.anchors |= {values[key] for key in ("id", "name") if key in values}
        if "src" in values:
            self.loaded.append(values["src"])
        if tag == "link":
            self.loaded.append(values.get("href", ""))
        elif tag == "a" and "href" in values:
            self.links.append(values["href"])


@pytest.mark.slow
def test_the_site_builds_strictly_and_loads_nothing_from_elsewhere(tmp_path):
    pytest.importorskip("mkdocs")
    for name in ("material", "mkdocstrings", "mkdocs_jupyter"):
        pytest.importorskip(name)
    site = tmp_path / "site"
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet"]
    built = subprocess.run(
        [*command, f"--site-dir={site}"],
        cwd=REPOSITORY,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert built.returncode == 0, built.stdout + built.stderr
    pages = {path: Resources(path.read_text("utf-8")) for path in site.rglob("*.html")}
    found = []
    for path, page in pages.items():
        for target in page.loaded + page.links:
            parts = urlsplit(target)
            if parts.scheme == "data" or (parts.netloc and target not in page.loaded):
                continue
            if parts.scheme or parts.netloc:
                found.append(f"{path.relative_to(site)} loads {target}")
                continue
            # Without an address of its own, the page of errors links from the top.
            if path.name == "404.html":
                continue
            file = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            file = file / "index.html" if file.is_dir() else file
            anchors = pages[file].anchors if file in pages else {parts.fragment}
            if not file.is_file() or parts.fragment not in {"", *anchors}:
                found.append(f"{path.relative_to(site)} links to {target}")
    assert sorted(set(found)) == []
    for style in site.rglob("*.css"):
        assert not re.search(r"url\(['\"]?(?:https?:)?//", style.read_text("utf-8"))
    shutil.rmtree(site)
