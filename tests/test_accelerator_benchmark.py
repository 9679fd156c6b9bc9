"""The shares of a device's peak, on CPUs as well."""

import pytest

from benchmarks import accelerator, step
from ncgn_jax.config import apply_overrides

TINY = (
    "data.num_points=16", "model.width=4", "model.num_layers=1", "train.batch_size=8",
    "dmp.connectivity=knn", "model.convolution=gcn",
)  # fmt: skip


@pytest.mark.thorough
def test_shares_are_of_what_the_device_reaches():
    config = apply_overrides(accelerator.paper_config(), TINY)
    row = accelerator.measure(config, 2, repeats=2, peak=2.0, bandwidth=4.0)
    gflop = step.matmul_gflop(*step.prepare(step.random_task(config)))
    assert row["rate"] == pytest.approx(gflop / row["step"])
    assert row["of_peak"] == pytest.approx(row["rate"] / 2)
    assert row["of_bandwidth"] == pytest.approx(row["bandwidth"] / 4)
    assert 0 < row["fastest"] <= row["step"] < row["compile"]
    assert accelerator.product_rate("float32", 64, repeats=2) > 0
    assert accelerator.memory_rate(64, repeats=2) > 0


def test_types_and_calls_have_a_line_each(capsys, monkeypatch):
    asked = []

    def measure(config, num_steps, repeats, peak, bandwidth):
        asked.append((config.model.dtype, config.train.steps_per_call, num_steps))
        return {"step": 0.5, "rate": peak / 4, "of_peak": 0.25}

    monkeypatch.setattr(accelerator, "measure", measure)
    arguments = ["--calls=1,2", "--repeats=1", "--size=64"]
    arguments += [f"--config.{field}" for field in TINY]
    accelerator.main(["accelerator", *arguments])
    printed = capsys.readouterr().out
    for dtype in ("float32", "bfloat16"):
        assert f"GFLOP/s in {dtype}" in printed
        for count in (1, 2):
            assert f"| {dtype}, {count} at a call" in printed
    assert asked == [(d, n, n) for d in ("float32", "bfloat16") for n in (1, 2)]


@pytest.mark.parametrize(
    ("argument", "expected"),
    [
        ("--calls=1,0", "--calls=1,0; allowed: counts"),
        ("--dtypes=float8", "model.dtype: found 'float8'"),
    ],
)
def test_what_is_wrong_is_said(argument, expected):
    with pytest.raises(SystemExit) as error:
        accelerator.main(["accelerator", argument])
    assert expected in str(error.value)
