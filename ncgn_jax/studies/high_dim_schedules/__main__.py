"""Runs the study: `python -m ncgn_jax.studies.high_dim_schedules`."""

from ncgn_jax.studies.high_dim_schedules.study import study
from ncgn_jax.studies.report import run_study

if __name__ == "__main__":
    run_study(
        "high_dim_schedules",
        "How many sampling steps does a high dimension cost?",
        study,
    )
