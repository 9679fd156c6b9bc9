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

from ncgn_jax import running
from ncgn_jax.run.checkpoint import Checkpoints
from ncgn_jax.run.logs import read_metrics
from tests.line_task import CONFIG_FILE

REPOSITORY = Path(__file__).resolve().parent.parent
SMOKE = str(REPOSITORY / "configs" / "smoke.py")
FIELDS = [
    "data.num_points=16", "dmp.connectivity=knn", "train.batch_size=16",
    "train.log_every_steps=1", "train.checkpoint_every_steps=4",
    "evaluate.weights=ema",
]  # fmt: skip


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
        # Later processes read what earlier ones compiled.
        "JAX_COMPILATION_CACHE_DIR": str(folder / "compiled"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }


@pytest.fixture
def start(environment):
    """Starts pods; whatever happens, all of them end."""
    started = []

    def start_pod(devices, workdir, mode, fields=FIELDS, config=SMOKE):
        arguments = [f"--config={config}", f"--workdir={workdir}", f"--mode={mode}"]
        arguments.append("--pictures=none")
        arguments += [f"--config.{field}" for field in fields]
        process = subprocess.Popen(
            ["bash", "launch/local_pod.sh", "2", *arguments],
            cwd=REPOSITORY,
            env=environment | {"DEVICES": str(devices)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        started.append(process)
        return process

    yield start_pod
    for process in started:
        process.terminate()


def finish(process):
    """Waits for a run that ends by itself; returns what it printed."""
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    return output


def run_alone(workdir, mode):
    """Does the same in this process, on its eight devices."""
    running.run(SMOKE, FIELDS, str(workdir), mode, pictures=False)


def stored_steps(workdir):
    return Checkpoints(workdir, "{}", read_only=True).steps()


def losses(workdir):
    return read_metrics(workdir)["loss"][1]


def assert_same_training(first, second):
    """Sums over devices are added up in another order: float32 rounding, 8 steps."""
    assert len(losses(first)) == 8
    np.testing.assert_allclose(losses(first), losses(second), rtol=1e-4)
    stores = [Checkpoints(path, "{}", read_only=True) for path in (first, second)]
    found, expected = (store.read(8)[0] for store in stores)
    assert found.keys() == expected.keys()
    for name in found:
        np.testing.assert_allclose(
            found[name], expected[name], rtol=1e-3, atol=1e-5, err_msg=name
        )


@pytest.mark.thorough
@pytest.mark.slow
def test_the_layout_changes_neither_training_nor_samples(tmp_path, start, capsys):
    """Two processes of two devices, and one of eight, also from the state of two."""
    pod, alone = tmp_path / "pod", tmp_path / "alone"
    # One command to the end: process 0 measures while the other waits.
    process = start(2, pod, "all")
    run_alone(alone, "train")
    output = finish(process)
    assert output.count("data_set: ") == 1
    assert (pod / "table.json").is_file()
    assert losses(alone)[0] != losses(alone)[-1]
    assert_same_training(pod, alone)
    # One process goes on from what two have stored.
    half = shutil.copytree(pod, tmp_path / "half")
    shutil.rmtree(half / "checkpoints" / "8")
    capsys.readouterr()
    run_alone(half, "train")
    assert "resuming from checkpoint 4" in capsys.readouterr().out
    assert_same_training(half, alone)
    (path,) = (pod / "samples").glob("*/ema.npz")
    with np.load(path) as file:
        together = file["points"]
    path.unlink()
    run_alone(pod, "sample")
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
def test_a_dead_peer_ends_the_run_and_the_same_command_goes_on(tmp_path, start):
    fields = ["train.num_steps=1000000", "train.log_every_steps=1000"]
    config = tmp_path / "line.py"
    config.write_text(CONFIG_FILE)
    process = start(1, tmp_path, "train", fields, config)
    wait_for_save(process, tmp_path, 0)
    os.kill(worker(process, 1), signal.SIGKILL)
    output, _ = process.communicate(timeout=120)
    assert process.returncode != 0
    assert "[0] error: process 0 of 2" in output
    assert "Then start the same command again on all of them" in output
    stored = stored_steps(tmp_path)[-1]
    process = start(1, tmp_path, "train", fields, config)
    wait_for_save(process, tmp_path, stored)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=120)
    assert f"resuming from checkpoint {stored}\n" in output
    assert process.returncode == 75, output
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
