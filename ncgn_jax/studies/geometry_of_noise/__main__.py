"""Runs the study: `python -m ncgn_jax.studies.geometry_of_noise`."""

from ncgn_jax.studies.geometry_of_noise.study import main

if __name__ == "__main__":
    main()
