"""One run on several processes: the layout changes nothing, a dead peer ends it."""

import contextlib
import os
import shutil
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from ncgn_jax.run.checkpoint import Checkpoints
from ncgn_jax.run.logs import read_metrics

REPOSITORY = Path(__file__).resolve().parent.parent
ARGUMENTS = [
    "--config=configs/smoke.py", "--mode=train", "--config.data.num_points=16",
    "--config.dmp.connectivity=knn", "--config.train.batch_size=16",
    "--config.train.log_every_steps=1", "--config.train.checkpoint_every_steps=4",
]  # fmt: skip
LAYOUTS = {"1 x 1": (1, 1), "1 x 4": (1, 4), "2 x 2": (2, 2)}


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """Variables in which the scripts of launch/ run this Python and install nothing."""
    folder = tmp_path_factory.mktemp("environment")
    python = folder / "bin" / "python"
    python.parent.mkdir()
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    python.chmod(python.stat().st_mode | stat.S_IXUSR)
    checksum = subprocess.check_output(
        "cat requirements.txt pyproject.toml | cksum",
        shell=True, cwd=REPOSITORY, text=True,
    )  # fmt: skip
    stamp = f"{checksum.strip()} {REPOSITORY}\n"
    (folder / ".ncgn_jax_installed").write_text(stamp)
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("SLURM_")}
    return inherited | {
        "VIRTUAL_ENV": str(folder),
        "PYTHONPATH": os.pathsep.join(sys.path),
    }


