"""The lock of a folder: live holders refuse, dead ones are followed."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

import ncgn_jax.run.lock
from ncgn_jax.faults import LockError
from ncgn_jax.run.lock import hold

HOLDER = """
import sys, time
from ncgn_jax.run.lock import hold
with hold(sys.argv[1], beat_seconds=0.05):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that holds the folder."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def rewrite(tmp_path, **fields):
    """Changes what the lock says."""
    path = tmp_path / "lock"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def test_a_lock_is_there_while_held_and_gone_after(tmp_path):
    with hold(tmp_path / "run") as lock:
        about = json.loads((tmp_path / "run" / "lock").read_text())
        assert about["pid"] == os.getpid()
        lock.check()
    assert list((tmp_path / "run").iterdir()) == []


def test_a_process_may_hold_what_it_holds(tmp_path):
    with hold(tmp_path):
        with hold(tmp_path) as inner:
            inner.check()
        assert (tmp_path / "lock").exists()
    assert not (tmp_path / "lock").exists()


def test_an_error_lets_go(tmp_path):
    with pytest.raises(KeyError), hold(tmp_path):
        raise KeyError
    assert not (tmp_path / "lock").exists()


@pytest.mark.slow
def test_the_dead_are_followed_and_the_living_refuse(tmp_path, holder, capsys):
    with pytest.raises(LockError, match=rf"in use .*process {holder.pid} of .*since 2"):
        hold(tmp_path).__enter__()
    # Alive, but as far as can be known on another machine: it beats.
    rewrite(tmp_path, machine="elsewhere")
    with pytest.raises(LockError, match="in use"), hold(tmp_path, patience_seconds=20):
        pass
    assert "waiting up to 20 s" in capsys.readouterr().out
    rewrite(tmp_path, machine=ncgn_jax.run.lock._machine())
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    with hold(tmp_path):
        message = capsys.readouterr().out
    assert f"taking over the lock of a dead process (process {holder.pid} " in message
    assert not (tmp_path / "lock").exists()


def other_process(tmp_path, **fields):
    """Leaves the lock of a process that is gone."""
    with hold(tmp_path):
        content = json.loads((tmp_path / "lock").read_text())
    (tmp_path / "lock").write_text(json.dumps(content | fields))


def test_a_silent_process_of_another_machine_is_dead(tmp_path, capsys):
    other_process(tmp_path, machine="elsewhere", host="far", token="old")
    with hold(tmp_path, patience_seconds=0.3):
        assert json.loads((tmp_path / "lock").read_text())["token"] != "old"
    assert "on far, since" in capsys.readouterr().out


def test_a_number_used_again_is_another_process(tmp_path, capsys):
    other_process(tmp_path, started="0", token="old")
    (tmp_path / "lock.old").write_text("half")  # killed while it gave a sign of life
    with hold(tmp_path):
        assert "taking over" in capsys.readouterr().out
        assert [entry.name for entry in tmp_path.iterdir()] == ["lock"]


@pytest.mark.parametrize(
    "content", [b"", b'{"pid": 1', b"[]", b"\xff\x00", b'{"pid": "1"}']
)
def test_a_lock_cut_off_is_taken_over_in_time(tmp_path, content, capsys):
    (tmp_path / "lock").write_bytes(content)
    with hold(tmp_path, patience_seconds=0.2) as lock:
        lock.check()
    assert "the lock of an unknown process" in capsys.readouterr().out


def test_who_was_given_up_hears_of_it(tmp_path):
    with hold(tmp_path, beat_seconds=0.02) as lock:
        rewrite(tmp_path, token="another", host="far")
        time.sleep(0.1)  # the beat does not take it back
        with pytest.raises(LockError, match="taken over .* on far"):
            lock.check()
    assert json.loads((tmp_path / "lock").read_text())["token"] == "another"


def test_one_of_many_gets_a_dead_lock(tmp_path):
    """Threads stand in for processes: each has a lock object of its own."""
    other_process(tmp_path, machine="elsewhere", token="old")
    locks = [ncgn_jax.run.lock.Lock(tmp_path / "lock", 10.0) for _ in range(8)]

    def acquire(lock):
        with contextlib.suppress(LockError):
            lock.acquire(0.2)

    threads = [threading.Thread(target=acquire, args=(lock,)) for lock in locks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    holders = [lock for lock in locks if lock._token is not None]
    assert len(holders) == 1
    holders[0].check()
    holders[0].release()
