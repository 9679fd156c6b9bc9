import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ncgn_jax.comparison.runs import Run
from ncgn_jax.config import with_fields
from ncgn_jax.domains import make_task, validate
from ncgn_jax.evaluate import evaluate
from ncgn_jax.faults import ConfigError, DataError
from ncgn_jax.generate import draw, generate, load_run
from ncgn_jax.loop import train
from ncgn_jax.molecules.autoencoder_task import (
    participation_ratio,
    reconstruction_scores,
)
from ncgn_jax.molecules.config import default_autoencoder_config, default_config
from ncgn_jax.molecules.facts import mean_log_degree
from ncgn_jax.molecules.model import MoleculeModel
from ncgn_jax.molecules.scores import evaluate_molecules
from ncgn_jax.molecules.task import MoleculeTask
from ncgn_jax.point_clouds import config as point_clouds
from tests.weights import drawn

pytest.importorskip("rdkit")

TINY = {
    "data.source": "sample",
    "autoencoder.num_steps": 2,
    "autoencoder.batch_size": 32,
    "autoencoder.width": 8,
    "autoencoder.pair_width": 8,
    "autoencoder.num_layers": 1,
    "model.width": 8,
    "model.pair_width": 8,
    "model.num_layers": 1,
    "train.num_steps": 4,
    "train.batch_size": 32,
    "train.checkpoint_every_steps": 2,
    "sample.num_samples": 12,
    "sample.batch_size": 12,
    "sample.num_steps": 2,
    "sample.num_published": 8,
    "sample.num_reconstructed": 8,
    "evaluate.max_reference": 20,
}


def tiny(**fields):
    config = default_config().lock()
    return with_fields(
        config, TINY | {k.replace("__", "."): v for k, v in fields.items()}
    )


@functools.cache
def dataset():
    return make_task(tiny()).dataset


def task_of(**fields):
    config = tiny(**fields)
    validate(config)
    return MoleculeTask(config, dataset())


def generate_latents(task, params, codec, sizes):
    return task._generate(params, codec, np.asarray(sizes), seed=0)


def test_participation_ratio_counts_directions(rng):
    values = np.asarray(jax.random.normal(rng, (50_000, 3)))
    assert participation_ratio(values) == pytest.approx(3.0, rel=1e-3)
    assert participation_ratio(values * [1, 0, 0] + 5) == pytest.approx(1.0)
    # Variances 4 and 1: 25 / 17.
    ratio = participation_ratio(values[:, :2] * [2, 1])
    assert ratio == pytest.approx(25 / 17, rel=1e-2)


def test_parts_of_training_times_are_named_by_their_ends():
    fields = {"process__times": "logit_normal", "process__time_center": 0.75}
    assert task_of().bucket_names == ("t0_25", "t25_50", "t50_75", "t75_100")
    assert task_of(**fields).bucket_names == ("t0_60", "t60_75", "t75_85", "t85_100")


@pytest.mark.parametrize(
    ("network", "remembers"),
    [
        ("attention", "decoded"),
        pytest.param("gnn", "latents", marks=pytest.mark.thorough),
        pytest.param("egnn", "none", marks=pytest.mark.thorough),
    ],
)
def test_loss_of_a_batch_is_the_mean_over_its_parts(network, remembers, rng):
    """So it is the same on any number of devices."""
    task = task_of(model__network=network, model__self_conditioning=remembers)
    params, state = drawn(task.init, rng)
    batch = task.batch(0, slice(0, 32))
    loss = jax.jit(task.loss)
    whole, (_, per_bin) = loss(params, state, batch, rng)
    halves = [
        loss(params, state, {k: v[part] for k, v in batch.items()}, rng)
        for part in (slice(0, 16), slice(16, 32))
    ]
    np.testing.assert_allclose(whole, np.mean([h[0] for h in halves]), rtol=1e-5)
    np.testing.assert_allclose(
        per_bin, np.mean([h[1][1] for h in halves], 0), rtol=1e-4
    )
    np.testing.assert_allclose(per_bin.mean(), whole, rtol=1e-5)


