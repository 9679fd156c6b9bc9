"""Prints, stores and draws the results of a comparison."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ncgn_jax import parallel
from ncgn_jax.comparison.runs import Run, anchors_path, read_json
from ncgn_jax.metrics.summary import (
    format_summary,
    summarise,
    write_summary,
)
from ncgn_jax.metrics.table import Column, Row
from ncgn_jax.pictures import draw_comparison, save_figure
from ncgn_jax.tasks import Task

COST_COLUMNS = (
    Column("num_params", "params", 1, 0, "trained numbers"),
    Column("train_steps", "steps", 1, 0, "training steps"),
    Column(
        "seconds_per_step",
        "s/step",
        1,
        3,
        "seconds per training step, median of each kind of step by its share, "
        "compilation excluded, measured once",
    ),
    Column(
        "sampling_seconds",
        "sampling s",
        1,
        1,
        "seconds to draw all samples, compilation excluded, measured once",
    ),
)


def report(
    runs: Sequence[Run],
    workdir: Path,
    failed: Mapping[str, str],
    budget: str,
    task: Task,
) -> str:
    """Prints and writes the table of finished runs, and draws the figure.

    Args:
      runs: Finished runs.
      workdir: Folder of the comparison; gets `comparison.md`, `.json`, `.csv`, `.png`.
      failed: Message of each run that failed.
      budget: What every run was given, in words.
      task: A task of the runs, for its columns and warnings.

    Returns:
      The table.
    """
    rows, anchors, meta = collect(runs, workdir)
    seeds = dict.fromkeys(str(run.config.seed) for run in runs)
    meta |= {
        "seeds": ", ".join(seeds),
        "budget": budget,
        "device": f"{parallel.num_devices()} x {parallel.device_kind()}",
    }
    caption = "; ".join(f"{name}: {value}" for name, value in meta.items())
    summary, quality = summarise(rows), task.all_columns
    means = {
        name: {key: spread.mean for key, spread in row.items()}
        for name, row in summary.items()
    }
    notes = task.warnings({**anchors, **means})
    notes += [f"failed: {name}: {message}" for name, message in failed.items()]
    columns = (*quality, *COST_COLUMNS)
    text = format_summary(summary, anchors, columns, caption, notes)
    print(text, flush=True)
    workdir.mkdir(parents=True, exist_ok=True)
    (workdir / "comparison.md").write_text(text + "\n")
    write_summary(workdir / "comparison", rows, anchors, meta, failed)
    if rows:
        print(f"figure: {_draw(rows, anchors, workdir, quality)}", flush=True)
    return text


def collect(
    runs: Sequence[Run], workdir: Path
) -> tuple[dict[str, list[Row]], dict[str, Row], dict[str, Any]]:
    """Reads rows of variants (one per seed) and anchors, and their captions."""
    rows: dict[str, list[Row]] = {}
    groups: dict[Path, str] = {}
    for run in runs:
        result = run.read_result() or {"rows": {}, "num_params": 0}
        groups.setdefault(anchors_path(workdir, run.config), run.variant)
        for kind, row in result["rows"].items():
            many = len(run.config.evaluate.weights) > 1
            name = f"{run.variant} ({kind})" if many else run.variant
            cost = {
                "num_params": result["num_params"],
                "train_steps": run.config.train.num_steps,
                "seconds_per_step": run.seconds_per_step,
                "sampling_seconds": run.sampling_seconds,
            }
            rows.setdefault(name, []).append({"seed": run.config.seed, **row, **cost})
    anchors: dict[str, Row] = {}
    meta: dict[str, Any] = {}
    for path, variant in groups.items():
        stored = read_json(path)
        # One set of anchors stands for all unless variants differ in the data.
        end = f" [{variant}]" if len(groups) > 1 else ""
        anchors |= {f"{name}{end}": row for name, row in stored["rows"].items()}
        meta = meta or dict(stored["meta"])
    if runs:
        meta["weights"] = ", ".join(runs[0].config.evaluate.weights)
        samplers = (run.config.sample for run in runs)
        used = dict.fromkeys(f"{s.sampler}, {s.num_steps} steps" for s in samplers)
        meta["sampler"] = " / ".join(used)
    return rows, anchors, meta


def _draw(
    rows: Mapping[str, Sequence[Row]],
    anchors: Mapping[str, Row],
    workdir: Path,
    quality: Sequence[Column],
) -> Path:
    everything = [row for seeds in rows.values() for row in seeds]
    shown = [c for c in quality if any(c.key in row for row in everything)]
    table = {
        name: {
            c.title: [row[c.key] * c.factor for row in seeds if c.key in row]
            for c in shown
        }
        for name, seeds in rows.items()
    }
    lines = {
        name: {c.title: row[c.key] * c.factor for c in shown if c.key in row}
        for name, row in anchors.items()
    }
    return save_figure(draw_comparison(table, lines), workdir / "comparison.png")
