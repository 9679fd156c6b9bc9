"""Measures samples against held-out data: a table on screen, in JSON and in CSV."""

from pathlib import Path

from ml_collections import ConfigDict

from ncgn_jax import parallel
from ncgn_jax.generate import Samples
from ncgn_jax.metrics.table import Row, format_table, write_table
from ncgn_jax.tasks import Task


def evaluate(
    config: ConfigDict, workdir: str | Path, task: Task, samples: Samples, step: int
) -> dict[str, Row]:
    """Measures each sample set, prints the table and writes `table.json` / `.csv`.

    Args:
      config: Validated configuration.
      workdir: The run's folder.
      task: The configuration's task.
      samples: Arrays by kind of weights, as `generate` returns them.
      step: Training steps behind the weights.

    Returns:
      The rows by name: one for each kind of weights, then the anchors.
    """
    rows, costs = task.measure(samples), task.costs(step)
    rows = {name: row | costs if name in samples else row for name, row in rows.items()}
    notes = task.warnings(rows)
    meta = task.caption() | {
        **({} if task.report is None else {"read": task.report.brief}),
        "seed": config.seed,
        "weights": ", ".join(samples),
        "steps": step,
        "sampler": f"{config.sample.sampler}, {config.sample.num_steps} steps",
        "device": f"{parallel.num_devices()} x {parallel.device_kind()}",
    }
    caption = "; ".join(f"{name}: {value}" for name, value in meta.items())
    text = format_table(rows, task.all_columns, caption, notes)
    print(text, flush=True)
    write_table(rows, Path(workdir) / "table", meta, notes)
    (Path(workdir) / "table.md").write_text(text + "\n")
    return rows