def test_mean_log_degree_is_that_of_the_bonds():
    train_set = dataset().train
    logs = [
        np.log1p((own > 0).sum(1)[:n])
        for own, n in zip(train_set.bonds, train_set.num_atoms, strict=True)
    ]
    expected = np.concatenate(logs).mean()
    assert mean_log_degree(train_set) == pytest.approx(expected, rel=1e-6)


def test_reconstruction_counts_whole_molecules():
    test = dataset().test.take(slice(4))
    arrays = {"atoms": test.atoms.copy(), "bonds": test.bonds.copy()}
    assert reconstruction_scores(arrays, dataset().test)["molecule"] == 1.0
    arrays["atoms"][0, 0] = (arrays["atoms"][0, 0] + 1) % 4
    i, j = np.argwhere(test.bonds[1])[0]
    arrays["bonds"][1, i, j] = arrays["bonds"][1, j, i] = 0
    found = reconstruction_scores(arrays, dataset().test)
    assert (found["molecule"], found["adjacency"]) == (0.5, 0.75)


def test_real_molecules_score_as_real():
    test = dataset().test
    drawn = {"atoms": test.atoms, "bonds": test.bonds, "bonds_valency": test.bonds}
    arrays = drawn | {f"control_{k}": v for k, v in drawn.items()}
    arrays |= {f"decoded_{k}": v for k, v in drawn.items()}
    arrays |= {f"published_{k}": v for k, v in drawn.items()}
    rows = evaluate_molecules(dataset(), {"test": arrays}, max_reference=1)
    own = rows["test"]
    for key in ("valid", "valid_connected", "novel", "held_out", "in_known"):
        assert own[key] == 1.0, key
    assert own["repaired_valid_connected"] == own["decoded_molecule"] == 1.0
    assert own["published_novel"] == 0.0  # of the whole data set
    assert (rows["train"]["novel"], rows["train"]["in_known"]) == (0.0, 1.0)
    assert rows["held_out"]["held_out"] == 1.0


@pytest.mark.slow
def test_whole_run_and_resumed_run_agree(tmp_path):
    # Networks that are quick to compile.
    fields = {
        "train__decay": "constant",
        "model__network": "gnn",
        "autoencoder__decoder": "pna",
    }
    config, task = tiny(**fields), task_of(**fields)
    whole = train(config, tmp_path / "whole", task)
    half = fields | {"train__num_steps": 2}
    train(tiny(**half), tmp_path / "parts", task_of(**half))
    # A fresh task has adopted no autoencoder: it comes with the checkpoint.
    resumed = train(config, tmp_path / "parts", task_of(**fields))
    jax.tree.map(np.testing.assert_array_equal, whole, resumed)
    assert (tmp_path / "whole" / "first_stage" / "checkpoints").is_dir()

    fresh, state = load_run(config, tmp_path / "whole")
    samples = generate(config, tmp_path / "whole", fresh, state)
    pictures = draw(tmp_path / "whole", fresh, state, samples)
    assert all(path.stat().st_size > 1000 for path in pictures)
    evaluate(config, tmp_path / "whole", fresh, samples, int(state.step))
    arrays = samples["ema"]
    assert arrays["atoms"].shape == (12, 9)
    assert (arrays["atoms"][:, 0] >= 0).all()
    sizes = (arrays["atoms"] >= 0).sum(1)
    assert set(sizes) <= set(dataset().train.num_atoms)
    published = (arrays["published_atoms"] >= 0).sum(1)
    assert (published >= 2).all()
    assert (published <= 8).all()
    assert "V %" in (tmp_path / "whole" / "table.md").read_text()


def test_first_stages_are_told_apart_by_what_they_learn(tmp_path):
    def stamp(**fields):
        return Run("any", tiny(**fields), tmp_path, 0.0, 0.0).first_stage_stamp

    same = {"model__network": "egnn", "process__heat": "dct", "sample__num_steps": 9}
    assert stamp() == stamp(**same)
    assert stamp() != stamp(autoencoder__latent_dim=3, autoencoder__encoder="pna")
    assert stamp() != stamp(seed=1)
    clouds = point_clouds.default_config().lock()
    assert Run("any", clouds, tmp_path, 0.0, 0.0).first_stage_stamp is None


