"""The first stage of configs/molecules.py alone: how much latents keep of a molecule.

Paper:    arXiv 2501.03696, section 3
Command:  python -m ncgn_jax.main --config=configs/molecule_autoencoder.py
          --config.data.path=qm9pack-1.0.3-py3-none-any.whl
Hardware: 2 CPU cores, 1 device
Expect:   after 4 minutes on two cores (4,000 steps of 0.064 s): 94.9 ± 0.8 % of the
          test molecules are right in every atom and bond, docs/results/molecules.md
"""

from ml_collections import ConfigDict

from ncgn_jax.molecules.config import default_autoencoder_config


def get_config() -> ConfigDict:
    """Returns the experiment."""
    config = default_autoencoder_config()
    config.train.num_steps = 4000
    config.train.optimizer = "muon"
    config.train.learning_rate = 4e-3
    return config.lock()
