"""Every Python block of README.md runs, and the library example stays short."""

import functools
import re
from pathlib import Path

import pytest

README = Path(__file__).resolve().parent.parent / "README.md"
FENCE = re.compile(r"^```python\n(.*?)^```", re.DOTALL | re.MULTILINE)
TEXT = README.read_text(encoding="utf-8")
BLOCKS = [
    pytest.param(match[1], id=f"line{TEXT[: match.start()].count(chr(10)) + 1}")
    for match in FENCE.finditer(TEXT)
]


@functools.cache
def run(block: str) -> dict:
    names = {"__name__": "readme"}
    exec(compile(block, str(README), "exec"), names)
    return names


def library_example() -> str:
    section = TEXT.split("## DMP around your own network\n", 1)[1].split("\n## ", 1)[0]
    (example,) = FENCE.findall(section)
    return example


@pytest.mark.parametrize("block", BLOCKS)
def test_block_runs(block, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run(block)


def test_library_example_is_short():
    lines = [line for line in library_example().splitlines() if line.strip()]
    assert len(lines) <= 15


def test_library_example_compiles_once_a_bucket():
    names = run(library_example())
    buckets, forward, x_t = (names[name] for name in ("buckets", "forward", "x_t"))
    assert len(buckets) > 1
    assert forward._cache_size() == len(buckets)
    assert len(names["outputs"]) == len(buckets)
    for out in names["outputs"].values():
        assert out.shape == x_t.shape
    forward(names["params"], x_t + 1, buckets[0])
    assert forward._cache_size() == len(buckets)
