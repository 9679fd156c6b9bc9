"""`ncgn_jax.train`: arrays in, a model that stands on its own out, in every domain."""

import numpy as np
import optax
import pytest

import ncgn_jax as ncgn
from ncgn_jax import registry
from ncgn_jax.domains import DOMAINS
from ncgn_jax.faults import ConfigError, DataError, RequestError
from ncgn_jax.run.checkpoint import Checkpoints
from ncgn_jax.training import train

pytestmark = pytest.mark.usefixtures("compile_quickly")
RNG = np.random.default_rng(0)
SHORT = {
    "train.batch_size": 16,
    "train.optimizer": "adam",
    "train.warmup_steps": 1,
    "model.num_layers": 1,
    "model.width": 8,
    "sample.num_steps": 2,
}
CLOUDS = RNG.normal(size=(20, 16, 3)) * [1, 2, 1]
# One noise bucket compiles in a quarter of the time.
ONE_BUCKET = {
    "dmp.connectivity": "knn",
    "dmp.num_neighbors": 3,
    "model.convolution": "gcn",
}
SMALL_CLOUDS = {**SHORT, **ONE_BUCKET, "data.num_points": 16}


def test_clouds_train_resume_and_sample(tmp_path, monkeypatch):
    monkeypatch.setattr(registry, "_REGISTERED", {})
    seen = []
    data = {"points": CLOUDS, "class": ["box", "ball"] * 10}
    settings = {
        "fields": {**SMALL_CLOUDS, "model.class_conditional": True},
        "optimizer": optax.sgd(1e-3),
        "callbacks": [lambda step, metrics: seen.append((step, metrics["loss"]))],
    }
    folder = tmp_path / "run"
    train("point_clouds", data, folder, steps=2, **settings)
    model = ncgn.train("point_clouds", data, folder, steps=3, **settings)
    assert [step for step, _ in seen] == [1, 2, 3]
    assert np.isfinite([loss for _, loss in seen]).all()
    assert Checkpoints(folder, "", read_only=True).steps()[-1] == 3
    assert model.sample(2, label="ball").points.shape == (2, 16, 3)
    assert [path.suffix for path in (folder / "data").iterdir()] == [".npz"]

    other = {**data, "points": CLOUDS + RNG.normal(size=CLOUDS.shape)}
    with pytest.raises((ConfigError, DataError), match="data"):
        train("point_clouds", other, folder, steps=4, **settings)
    # In another process the optimiser is unknown; sampling does not need it.
    registry._REGISTERED.clear()
    again = ncgn.load(folder).sample(2, label="ball")
    np.testing.assert_array_equal(again.points, model.sample(2, label="ball").points)


def test_images(tmp_path):
    images = RNG.integers(0, 256, (48, 8, 8)).astype(np.uint8)
    data = {"images": images, "labels": np.arange(48) % 2}
    fields = {**SHORT, "dmp.patches": (4,)}
    model = ncgn.train("images", data, tmp_path, steps=2, fields=fields)
    assert len(model.sample(2, label=[0, 1])) == 2


def test_cells(tmp_path):
    places = RNG.uniform(size=(60, 2))
    data = {
        "expression": RNG.normal(size=(60, 3)),
        "genes": ["Gad2", "Sox10", "Ttr"],
        "positions": places,
    }
    fields = {**SHORT, **ONE_BUCKET, "data.num_nodes": 8}
    fields |= {"data.num_train": 16, "data.num_test": 4}
    model = ncgn.train("expression", data, tmp_path, steps=2, fields=fields)
    assert model.genes == ("Gad2", "Sox10", "Ttr")


def test_molecules(tmp_path):
    pytest.importorskip("rdkit")
    smiles = ["C" * n + tail for n in range(1, 7) for tail in ("O", "N", "F", "C=O")]
    data = {"smiles": smiles, "length": [len(text) for text in smiles]}
    fields = {
        **SHORT,
        "train.batch_size": 32,
        "autoencoder.num_steps": 1,
        "autoencoder.batch_size": 8,
        "autoencoder.num_layers": 1,
        "autoencoder.width": 8,
        "model.network": "gnn",
        "model.conditions": ("length", "logp"),
    }
    model = ncgn.train("molecules", data, tmp_path, steps=1, fields=fields)
    found = model.sample(3, properties={"logp": 0.5})
    assert (model.properties, found.asked) == (("length", "logp"), {"logp": 0.5})
    assert found.reached("logp").shape == (3,)


@pytest.mark.parametrize(
    ("domain", "data", "message"),
    [
        ("clouds", CLOUDS, "domain: found 'clouds'; allowed: point_clouds"),
        ("point_clouds", CLOUDS[0], r"data: points of shape \(16, 3\)"),
        ("point_clouds", {"cloud": CLOUDS}, "data: found cloud; allowed: an array"),
        (
            "images",
            {"images": np.zeros((20, 8, 8), np.uint8), "cloud": CLOUDS},
            "data: found images, cloud; allowed: an array",
        ),
        ("molecules", [1], "data: allowed: a sequence of SMILES"),
        ("molecules", {"smiles": ["C"], "gap": [1, 2]}, r"data: gap is .*allowed: 1 n"),
        ("expression", CLOUDS, "data: found ndarray; allowed: AnnData, or a mapping"),
        (
            "expression",
            {"expression": np.ones((4, 2)), "genes": ["a"], "positions": CLOUDS[0]},
            "allowed|must agree",
        ),
    ],
)
def test_other_data_are_refused_and_nothing_is_left(tmp_path, domain, data, message):
    with pytest.raises(RequestError, match=message):
        train(domain, data, tmp_path / "run", steps=1)
    assert not (tmp_path / "run").exists()


def test_faults_of_fields_and_data_leave_nothing(tmp_path):
    folder = tmp_path / "run"
    with pytest.raises(ConfigError, match="model.width"):
        train("point_clouds", CLOUDS, folder, fields={"model.width": 0})
    with pytest.raises(DataError, match="num_points"):
        train("point_clouds", CLOUDS, folder, fields={"data.num_points": 400})
    with pytest.raises(RequestError, match=r"config: found one of images"):
        train("point_clouds", CLOUDS, folder, config="digits")
    with pytest.raises(RequestError, match=r"optimizer: found 3; allowed: a name"):
        train("point_clouds", CLOUDS, folder, optimizer=3)
    assert not folder.exists()


def test_every_domain_with_a_model_takes_arrays():
    takes = {n for n, task in DOMAINS.items() if "write_data" in vars(task)}
    assert takes == {"point_clouds", "expression", "molecules", "images"}
