"""Does for the site what mkdocs leaves undone: links in notebooks and in CHANGELOG.md.

mkdocs turns links between Markdown pages into links between the pages of the site. The
text of notebooks reaches it as HTML, and pages that include a file of the repository
have its links, which start at the top.
"""

import logging
import posixpath
import re
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import Files
from mkdocs.structure.pages import Page

_LOG = logging.getLogger("mkdocs.hooks.links")
_HREF = re.compile(r'href="([^":#]+\.(?:md|ipynb))(#[^"]*)?"')
_INCLUDED = re.compile(r'--8<-- "([A-Z]+\.md)"')
_LINK = re.compile(r"(?<!!)\[([^]]+)\]\(([^):#]+)(#[^)]*)?\)")


def on_page_markdown(markdown: str, *, config: MkDocsConfig, **_: Any) -> str:
    """Includes files of the repository; their links to docs/ work, others are text.

    Args:
      markdown: A page.
      config: The configuration of the site.
    """

    def link(found: re.Match[str]) -> str:
        text, target, anchor = found[1], found[2], found[3] or ""
        if target.startswith("docs/"):
            return f"[{text}]({target.removeprefix('docs/')}{anchor})"
        return text

    def include(found: re.Match[str]) -> str:
        with open(f"{config.docs_dir}/../{found[1]}", encoding="utf-8") as file:
            return _LINK.sub(link, file.read())

    return _INCLUDED.sub(include, markdown)


def on_page_content(html: str, *, page: Page, files: Files, **_: Any) -> str:
    """Turns links of a notebook to pages into links to their HTML.

    Args:
      html: Content of a page.
      page: The page.
      files: All files of the site.
    """
    source = page.file.src_uri
    if not source.endswith(".ipynb"):
        return html

    def link(found: re.Match[str]) -> str:
        path = posixpath.normpath(posixpath.join(posixpath.dirname(source), found[1]))
        file = files.get_file_from_path(path)
        if file is None:
            _LOG.warning("%s: no page %s", source, path)
            return found[0]
        return f'href="{file.url_relative_to(page.file)}{found[2] or ""}"'

    return _HREF.sub(link, html)