def start(environment, layout, workdir, *more):
    processes, devices = layout
    command = ["bash", "launch/local_pod.sh", str(processes), *ARGUMENTS, *more]
    return subprocess.Popen(
        [*command, f"--workdir={workdir}"],
        cwd=REPOSITORY,
        env=environment | {"DEVICES": str(devices)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(process):
    """Waits for a run that ends by itself; returns what it said."""
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    return output


def stored_steps(workdir):
    return Checkpoints(workdir, "{}", read_only=True).steps()


def parameters(workdir, step):
    return Checkpoints(workdir, "{}", read_only=True).read(step)[0]


def losses(workdir):
    return read_metrics(workdir)["loss"][1]


def assert_close(first, second):
    """Sums over devices are added up in another order: float32 rounding, 8 steps."""
    assert first.keys() == second.keys()
    for name in first:
        np.testing.assert_allclose(
            first[name], second[name], rtol=1e-3, atol=1e-5, err_msg=name
        )


@pytest.mark.slow
def test_the_layout_changes_neither_losses_nor_what_is_resumed(tmp_path, environment):
    for name, layout in LAYOUTS.items():
        finish(start(environment, layout, tmp_path / name))
    expected = losses(tmp_path / "1 x 1")
    assert len(expected) == 8
    assert expected[0] != expected[-1]
    for name in LAYOUTS:
        np.testing.assert_allclose(losses(tmp_path / name), expected, rtol=1e-4)
        assert_close(parameters(tmp_path / name, 8), parameters(tmp_path / "1 x 1", 8))
    names = list(LAYOUTS)
    for writer, reader in zip(names, names[1:] + names[:1], strict=True):
        folder = tmp_path / f"{writer} to {reader}"
        shutil.copytree(tmp_path / writer, folder)
        shutil.rmtree(Checkpoints(folder, "{}", read_only=True).folder / "8")
        output = finish(start(environment, LAYOUTS[reader], folder))
        assert "resuming from checkpoint 4" in output
        np.testing.assert_allclose(losses(folder), expected, rtol=1e-4)
        assert_close(parameters(folder, 8), parameters(tmp_path / "1 x 1", 8))


@pytest.mark.slow
def test_samples_are_those_of_one_process(tmp_path, environment):
    """One command to the end on two: process 0 measures while the other waits."""
    more = ["--mode=all", "--config.evaluate.weights=ema", "--config.train.num_steps=4"]
    path = tmp_path / "samples" / "ema.npz"
    output = finish(start(environment, LAYOUTS["2 x 2"], tmp_path, *more))
    assert output.count("pictures: ") == 1
    assert (tmp_path / "table.json").is_file()
    with np.load(path) as file:
        together = file["points"]
    path.unlink()
    more[0] = "--mode=sample"
    finish(start(environment, LAYOUTS["1 x 1"], tmp_path, *more))
    with np.load(path) as file:
        np.testing.assert_allclose(file["points"], together, atol=1e-4)
    assert together.std() > 0.01


def worker(process, number):
    """Finds a process of a pod by its number."""
    path = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    for child in path.read_text().split():
        with contextlib.suppress(OSError):
            if (
                f"JAX_PROCESS_ID={number}\0"
                in Path(f"/proc/{child}/environ").read_text()
            ):
                return int(child)
    raise AssertionError(f"process {number} is not running")


def wait_for_save(process, workdir, after):
    """Waits until a checkpoint of a later step is stored."""
    end = time.monotonic() + 120
    while max(stored_steps(workdir), default=0) <= after:
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.mark.slow
def test_a_dead_peer_ends_the_run_and_the_same_command_goes_on(tmp_path, environment):
    more = ["--config.train.num_steps=100000", "--config.train.log_every_steps=1000"]
    process = start(environment, (2, 1), tmp_path, *more)
    try:
        wait_for_save(process, tmp_path, 0)
        os.kill(worker(process, 1), signal.SIGKILL)
        began = time.monotonic()
        output, _ = process.communicate(timeout=120)
        assert time.monotonic() - began < 60
        assert process.returncode != 0
        assert "[0] error: process 0 of 2" in output
        assert "Then start the same command again on all of them" in output
        stored = stored_steps(tmp_path)[-1]
        process = start(environment, (2, 1), tmp_path, *more)
        wait_for_save(process, tmp_path, stored)
        process.send_signal(signal.SIGTERM)
        output, _ = process.communicate(timeout=120)
    finally:
        # What it started ends with it, if only after a while.
        process.terminate()
    assert f"resuming from checkpoint {stored}\n" in output
    assert process.returncode == 0, output
    last = stored_steps(tmp_path)[-1]
    for number in range(2):
        said = f"[{number}] stopped by SIGTERM, step {last} is saved: resumable"
        assert said in output
    assert not (tmp_path / "lock").exists()


def run_script(environment, script, *arguments):
    return subprocess.run(
        ["bash", f"launch/{script}", *arguments],
        cwd=REPOSITORY,
        env=environment | {"DRY_RUN": "1"},
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_scripts_say_what_they_would_start(environment):
    path = "--config=configs/my smoke.py"
    lines = run_script(environment, "local_pod.sh", "2", path).stdout.splitlines()
    assert len(lines) == 2
    for number, line in enumerate(lines):
        assert f"JAX_NUM_PROCESSES=2 JAX_PROCESS_ID={number} " in line
        assert line.endswith(f"-m ncgn_jax.main {path}")
    slurm = environment | {
        "SLURM_JOB_NUM_NODES": "3",
        "SLURM_JOB_ID": "7",
        "SLURM_SUBMIT_DIR": str(REPOSITORY),
    }
    lines = run_script(slurm, "slurm.sbatch", path).stdout.splitlines()
    assert len(lines) == 3
    assert "JAX_NUM_PROCESSES=3 JAX_PROCESS_ID=2 " in lines[2]
    assert ":20007 " in lines[2]
    result = run_script(environment, "tpu_pod.sh", "slice", "zone-a", path)
    assert result.stdout.count("here: gcloud compute tpus tpu-vm scp") == 1
    assert "JAX_COORDINATOR_ADDRESS=auto" in result.stdout
    # Quoted twice: for the remote shell and for the bash it starts.
    assert "configs/my" in result.stdout


def test_scripts_are_free_of_syntax_errors():
    """To their ends, which a dry run does not reach."""
    scripts = sorted((REPOSITORY / "launch").iterdir())
    assert REPOSITORY / "launch" / "slurm.sbatch" in scripts
    for script in scripts:
        subprocess.run(["bash", "-n", str(script)], check=True, timeout=60)


@pytest.mark.parametrize(
    ("script", "arguments"), [("local_pod.sh", ["0"]), ("tpu_pod.sh", ["slice"])]
)
def test_scripts_refuse_what_they_do_not_understand(environment, script, arguments):
    result = run_script(environment, script, *arguments)
    assert result.returncode == 2
    assert f"usage: launch/{script}" in result.stderr