def test_first_stage_is_a_task_by_itself(tmp_path):
    config = with_fields(
        default_autoencoder_config().lock(),
        {"data.source": "sample", "sample.num_samples": 8, "sample.batch_size": 8}
        | {"autoencoder.width": 8, "autoencoder.pair_width": 8, "train.num_steps": 2}
        | {"autoencoder.num_layers": 1, "train.batch_size": 16}
        | {"autoencoder.encoder": "pna", "autoencoder.variational": True}
        | {"autoencoder.decoder": "pna", "autoencoder.bonds": "separate"},
    )
    validate(config)
    task = make_task(config)
    state = train(config, tmp_path, task)
    samples = generate(config, tmp_path, task, state)
    evaluate(config, tmp_path, task, samples, int(state.step))
    assert "molecule %" in (tmp_path / "table.md").read_text()
    row = json.loads((tmp_path / "table.json").read_text())["rows"]["ema"]
    assert 1.0 <= row["dimensions"] <= 4.0
    assert row["variance"] == pytest.approx(samples["ema"]["variance"].mean())
    assert (samples["ema"]["variance"] != 1.0).all()
    assert draw(tmp_path, task, state, samples)[0].is_file()


@pytest.mark.parametrize(
    "fields",
    [
        {
            "process__heat": "dct",
            "process__still_noise": 0.05,
            "process__blur": "levels",
            "sample__prior": "train",
            "sample__sampler": "renoise",
            "process__target": "data",
        },
        *(
            pytest.param(fields, marks=pytest.mark.thorough)
            for fields in (
                {"process__schedule": "ddpm_linear", "process__chain_steps": 50,
                 "process__target": "noise", "sample__sampler": "ancestral"},
                {"model__network": "egnn", "model__self_conditioning": "decoded"},
                {"process__heat": "dct", "model__self_conditioning": "decoded"},
                {"process__heat": "complete"},
            )
        ),
        {"autoencoder__centered": False, "model__network": "gnn"},
    ],
)  # fmt: skip
def test_every_process_samples_without_touching_padding(fields, rng):
    task = task_of(**fields)
    params, state = drawn(task.init, rng)
    sizes = np.array([2, 5, 9, 9])
    made = generate_latents(task, params, state["codec"], sizes)
    assert np.isfinite(made).all()
    real = np.arange(9)[None] < sizes[:, None]
    assert not made[~real].any()
    assert made[real].any(axis=-1).all()
    again = generate_latents(task, params, state["codec"], sizes)
    np.testing.assert_array_equal(made, again)
    if task.config.autoencoder.centered:
        np.testing.assert_allclose(made[..., :2].sum(1), 0, atol=1e-4)


def test_properties_condition_and_can_be_left_out(rng):
    task = task_of(model__conditions=("gap",), sample__condition_values=(0.3,))
    batch = task.batch(0, slice(0, 32))
    assert batch["condition"].shape == (32, 2)
    np.testing.assert_allclose(task._conditions[:, 0].std(), 1, rtol=1e-3)
    params, state = drawn(task.init, rng)
    sizes = np.array([5, 9])
    low = generate_latents(task, params, state["codec"], sizes)
    high = task_of(model__conditions=("gap",), sample__condition_values=(0.15,))
    other = generate_latents(high, params, state["codec"], sizes)
    assert np.abs(other - low).max() > 0
    guided = task_of(
        model__conditions=("gap",),
        sample__condition_values=(0.3,),
        sample__guidance=2.0,
    )
    moved = generate_latents(guided, params, state["codec"], sizes)
    assert np.abs(moved - low).max() > 0


def test_guidance_by_the_guess_moves_on_from_predictions_without_it(monkeypatch):
    """Velocity 1 with a guess and 0 without: guidance by 2 makes it 3."""

    def predict(model, params, x_t, t, mask, condition, guess=None, decoded=None):
        return jnp.full_like(x_t, guess is not None)

    monkeypatch.setattr(MoleculeModel, "_predict", predict)
    made = []
    for guidance in (0.0, 2.0):
        task = task_of(
            model__self_conditioning="latents",
            sample__guess_guidance=guidance,
            sample__sampler="euler",
        )
        made.append(generate_latents(task, {}, {}, [5, 9]))
    # Places are centred, types are not.
    moved = (made[1] - made[0])[..., 2:]
    np.testing.assert_allclose(moved[0, :5], 2.0, atol=1e-5)
    np.testing.assert_allclose(moved[1], 2.0, atol=1e-5)
    np.testing.assert_array_equal(moved[0, 5:], 0.0)


