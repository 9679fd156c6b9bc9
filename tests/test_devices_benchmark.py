"""What devices exchange is counted rightly, and does not grow with their number."""

import jax
import numpy as np
import pytest

from benchmarks import devices
from ncgn_jax import parallel
from ncgn_jax.config import apply_overrides
from ncgn_jax.loop import init_state
from ncgn_jax.run.optimizer import make_optimizer

TEXT = """
  %all-reduce.1 = (f32[64,3]{1,0}, f32[]) all-reduce(%a, %b), channel_id=1
  %all-gather.2 = bf16[8,2]{1,0} all-gather(%c), dimensions={0}
  %x = pred[5]{0} collective-permute(%d), source_target_pairs={{0,1}}
  %y = s32[4]{0} all-reduce-start(%e), channel_id=2
  %z = s32[4]{0} all-reduce-done(%y)
  %w = f32[99]{0} add(%all-reduce.1, %all-reduce.2)
"""


def test_sizes_are_those_of_the_results():
    assert devices.exchanges(TEXT) == [64 * 3 * 4 + 4, 8 * 2 * 2, 5, 4 * 4]


def test_a_mean_over_devices_hands_over_what_it_takes_the_mean_of():
    fn = parallel.data_parallel(
        lambda state, batch, rng: (parallel.mean_over_devices(state + batch.sum()), 0)
    )
    batch = parallel.split_for_devices(np.ones((parallel.num_devices(), 2)))
    lowered = fn.lower(np.ones((7, 3), np.float32), batch, jax.random.key(0))
    assert sum(devices.exchanges(lowered.compile().as_text())) == 7 * 3 * 4


@pytest.mark.thorough
@pytest.mark.slow
def test_a_step_hands_over_its_gradient_once():
    config = apply_overrides(
        devices.paper_config(),
        ["data.num_points=16", "model.width=4", "model.num_layers=1",
         "dmp.connectivity=knn", "train.batch_size=8", "model.norm=layer",
         "model.convolution=gcn"],
    )  # fmt: skip
    row = devices.measure(config, repeats=1)
    assert row["traces"] == 1
    task, tx = devices.random_task(config), make_optimizer(config)
    state = init_state(task, tx, 0)
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(state.params))
    assert row["params"] * 2**20 == size
    # Beside it, a few numbers for the log; batch norm would hand over its sums too.
    assert size <= row["volume"] * 2**20 <= size + 64


@pytest.mark.thorough
@pytest.mark.slow
def test_every_count_runs_by_itself(capsys):
    arguments = ["--devices=2", "--graphs=8", "--repeats=1"]
    fields = ["data.num_points=16", "model.width=4", "model.num_layers=1"]
    fields += ["dmp.connectivity=knn", "model.convolution=gcn"]
    devices.main(["devices", *arguments, *(f"--config.{field}" for field in fields)])
    lines = capsys.readouterr().out.splitlines()
    rows = [[cell.strip() for cell in line.split("|")[1:3]] for line in lines]
    rows = [row for row in rows if row and row[0].endswith("devices")]
    assert rows == [["2 devices", "16"]]


def test_what_is_wrong_is_said():
    with pytest.raises(SystemExit) as error:
        devices.main(["devices", "--devices=two"])
    assert "--devices=two; allowed: counts" in str(error.value)
