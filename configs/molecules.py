"""Molecules: diffusion in the latents of an autoencoder (arXiv 2501.03696).

Paper:    section 4, QM9; mended as docs/decisions.md, "Molecules", says
Command:  python -m ncgn_jax.main --config=configs/molecules.py
          --config.data.path=qm9pack-1.0.3-py3-none-any.whl
Hardware: 2 CPU cores, 1 device
Expect:   after 39 minutes on two cores: valid 92.9 ± 1.3 %, in one piece too 91.3 ±
          1.3 %, FCD 1.19 ± 0.25 (held-out molecules 0.14), docs/results/molecules.md

Without data.path (or NCGN_MOLECULES, or an installed qm9pack) it trains on the 600
molecules that come with the package and says so. A file, folder or archive of one's
own (.smi, .csv, .sdf, .parquet) does as well; set data.max_atoms for it.
"""

from ml_collections import ConfigDict

from ncgn_jax.molecules.config import default_config


def get_config() -> ConfigDict:
    """Returns the experiment."""
    config = default_config()
    config.autoencoder.num_steps = 4000
    config.autoencoder.optimizer = "muon"
    config.autoencoder.learning_rate = 4e-3
    config.model.self_conditioning = "decoded"
    config.process.schedule = "linear"
    config.process.target = "velocity"
    # Which molecule it becomes is settled between t = 0.6 and 0.9.
    config.process.times = "logit_normal"
    config.process.time_center = 0.75
    config.train.num_steps = 16_000
    config.train.batch_size = 128
    config.train.optimizer = "muon"
    config.train.learning_rate = 5e-3
    config.sample.num_samples = 10_000
    config.sample.num_steps = 25
    config.sample.guess_guidance = 2.0
    return config.lock()