def test_the_first_guess_is_none_at_all(rng):
    """It is 0, so guidance changes nothing in a single step."""
    fields = {
        "model__self_conditioning": "decoded",
        "sample__num_steps": 1,
        "sample__sampler": "euler",
    }
    task = task_of(**fields)
    params, state = drawn(task.init, rng)
    plain, guided = (
        generate_latents(
            task_of(**fields, sample__guess_guidance=g), params, state["codec"], [5, 9]
        )
        for g in (0.0, 3.0)
    )
    np.testing.assert_allclose(plain, guided, atol=1e-5)


def test_both_tasks_report_their_data():
    stage = default_autoencoder_config().lock()
    stage = with_fields(stage, {"data.source": "sample"})
    for task in (task_of(), make_task(stage)):
        first, found, *_ = task.describe_data()
        assert first.startswith("data: QM9 sample; molecules of QM9 that come with")
        assert "600 molecules, 480 train, 60 val, 60 test" in first
        assert found == "  found: 600 rows (first qm9_sample.csv, line 2)"
        assert task.report is task.dataset.report


def test_conditions_far_out_are_refused_before_training():
    """Asked for 301 of what goes from 0.1 to 0.6, samples would say nothing."""
    fields = {"model__conditions": ("gap",)}
    with pytest.raises(DataError, match=r"found gap 301; the training molecules have"):
        task_of(**fields, sample__condition_values=(301.0,))


def test_unknown_property_is_named_with_those_there_are():
    with pytest.raises(DataError, match=r"no property 'colour'.*dipole, gap"):
        task_of(model__conditions=("colour",))


def test_molecules_of_ones_own(tmp_path):
    path = tmp_path / "mine.csv"
    chains = [f"{'C' * n}O,{n}" for n in range(2, 22)]
    # Two stand there again, one of them read from the other end.
    lines = ["smiles,gap", *chains, "nonsense,1", "CCO,2", "OCCC,3"]
    path.write_text("\n".join(lines) + "\n")
    config = tiny(
        data__source="auto",
        data__path=str(path),
        data__max_atoms=24,
        data__properties=("gap",),
    )
    task = make_task(config)
    assert len(task.dataset.train) == 16
    assert task.dataset.train.atoms.shape[1] == 24
    assert "2 equal to an earlier one (first line 23)" in str(task.report)
    assert sorted(task.dataset.train.properties) == ["gap"]
    assert len(task.dataset.all_smiles()) == 20
    with pytest.raises(DataError, match="line 22"):
        make_task(with_fields(config, {"data.invalid": "stop"}))
    with pytest.raises(DataError, match="data.path"):
        make_task(tiny(data__source="file"))


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"autoencoder__encoder": "gcn"}, "autoencoder.encoder"),
        ({"autoencoder__latent_dim": 3}, "autoencoder.latent_dim"),
        ({"autoencoder__encoder": "depiction", "autoencoder__variational": True},
         "autoencoder.variational"),
        ({"process__still_noise": 0.1}, "process.still_noise"),
        ({"process__still_noise": 0.1, "process__heat": "dct"}, "sample.prior"),
        ({"process__chain_steps": 50}, "process.chain_steps"),
        ({"process__rescale_betas": True}, "process.rescale_betas"),
        ({"sample__condition_values": (1.0,)}, "sample.condition_values"),
        ({"train__batch_size": 30}, "train.batch_size"),
        ({"data__invalid": "maybe"}, "data.invalid"),
        ({"process__times": "often"}, "process.times"),
        ({"sample__guess_guidance": 1.0}, "sample.guess_guidance"),
        ({"model__self_conditioning": "all"}, "model.self_conditioning"),
        ({"autoencoder__optimizer": "sgd"}, "autoencoder.optimizer"),
        ({"process__time_center": 1.0}, "process.time_center"),
        ({"process__time_spread": 0.0}, "process.time_spread"),
        ({"autoencoder__noise_floor": 0.0}, "autoencoder.noise_floor"),
        ({"model__width": 100}, "model.width"),
        ({"autoencoder__width": 20}, "autoencoder.width"),
        ({"process__blur": "levels", "process__min_blur": 9.0}, "process.min_blur"),
        ({"model__conditions": ("gap",), "sample__condition_values": ("a",)},
         "sample.condition_values"),
        ({"model__conditions": ("gap",), "model__condition_dropout": 0.0},
         "model.condition_dropout"),
        ({"process__still_noise": 0.1, "process__heat": "dct"}, "process.target"),
        ({"process__still_noise": 0.1, "process__heat": "dct",
          "sample__time_grid": "edm"}, "sample.time_grid"),
        ({"sample__guidance": 1.0}, "sample.guidance.*0 without model.conditions"),
        ({"sample__guidance": 1.0, "model__conditions": ("gap",)},
         "sample.guidance.*and sample.condition_values"),
        ({"sample__guidance": 1.0, "model__conditions": ("gap",),
          "sample__condition_values": (0.3,), "model__condition_dropout": 0.0},
         "sample.guidance.*0 without model.condition_dropout"),
    ],
)  # fmt: skip
def test_faulty_fields_are_named(fields, said):
    with pytest.raises(ConfigError, match=said):
        validate(tiny(**fields))


