"""Runs the study: `python -m ncgn_jax.studies.high_dim_schedules`."""

from ncgn_jax.studies.high_dim_schedules.study import main

if __name__ == "__main__":
    main()
