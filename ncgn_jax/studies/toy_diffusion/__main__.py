"""Runs the study: `python -m ncgn_jax.studies.toy_diffusion`."""

from ncgn_jax.studies.toy_diffusion.study import main

if __name__ == "__main__":
    main()
