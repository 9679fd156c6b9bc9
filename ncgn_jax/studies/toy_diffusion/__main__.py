"""Runs the study: `python -m ncgn_jax.studies.toy_diffusion`."""

from ncgn_jax.studies.report import run_study
from ncgn_jax.studies.toy_diffusion.study import study

if __name__ == "__main__":
    run_study("toy_diffusion", "Diffusion of two Gaussians.", study)
