"""Every Python block of README.md runs, and the library example stays short."""

import functools
import re
from pathlib import Path

import pytest

README = Path(__file__).resolve().parent.parent / "README.md"
FENCE = re.compile(r"^```python\n(.*?)^```", re.DOTALL | re.MULTILINE)
TEXT = README.read_text(encoding="utf-8")
# Numbers of the text, and what takes their place where every one is not tried: the
# same calls, of fewer and smaller programs.
SMALLER = {
    "num_points=512, steps=8": "num_points=64, steps=1",
    "num_nodes=400": "num_nodes=32",
    "(8, 400, 3)": "(8, 32, 3)",
}


def smaller(block: str) -> str:
    for number, other in SMALLER.items():
        block = block.replace(number, other)
    return block


BLOCKS = [
    pytest.param(
        smaller(match[1]) if small else match[1],
        id=f"line{TEXT[: match.start()].count(chr(10)) + 1}" + "-small" * small,
        marks=() if small else pytest.mark.thorough,
    )
    for match in FENCE.finditer(TEXT)
    for small in (True, False)
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


def test_numbers_are_those_of_the_text():
    for number in SMALLER:
        assert TEXT.count(number) == 1


def test_library_example_is_short():
    lines = [line for line in library_example().splitlines() if line.strip()]
    assert len(lines) <= 15


def test_library_example_compiles_once_a_bucket():
    names = run(smaller(library_example()))
    buckets, forward, x_t = (names[name] for name in ("buckets", "forward", "x_t"))
    assert len(buckets) > 1
    assert forward._cache_size() == len(buckets)
    assert len(names["outputs"]) == len(buckets)
    for out in names["outputs"].values():
        assert out.shape == x_t.shape
    forward(names["params"], x_t + 1, buckets[0])
    assert forward._cache_size() == len(buckets)
