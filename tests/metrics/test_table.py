"""Tables state scaling and metadata; files hold what was printed."""

import csv
import json

import numpy as np
import pytest

from ncgn_jax.metrics.table import (
    CAPTION,
    REQUIRED_META,
    Column,
    check_caption,
    format_table,
    write_table,
)

META = dict.fromkeys(REQUIRED_META, "x")
COLUMNS = (
    Column("w_flat", "W e-2", 100, 3, "x 100"),
    Column("other", "other", 1, 1, "no row has it"),
    Column("jsd", "JSD", 1, 4, "bits"),
)


def test_a_caption_states_data_split_and_sizes():
    check_caption(dict.fromkeys(CAPTION, "x"))
    with pytest.raises(ValueError, match="must state split, sizes"):
        check_caption({"data_set": "x", "split": ""})


def test_tables_are_aligned_and_explained():
    rows = {"train": {"w_flat": 0.01204, "jsd": 0.5}, "my model": {"w_flat": 0.0421}}
    text = format_table(rows, COLUMNS, "ModelNet10, EMA", ["W is low"])
    caption, cells, legend, notes = text.split("\n\n")
    lines = cells.splitlines()
    assert caption == "ModelNet10, EMA"
    assert len({len(line) for line in lines}) == 1
    assert [cell.strip() for cell in lines[3].split("|")[1:-1]] == [
        "my model",
        "4.210",
        "-",
    ]
    assert [line.split(":")[0] for line in legend.splitlines()] == ["- W e-2", "- JSD"]
    assert notes == "W is low"


def test_files_hold_rows_metadata_and_warnings(tmp_path):
    rows = {
        "train": {"w_flat": 0.012, "num_generated": np.int64(3)},
        "model": {"w_flat": float("nan"), "num_generated": 3},
    }
    paths = write_table(rows, tmp_path / "new" / "table.v1", META, ["W is low"])
    assert [path.name for path in paths] == ["table.v1.json", "table.v1.csv"]
    content = json.loads(paths[0].read_text())
    assert content["meta"] == META
    assert content["warnings"] == ["W is low"]
    assert content["rows"]["train"]["num_generated"] == 3
    assert content["rows"]["model"]["w_flat"] is None
    with paths[1].open() as file:
        lines = list(csv.DictReader(file))
    assert [line["row"] for line in lines] == ["train", "model"]
    assert float(lines[0]["w_flat"]) == 0.012
    assert lines[1]["w_flat"] == ""
    assert lines[1]["meta.device"] == "x"


def test_a_table_without_its_origin_is_refused(tmp_path):
    meta = {k: v for k, v in META.items() if k not in ("steps", "device")}
    with pytest.raises(ValueError, match="must state steps, device"):
        write_table({}, tmp_path / "table", meta)
    assert not list(tmp_path.iterdir())
