import pytest

from ncgn_jax.config import with_fields
from ncgn_jax.point_clouds.config import default_config
from ncgn_jax.tasks.settings import sampling_notes


@pytest.mark.parametrize(
    ("schedule", "target", "limit", "warned"),
    [
        ("linear", "noise", None, True),
        ("ddpm_cosine", "score", None, True),
        ("linear", "noise", 4.0, False),
        ("linear", "velocity", None, False),
        ("ddpm_linear", "noise", None, False),
        ("ve", "score", None, False),
    ],
)
def test_division_by_a_vanishing_alpha_is_told(schedule, target, limit, warned):
    config = with_fields(
        default_config().lock(),
        {
            "process.schedule": schedule,
            "process.target": target,
            "sample.data_limit": limit,
        },
    )
    notes = sampling_notes(config)
    assert len(notes) == warned
    assert not warned or "sample.data_limit" in notes[0]
