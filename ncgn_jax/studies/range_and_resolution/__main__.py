"""Runs the study: `python -m ncgn_jax.studies.range_and_resolution`."""

from ncgn_jax.studies.range_and_resolution.study import study
from ncgn_jax.studies.report import run_study

if __name__ == "__main__":
    run_study(
        "range_and_resolution",
        "How far and how coarsely to look at each noise level.",
        study,
    )
