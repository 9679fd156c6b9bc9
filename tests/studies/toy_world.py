"""The mixture, the schedules and the lesson of the tests of toy diffusion."""

import jax

from ncgn_jax.studies.toy_diffusion import exact, networks, samples, study

LINEAR, COSINE = samples.SCHEDULE_NAMES
SINGLE_STEP = samples.STEPS["single step"]
MIXTURE = exact.two_modes()
# Most arrays are of one size: every operation is compiled once.
NUM = 4000
NOISE_KEY = jax.random.key(7)
# One shape of all lessons: training is compiled once for each.
SMALL = networks.Plan(num_epochs=20, batch_size=50, learning_rate=1e-2)


def make_lesson():
    sizes = study.Sizes(num_points=500, num_seeds=2, num_learned=NUM // 2)
    lesson = study.make_lesson(sizes, jax.random.key(0))
    return lesson._replace(num_steps=10, plan=SMALL)