@pytest.mark.parametrize(("guidance", "velocity"), [(0.0, 3.0), (2.0, 7.0)])
def test_guidance_moves_on_from_predictions_without_a_condition(
    guidance, velocity, monkeypatch
):
    """Velocity 3 with the condition and 1 without: 3 + 2 (3 - 1) = 7."""

    def predict(model, params, x_t, t, mask, condition, guess=None, decoded=None):
        known = condition[:, 1][:, None, None]
        return jnp.broadcast_to(1.0 + 2.0 * known, x_t.shape)

    monkeypatch.setattr(MoleculeModel, "_predict", predict)
    task = task_of(
        model__conditions=("gap",),
        sample__condition_values=(0.3,),
        sample__sampler="euler",
        sample__guidance=guidance,
    )
    sizes = np.array([9, 9])
    start = task.model.start(sizes, 0, (0.3,), None, np.arange(2)).x
    made = generate_latents(task, {}, {}, sizes)
    # Places are centred, types are not; velocities act for a time of 1.
    np.testing.assert_allclose((made - start)[..., 2:], velocity, atol=1e-5)


@pytest.mark.parametrize(
    "sampler",
    [
        "ancestral",
        *(
            pytest.param(name, marks=pytest.mark.thorough)
            for name in ("heun", "dpmpp_2m")
        ),
    ],
)
def test_paths_end_at_the_first_samples(sampler, rng):
    """With a guess that travels from step to step, and noise in every step."""
    task = task_of(
        model__self_conditioning="latents",
        model__network="gnn",
        sample__sampler=sampler,
        sample__num_steps=7,
        sample__num_published=0,
        sample__num_reconstructed=0,
    )
    params, state = drawn(task.init, rng)
    params = jax.tree.map(lambda leaf: leaf + 0.05, params)
    samples = task.sample(params, state, 12, task.config.seed)["latents"]
    path = task.first_paths(params, state["codec"])
    assert [t for _, t, _ in path] == sorted(t for _, t, _ in path)
    assert len(path) == 6
    np.testing.assert_allclose(path[-1][0], samples[:5], atol=1e-5)


def test_sizes_are_drawn_as_often_as_they_occur():
    task = task_of()
    facts = dataclasses.replace(task.facts, size_counts=(0, 0, 0, 10, 0, 30))
    own = task.with_facts(facts).model
    drawn = own.draw_sizes(4000, seed=0)
    assert set(drawn) == {3, 5}
    assert (drawn == 5).mean() == pytest.approx(0.75, abs=0.03)
    # Within limits, those that occur are equally likely.
    drawn = own.draw_sizes(4000, 0, 2, 5)
    assert (drawn == 5).mean() == pytest.approx(0.5, abs=0.03)
    with pytest.raises(ValueError, match="no training molecule has 6 to 8 atoms"):
        own.draw_sizes(1, 0, 6, 8)
