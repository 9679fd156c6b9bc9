"""Runs the study: `python -m ncgn_jax.studies.range_and_resolution`."""

from ncgn_jax.studies.range_and_resolution.study import main

if __name__ == "__main__":
    main()
