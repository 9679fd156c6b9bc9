"""Spoilt files: every reader says what is wrong, and does nothing else.

A valid file of each kind is cut, flipped, doubled and written over at random. What a
reader makes of it must be data or the project's own error; no other exception, no file
written beside it. `NCGN_FUZZ=2000 python -m pytest tests/test_fuzz.py` tries more, and
other, files.
"""

import functools
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ncgn_jax.config import apply_overrides, config_to_json, load_config
from ncgn_jax.convert import check_parity
from ncgn_jax.faults import CheckpointError, ConfigError, DataError
from ncgn_jax.generate import read_run_config
from ncgn_jax.run.checkpoint import Checkpoints
from tests.expression import fuzz_kinds as expression
from tests.images import fuzz_kinds as images
from tests.molecules import fuzz_kinds as molecules
from tests.point_clouds import fuzz_kinds as point_clouds

REPOSITORY = Path(__file__).resolve().parent.parent
SMOKE = REPOSITORY / "configs" / "smoke.py"
EXPECTED = (DataError, ConfigError, CheckpointError, DataError)
NUM_EXAMPLES = int(os.environ.get("NCGN_FUZZ", "0"))


def try_files(number):
    """Settings that try so many files, unless NCGN_FUZZ asks for another number."""
    return settings(
        max_examples=NUM_EXAMPLES or number,
        # In a plain test run the same files every time.
        derandomize=not NUM_EXAMPLES,
        deadline=None,
        database=None,
        suppress_health_check=[
            HealthCheck.function_scoped_fixture,
            HealthCheck.too_slow,
        ],
    )


try_many = try_files(15)
# Each of these is read in a process of its own first.
IN_A_PROCESS = (".h5", ".h5ad", ".laz")

# What readers trip over: signs, ends, huge and special numbers, names that lead out.
TOKENS = (
    b"", b"\0", b"\xff\xfe", b"\n", b"\r\n", b",", b"\t", b"nan", b"inf", b"-1",
    b"1e999", b"99999999999999999999", b"0", b" ", b"../../evil", b"#", b'"', b"[",
    b"}", b"%s", b"OFF", b"end_header", b"M  END", b"$$$$", b"\x93NUMPY",
)  # fmt: skip


@st.composite
def damage(draw):
    """A change of bytes, as a function of them."""
    edits = draw(
        st.lists(
            st.tuples(
                st.sampled_from(("flip", "cut", "put", "over", "double", "drop")),
                st.floats(0, 1),
                st.floats(0, 1),
                st.sampled_from(TOKENS) | st.binary(min_size=1, max_size=8),
                st.integers(0, 7),
            ),
            min_size=1,
            max_size=4,
        )
    )

    def apply(content: bytes) -> bytes:
        for what, start, length, token, bit in edits:
            at = min(int(start * len(content)), max(0, len(content) - 1))
            stop = at + int(length**3 * (len(content) - at))
            if what == "flip" and content:
                flipped = bytes([content[at] ^ (1 << bit)])
                content = content[:at] + flipped + content[at + 1 :]
            elif what == "cut":
                content = content[:at]
            elif what == "put":
                content = content[:at] + token + content[at:]
            elif what == "over":
                content = content[:at] + token + content[at + len(token) :]
            elif what == "double":
                content = content[:stop] + content[at:stop] + content[stop:]
            elif what == "drop":
                content = content[:at] + content[stop:]
        return content

    return apply


KINDS = (
    *point_clouds.KINDS,
    *expression.KINDS,
    *molecules.KINDS,
    *images.KINDS,
)


@functools.cache
def good(kind) -> bytes:
    """The content of a kind, made once, since some take long to make."""
    return kind.content()


def is_read_or_refused(read, expected) -> bool:
    """Says whether all is well; an error other than those expected goes on up."""
    try:
        read()
    except expected as error:
        return bool(str(error))
    return True


def of_kinds(kinds):
    return pytest.mark.parametrize("kind", kinds, ids=[kind.name for kind in kinds])


