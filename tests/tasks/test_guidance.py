"""Guidance means one thing in every domain, and every table says it."""

import types

from ncgn_jax.domains import DOMAINS
from ncgn_jax.molecules.task import MoleculeTask
from ncgn_jax.point_clouds.task import PointCloudTask
from ncgn_jax.tasks import sampling
from ncgn_jax.tasks.settings import GUIDANCE


def test_every_domain_with_guidance_has_the_same_field_and_formula():
    import ncgn_jax.images.model as images
    import ncgn_jax.molecules.model as molecules
    import ncgn_jax.point_clouds.model as point_clouds

    found = {
        name
        for name, kind in DOMAINS.items()
        for row in kind.fields
        if row.name == "sample.guidance" and row == GUIDANCE
    }
    asked = {
        name
        for name, kind in DOMAINS.items()
        if any(row.name == "sample.guidance" for row in kind.fields)
    }
    assert found == asked == {"point_clouds", "molecules", "images"}
    for module in (images, molecules, point_clouds):
        assert module.guide is sampling.guide
    assert float(sampling.guide(3.0, 1.0, 0.0)) == 3.0
    assert float(sampling.guide(3.0, 1.0, 1.5)) == 6.0


def stand_in(**sample):
    """What a caption reads of a task."""
    names = types.SimpleNamespace(names=("gap",))
    model = types.SimpleNamespace(num_classes=2, num_points=8, conditions=names)
    return types.SimpleNamespace(
        config=types.SimpleNamespace(
            sample=types.SimpleNamespace(num_samples=4, **sample),
            evaluate=types.SimpleNamespace(max_reference=4, max_images=4),
        ),
        has_data=False,
        dataset=types.SimpleNamespace(name="a", train=range(9), test=range(5)),
        model=model,
        sampling=types.SimpleNamespace(guidance=1.5),
    )


def test_tables_say_how_samples_were_guided():
    clouds = PointCloudTask.caption(stand_in())
    molecules = MoleculeTask.caption(
        stand_in(condition_values=(0.3,), guess_guidance=0.0)
    )
    assert clouds["guidance"] == molecules["guidance"] == 1.5
