"""Runs the study: `python -m ncgn_jax.studies.geometry_of_noise`."""

from ncgn_jax.studies.geometry_of_noise.study import study
from ncgn_jax.studies.report import run_study

if __name__ == "__main__":
    run_study(
        "geometry_of_noise",
        "Do models need the noise level as an input? (arXiv 2602.18428)",
        study,
    )
