"""The network on graphs that a configuration names."""

import pytest

from ncgn_jax.config import with_fields
from ncgn_jax.domains import default_config, validate
from ncgn_jax.models.hourglass import Hourglass
from ncgn_jax.models.ncgn import NCGN
from ncgn_jax.tasks.settings import make_network_settings


@pytest.mark.parametrize("domain", ["point_clouds", "expression"])
@pytest.mark.parametrize("convolution", ["gat", "gcn", "geometric"])
def test_the_network_is_the_one_that_is_named(domain, convolution):
    own = {"model.convolution": convolution, "model.num_layers": 2}
    default = with_fields(default_config(domain).lock(), own)
    assert default.model.network == "ncgn"
    named = with_fields(default, {"model.network": "hourglass"})
    for config, kind, word in (
        (default, NCGN, "NCGN"),
        (named, Hourglass, "hourglass"),
    ):
        validate(config)
        settings, model = make_network_settings(config), config.model
        network = kind(3, model.width, 2, convolution, model.norm, "devices")
        assert settings.build(3, "devices") == network
        said = f"model: {word} {convolution}, width {model.width}, 2 layers"
        assert settings.describe().startswith(said)
