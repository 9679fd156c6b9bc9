"""Joining the processes of a run: what is said when they cannot."""

import os
import socket
import subprocess
import sys

import jax
import pytest

from ncgn_jax.faults import ProcessError
from ncgn_jax.processes import check_same, from_main, start


@pytest.fixture
def port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        yield probe.getsockname()[1]


@pytest.fixture(autouse=True)
def no_environment(monkeypatch):
    for name in ("COORDINATOR_ADDRESS", "NUM_PROCESSES", "PROCESS_ID"):
        monkeypatch.delenv(f"JAX_{name}", raising=False)
    yield
    assert not jax.distributed.is_initialized()


@pytest.fixture
def join(monkeypatch):
    """Starts as one of several processes, which its environment describes."""

    def start_as(address, count, number):
        monkeypatch.setenv("JAX_COORDINATOR_ADDRESS", address)
        monkeypatch.setenv("JAX_NUM_PROCESSES", str(count))
        monkeypatch.setenv("JAX_PROCESS_ID", str(number))
        monkeypatch.setenv("NCGN_JOIN_SECONDS", "1")
        start()

    return start_as


def test_an_unreachable_coordinator_is_named_with_what_to_look_at(port, join):
    with pytest.raises(
        ProcessError, match=rf"127\.0\.0\.1:{port} after 1 s .*firewall"
    ):
        join(f"127.0.0.1:{port}", 2, 1)


def test_a_port_in_use_is_named(join):
    with socket.socket() as other:
        other.bind(("", 0))
        other.listen()
        taken = other.getsockname()[1]
        with pytest.raises(ProcessError, match=f"cannot listen at port {taken}"):
            join(f"127.0.0.1:{taken}", 2, 0)


@pytest.mark.parametrize("address", ["localhost", "localhost:", ":12", "localhost:a"])
def test_an_address_without_host_or_port_is_refused(address, join):
    with pytest.raises(ProcessError, match="is not host:port"):
        join(address, 2, 1)


def test_numbers_in_the_environment_have_to_be_numbers(monkeypatch):
    monkeypatch.setenv("JAX_NUM_PROCESSES", "two")
    with pytest.raises(ProcessError, match="JAX_NUM_PROCESSES='two' is not a whole"):
        start()


def test_one_process_of_one_joins_nobody(join):
    join("127.0.0.1:1", 1, 0)


@pytest.mark.slow
def test_who_waits_in_vain_for_the_others_says_so(port):
    """Without the trace of JAX's abort(), and with the exit code of an error."""
    command = "from ncgn_jax import processes; processes.start()"
    result = subprocess.run(
        [sys.executable, "-c", command],
        env=os.environ
        | {
            "PYTHONPATH": os.pathsep.join(sys.path),
            "JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{port + 1}",
            "JAX_NUM_PROCESSES": "2",
            "JAX_PROCESS_ID": "0",
            "NCGN_JOIN_SECONDS": "2",
        },
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert result.returncode == 1
    assert result.stderr.count("could not join 2 processes at 127.0.0.1:") == 1
    assert "each with its own JAX_PROCESS_ID" in result.stderr
    assert "stack trace" not in result.stderr


def test_one_process_agrees_with_itself():
    check_same({"configuration": "a"})
    assert from_main(lambda: b"ab").tobytes() == b"ab"
    with pytest.raises(KeyError):
        from_main({}.popitem)
