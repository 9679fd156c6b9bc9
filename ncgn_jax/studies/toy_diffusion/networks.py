"""Trains the tiny network of arXiv 2409.00374 on each possible target.

The network has two ReLU layers of width 20 and a linear one on (x_n, n/T), 542
parameters in the plane. It trains with Adam, batches of 64, 50 epochs of 10,000 points.
The paper states neither the learning rate, 1e-3 here, nor T, an argument here. All
seeds train side by side.

| target  | the network predicts       | gives (data_hat, noise_hat) through           |
|---------|----------------------------|-----------------------------------------------|
| `data`  | data                       | `process.make_denoiser`                       |
| `noise` | noise                      | the same                                      |
| `score` | -noise / sigma             | the same                                      |
| `step`  | x_(n-1) of the same chain  | the line through it and x_n, `step_denoiser`  |
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from ncgn_jax.models.layers import MLP
from ncgn_jax.process import (
    Denoiser,
    Schedule,
    expand_like,
    interpolate,
    make_denoiser,
    make_target,
    posterior_variances,
)
from ncgn_jax.studies.toy_diffusion.exact import num_chain_steps, step_factors

TARGETS = ("data", "noise", "score", "step")

_WIDTH = 20

Predict = Callable[[jax.Array, jax.Array], jax.Array]


class Plan(NamedTuple):
    """Settings of a training.

    Attributes:
      num_epochs: Passes over the data.
      batch_size: Points per step.
      learning_rate: Learning rate of Adam.
    """

    num_epochs: int = 50
    batch_size: int = 64
    learning_rate: float = 1e-3


_DEFAULT_PLAN = Plan()


def make_network(dim: int) -> MLP:
    """Returns the network, [batch, dim + 1] -> [batch, dim]."""
    return MLP((_WIDTH, _WIDTH, dim), norm="none", plain_last=True)


def make_predict(params: Any, dim: int = 2) -> Predict:
    """Returns (x_t, t [batch]) -> output of the network, given its parameters."""
    network = make_network(dim)

    def predict(x_t, t):
        # n / T, the paper's time, is 1 - t.
        inputs = jnp.concatenate([x_t, 1 - expand_like(t, x_t)], axis=1)
        return network.apply({"params": params}, inputs, train=False)

    return predict


def train_networks(
    rngs: jax.Array,
    schedule: Schedule,
    target: str,
    data: jax.Array,
    noise: jax.Array | None = None,
    plan: Plan = _DEFAULT_PLAN,
) -> tuple[Any, jax.Array]:
    """Trains one network per seed, side by side.

    Each visit of a point draws n uniformly from 1..T, and fresh noise unless each
    point has its own. An epoch is a new order of the points, without the few that do
    not fill a batch.

    Args:
      rngs: Keys, [seed].
      schedule: A discrete schedule.
      target: One of `TARGETS`.
      data: Points of each seed, [seed, point, dim].
      noise: The noise of each point, same shape; None for fresh noise. Not for target
        `step`.
      plan: Settings of the training.

    Returns:
      Parameters with a leading seed axis, and the mean squared error of each step
      before its update, [seed, step], float32.

    Raises:
      ValueError: If the target is another one, `step` meets fixed noise, or there are
        fewer points than a batch.
    """
    if target not in TARGETS:
        raise ValueError(f"target: found {target!r}; allowed: {TARGETS}")
    if target == "step" and noise is not None:
        raise ValueError("with fixed noise, x_(n-1) is no sample of a chain")
    if data.shape[1] < plan.batch_size:
        raise ValueError(
            f"{data.shape[1]} points do not fill a batch of {plan.batch_size}"
        )
    rngs_visit, rngs_init = jnp.moveaxis(jax.vmap(jax.random.split)(rngs), 1, 0)
    visits = _draw_visits(plan, schedule.num_steps, data.shape[1:], rngs_visit)
    examples = _make_examples(schedule, target, data, noise, visits)
    batches = [
        v.astype(jnp.float32).reshape(len(rngs), -1, plan.batch_size, *v.shape[2:])
        for v in examples
    ]
    return _fit(plan, rngs_init, *batches)


# One program serves all schedules and targets, which differ in the examples alone.
@functools.partial(jax.jit, static_argnums=0)
@functools.partial(jax.vmap, in_axes=(None, 0, 0, 0, 0))
def _fit(plan, rng, x_t, t, wanted):
    """Trains on batches x_t, wanted [step, batch, dim] and t [step, batch]."""
    dim = x_t.shape[-1]
    blank = jnp.zeros((1, dim + 1), jnp.float32)
    params = make_network(dim).init(rng, blank, train=False)["params"]
    optimizer = optax.flatten(optax.adam(plan.learning_rate))

    def loss(params, x_t, t, wanted):
        return jnp.mean((make_predict(params, dim)(x_t, t) - wanted) ** 2)

    def step(state, batch):
        params, moments = state
        value, slopes = jax.value_and_grad(loss)(params, *batch)
        updates, moments = optimizer.update(slopes, moments)
        return (optax.apply_updates(params, updates), moments), value

    state = (params, optimizer.init(params))
    (params, _), losses = jax.lax.scan(step, state, (x_t, t, wanted))
    return params, losses


class _Visits(NamedTuple):
    """Random draws of each visit of a point, [seed, visit, ..]."""

    place: jax.Array
    step_index: jax.Array
    noise: jax.Array
    chain_noise: jax.Array


# Independent of the schedule, so that it is compiled once as well.
@functools.partial(jax.jit, static_argnums=(0, 1, 2))
@functools.partial(jax.vmap, in_axes=(None, None, None, 0))
def _draw_visits(plan, num_steps, shape, rng):
    per_epoch = shape[0] - shape[0] % plan.batch_size
    num_visits = plan.num_epochs * per_epoch
    rng_order, rng_step, rng_noise, rng_chain = jax.random.split(rng, 4)
    orders = jax.lax.map(
        lambda key: jax.random.permutation(key, shape[0])[:per_epoch],
        jax.random.split(rng_order, plan.num_epochs),
    )
    return _Visits(
        orders.ravel(),
        jax.random.randint(rng_step, (num_visits,), 1, num_steps + 1),
        jax.random.normal(rng_noise, (num_visits, shape[1])),
        jax.random.normal(rng_chain, (num_visits, shape[1])),
    )


def _make_examples(schedule, target, data, noise, visits):
    """Returns x_t [seed, visit, dim], t [seed, visit] and the target."""
    shape = visits.noise.shape
    places = visits.place[:, :, None]
    fresh = visits.noise if noise is None else _take(noise, places)
    data, noise, chain_noise = (
        v.reshape(-1, shape[-1])
        for v in (_take(data, places), fresh, visits.chain_noise)
    )
    n = visits.step_index.ravel()
    t = schedule.time_of_step(n)
    if target == "step":
        t_next = schedule.time_of_step(n - 1)
        wanted = interpolate(schedule, t_next, data, noise)
        _, added = posterior_variances(schedule, t, t_next)
        ratio = schedule.alpha(t) / schedule.alpha(t_next)
        x_t = expand_like(ratio, data) * wanted
        x_t = x_t + expand_like(jnp.sqrt(added), data) * chain_noise
    else:
        x_t = interpolate(schedule, t, data, noise)
        wanted = make_target(target, schedule, t, data, noise)
    return x_t.reshape(shape), t.reshape(shape[:2]), wanted.reshape(shape)


def _take(points, places):
    return jnp.take_along_axis(points, places, axis=1)


def network_denoiser(
    params: Any,
    schedule: Schedule,
    target: str,
    data_limit: float | None = None,
) -> Denoiser:
    """Returns the denoiser of one trained network in the plane.

    Args:
      params: Its parameters, without a seed axis.
      schedule: The schedule of its training.
      target: Its target.
      data_limit: See `process.make_denoiser`; not for target `step`.
    """
    predict = make_predict(params)
    if target == "step":
        return step_denoiser(predict, schedule)
    return make_denoiser(predict, target, schedule, data_limit)


def step_denoiser(predict: Predict, schedule: Schedule) -> Denoiser:
    """Converts a prediction of x_(n-1) into (data_hat, noise_hat).

    x_n = alpha data + sigma noise and E[x_(n-1) | x_n] = a data + b noise are two
    equations for two unknowns. The mean of `ancestral_step` combines them again, so
    that a step from n to n - 1 returns the prediction itself.

    Args:
      predict: (x_t, t [batch]) -> mean of x one step later.
      schedule: A discrete schedule.
    """
    num_steps = num_chain_steps(schedule)

    def denoise(x_t: jax.Array, t: jax.Array) -> tuple[jax.Array, jax.Array]:
        t_next = t + 1 / num_steps
        alpha, sigma, _, _ = schedule.coefficients(t)
        factors = (alpha, sigma, *step_factors(schedule, t, t_next))
        alpha, sigma, a, b = (expand_like(factor, x_t) for factor in factors)
        mean = predict(x_t, t)
        determinant = a * sigma - b * alpha
        data_hat = (sigma * mean - b * x_t) / determinant
        return data_hat, (a * x_t - alpha * mean) / determinant

    return denoise
