"""Command line: trains, samples and evaluates one configuration.

    python -m ncgn_jax.main --config=configs/modelnet.py [--workdir=runs/mine]
        [--mode=all|train|sample|evaluate|check] [--checkpoint=newest|best|STEP]
        [--samples=NAME] [--pictures=all|none] [--accept=FIELD,...]
        [--plugin=mine.py] [--timestamps] [--preempted_code=0]
        [--config.dmp.schedule=linear ...]
    python -m ncgn_jax.main --workdir=runs/mine --mode=sample
    python -m ncgn_jax.main --help [--config=configs/modelnet.py]

Run it again and it resumes; SIGTERM and Ctrl-C save and end it, with exit codes 75 and
130. `--workdir` alone is
enough for a run that exists. Sampling needs no data: the run has all that its data
taught it.
Nothing is written before configuration and data have been checked (--mode=check does
that alone, and exits with 0 or 2), and a run never goes on with other data or another
configuration in silence (see ncgn_jax/memory.py).

On several machines the same command runs on all of them (see ncgn_jax/processes.py,
and the scripts in launch/): they train and sample together, process 0 then measures
and draws while the others wait.
"""

import sys

from ncgn_jax.run.early_stop import stops_at_once


def main(argv: list[str] | None = None) -> None:
    """Runs a command line; expected errors become one message."""
    with stops_at_once():
        from ncgn_jax.running import start

        start(argv or sys.argv, __doc__ or "")


if __name__ == "__main__":
    main()
