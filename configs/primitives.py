r"""Spheres, tori and boxes: a distribution known in closed form, small.

Paper:    none; the error is measured against the truth and not against samples
Command:  python -m ncgn_jax.main --config=configs/primitives.py
          python -m ncgn_jax.compare --config=configs/primitives.py \
              --vary=dmp.connectivity=dmp,knn,long_short --seeds=3
Hardware: 2 CPU cores, 1 device
Expect:   `rms e-2` towards 0 and `in prior` towards 100; noise is far from both
"""

from ml_collections import ConfigDict

from ncgn_jax.point_clouds.config import default_config


def get_config() -> ConfigDict:
    """Returns the experiment."""
    config = default_config()
    config.data.source = "primitives"
    config.data.num_points = 256
    config.data.num_train = 4000
    config.data.num_test = 256
    config.train.num_steps = 3000
    config.train.batch_size = 32
    config.sample.num_samples = 256
    config.sample.num_steps = 20
    config.evaluate.weights = ("ema",)
    config.evaluate.max_reference = 256
    config.evaluate.max_matched_clouds = 32
    config.evaluate.max_emd_clouds = 32
    return config.lock()
