"""Adds what pyproject.toml cannot say: the configurations, and the long description."""

import re
import tomllib
from collections.abc import Callable
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).resolve().parent
ABSOLUTE = re.compile(r"[a-z][a-z0-9+.-]*:|//", re.IGNORECASE)
# Nothing within code is a link.
CODE = re.compile(r"^```.*?^```|`[^`\n]+`", re.DOTALL | re.MULTILINE)
# Ways to write pictures, and links around a text.
PICTURES = [
    re.compile(r"!\[[^\]]*\]\((?P<target>[^)\s]+)[^)]*\)"),
    re.compile(
        r'<(?:img|source)\b[^>]*?\b(?:src|srcset)="(?P<target>[^"]+)"[^>]*>', re.DOTALL
    ),
]
LINKS = [
    re.compile(
        r"(?<!!)\[(?P<text>(?:[^\[\]]|!\[[^\]]*\]\([^)]*\))*)\]\((?P<target>[^)\s]+)\)"
    ),
    re.compile(
        r'<a\b[^>]*?\bhref="(?P<target>[^"]+)"[^>]*>(?P<text>.*?)</a>', re.DOTALL
    ),
]


def long_description(readme: str, repository: str = "") -> str:
    """Rewrites a README so that none of its targets is relative.

    They become absolute below the address of the repository. Without an address, links
    become their text, and pictures are left out. Code stays as it is.

    Args:
      readme: The README, in Markdown.
      repository: Address of the repository, empty if there is none.
    """
    kept: list[str] = []

    def keep(match: re.Match[str]) -> str:
        kept.append(match[0])
        return f"\0{len(kept) - 1}\0"

    text = CODE.sub(keep, readme)
    for pattern in PICTURES:
        text = pattern.sub(_made_absolute(repository, "raw", lambda _: ""), text)
    for pattern in LINKS:
        text = pattern.sub(
            _made_absolute(repository, "blob", lambda m: m["text"]), text
        )
    return re.sub("\0(\\d+)\0", lambda match: kept[int(match[1])], text)


def _made_absolute(
    repository: str, kind: str, otherwise: Callable[[re.Match[str]], str]
) -> Callable[[re.Match[str]], str]:
    address = repository.rstrip("/")

    def change(match: re.Match[str]) -> str:
        target = match["target"]
        if ABSOLUTE.match(target):
            return match[0]
        if not address:
            return otherwise(match)
        below = address if target.startswith("#") else f"{address}/{kind}/HEAD/"
        start, end = (place - match.start() for place in match.span("target"))
        return match[0][:start] + below + target + match[0][end:]

    return change


def read_long_description() -> str:
    """Reads README.md, and the repository's address from pyproject.toml."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    return long_description(
        (ROOT / "README.md").read_text(encoding="utf-8"),
        project["project"].get("urls", {}).get("Repository", ""),
    )


if __name__ == "__main__":
    setup(
        packages=[*find_packages(include=["ncgn_jax*"]), "ncgn_jax.configs"],
        package_dir={"ncgn_jax.configs": "configs"},
        long_description=read_long_description(),
        long_description_content_type="text/markdown",
    )