def spoil(kind, change, tmp_path):
    """Reads a spoilt file; it becomes data or a message, and nothing is written."""
    if kind.needs:
        pytest.importorskip(kind.needs)
    path = tmp_path / "two" / "down" / kind.name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(change(good(kind)))
    assert is_read_or_refused(lambda: kind.read(path), DataError)
    written = {entry.name for entry in tmp_path.rglob("*") if entry.name != "down"}
    assert written <= {"two", kind.name, *kind.besides}


@pytest.mark.slow
@of_kinds([kind for kind in KINDS if not kind.name.endswith(IN_A_PROCESS)])
@try_many
@given(change=damage())
def test_spoilt_data_files_are_refused_in_words(kind, change, tmp_path):
    spoil(kind, change, tmp_path)


@pytest.mark.slow
@of_kinds([kind for kind in KINDS if kind.name.endswith(IN_A_PROCESS)])
@try_files(6)
@given(change=damage())
def test_spoilt_files_of_libraries_that_crash_are_refused_in_words(
    kind, change, tmp_path
):
    spoil(kind, change, tmp_path)


@of_kinds(KINDS)
def test_the_files_that_are_spoilt_are_good_ones(kind, tmp_path):
    if kind.needs:
        pytest.importorskip(kind.needs)
    path = tmp_path / kind.name
    path.write_bytes(kind.content())
    kind.read(path)


@pytest.mark.slow
@try_many
@given(change=damage())
def test_spoilt_stored_configurations(change, tmp_path):
    text = config_to_json(load_config(SMOKE)).encode()
    (tmp_path / "config.json").write_bytes(change(text))
    assert is_read_or_refused(lambda: read_run_config(tmp_path), EXPECTED)


@pytest.mark.slow
@try_many
@given(change=damage(), which=st.integers(0, 1000))
def test_spoilt_overrides(change, which):
    overrides = (
        b"dmp.schedule=exp", b"train.batch_size=16", b"dmp.table=((0.0,0.1),(1.0,1.0))",
        b"sample.data_limit=4.0", b"train.spare_unused=True", b"data.categories=chair,",
    )  # fmt: skip
    text = change(overrides[which % len(overrides)]).decode("utf-8", "replace")
    assert is_read_or_refused(
        lambda: apply_overrides(load_config(SMOKE), [text]), ConfigError
    )


@pytest.mark.slow
@try_many
@given(change=damage())
def test_spoilt_parity_files(change, tmp_path):
    content = (REPOSITORY / "tests/fixtures/ncgn_gcn_transcriptomics.npz").read_bytes()
    path = tmp_path / "parity.npz"
    path.write_bytes(change(content))
    assert is_read_or_refused(lambda: check_parity(path), EXPECTED)


@pytest.mark.slow
@try_many
@given(change=damage(), which=st.integers(0, 1000))
def test_spoilt_checkpoints_are_never_taken_for_whole_ones(
    change, which, tmp_path_factory
):
    """The one before is used, or nothing: never other numbers than were saved."""
    folder = tmp_path_factory.mktemp("run")
    states = {
        step: {"w": np.full((3, 4), float(step), np.float32), "n": np.int32(step)}
        for step in (1, 2)
    }
    store = Checkpoints(folder, "{}", 3)
    for step, state in states.items():
        store.save(step, state)
        store.wait()
    store.close()
    files = sorted(
        path for path in (folder / "checkpoints" / "2").rglob("*") if path.is_file()
    )
    path = files[which % len(files)]
    path.write_bytes(change(path.read_bytes()))
    store = Checkpoints(folder, "{}", 3)
    restored = []
    assert is_read_or_refused(
        lambda: restored.append(store.restore(states[1])), CheckpointError
    )
    store.close()
    if not restored:
        return
    [(state, step)] = restored
    np.testing.assert_array_equal(state["w"], states[step]["w"])
    assert int(state["n"]) == step
