"""Trains a model on data of one's own: the call behind `ncgn_jax.train`.

import ncgn_jax as ncgn

model = ncgn.train("point_clouds", clouds, "runs/mine", steps=2000)
model.sample(16).save("clouds.ply")
"""

import hashlib
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import flax.linen as nn
import optax
from ml_collections import ConfigDict

from ncgn_jax import parallel, registry
from ncgn_jax.config import load_config, with_fields
from ncgn_jax.data.whole_files import check_writable
from ncgn_jax.domains import DOMAINS, default_config, make_task, validate
from ncgn_jax.faults import RequestError
from ncgn_jax.loading import load
from ncgn_jax.loop import Callback
from ncgn_jax.loop import train as run_loop
from ncgn_jax.memory import check_names
from ncgn_jax.plugins import check_domain, import_plugins
from ncgn_jax.run.optimizer import GIVEN
from ncgn_jax.run.preemption import Preemption
from ncgn_jax.tasks.trained import TrainedModel

# Folder of a run with the data that were given as arrays.
_DATA = "data"


def train(
    domain: str,
    data: Any,
    workdir: str | Path,
    *,
    steps: int | None = None,
    config: str | Path | ConfigDict | None = None,
    fields: Mapping[str, Any] | None = None,
    network: str | Callable[..., nn.Module] | None = None,
    optimizer: str | optax.GradientTransformation | Callable[..., Any] | None = None,
    callbacks: Sequence[Callback] = (),
    accept: Sequence[str] = (),
) -> TrainedModel:
    """Trains a model, or goes on with the training of a run.

    The run is that of `ncgn train`: it resumes, refuses other data and settings in its
    place, and all commands take it. Data that come as arrays are written into its
    folder, so that it stays whole.

    Args:
      domain: `point_clouds`, `expression`, `molecules`, `images`, or one of a plug-in.
      data: Path of a file or folder; or arrays, as described in the domain's
        `own_data.py`: clouds [cloud, point, 3]; an AnnData object; a list of SMILES;
        images [image, height, width]; or a mapping with labels or properties too; or
        None for what the configuration names.
      workdir: Folder of the run.
      steps: Training steps in all, `train.num_steps`.
      config: Configuration to start from, by name, file or itself; None for the
        domain's usual one: modelnet, tissue, molecules or digits.
      fields: Fields that differ from it, by dotted name.
      network: `model.network`: its name, or what makes it (`plugins.network`), which
        must be registered under its `__name__` wherever the run is loaded again.
      optimizer: `train.optimizer`: its name, what makes it (`plugins.optimizer`), or an
        optax transformation, which is then not told the learning rate.
      callbacks: Called with the number of each finished step and its metrics.
      accept: Fields, and `data`, that may differ from those of the run.

    Returns:
      The model with averaged weights, as `ncgn_jax.load` gives it.

    Raises:
      RequestError: If an argument is not possible.
      ConfigError: If the configuration is faulty, or not that of the run.
      DataError: If the data are faulty, or not those of the run.
    """
    import_plugins()
    check_domain(domain)
    config = DOMAINS[domain].usual_config if config is None else config
    if isinstance(config, ConfigDict):
        start = config
    else:
        start = load_config(config) if config else default_config(domain)
    if start.task != domain:
        raise RequestError(
            f"config: found one of {start.task}; allowed: one of {domain}"
        )
    asked = dict(fields or {})
    if steps is not None:
        asked["train.num_steps"] = steps
    if network is not None:
        asked["model.network"] = _named("network", network, domain)
    if optimizer is not None:
        asked["train.optimizer"] = _named("optimizer", optimizer)
    parallel.keep_host_memory()
    parallel.check_devices()
    check_writable(workdir)
    with _stored(domain, data, Path(workdir)) as of_data:
        whole = with_fields(start, {**of_data, **asked})
        validate(whole)
        check_names(accept, whole)
        task = make_task(whole)
        if parallel.is_main_process():
            print("\n".join([*task.about_data, *task.describe_model()]), flush=True)
        with Preemption() as preemption:
            run_loop(whole, workdir, task, preemption, accept, callbacks)
    return load(workdir)


def _named(kind: registry.Kind, given: Any, domain: str = "") -> str:
    """Returns the name of a network or an optimiser; registers what has none yet."""
    if isinstance(given, str):
        return given
    if isinstance(given, optax.GradientTransformation):
        registry.register(kind, GIVEN, lambda rate, decay: given)
        return GIVEN
    name = getattr(given, "__name__", "")
    if not callable(given) or not name.isidentifier():
        raise RequestError(
            f"{kind}: found {given!r}; allowed: a name, or a function that makes one"
        )
    registry.register(kind, name, given, domain)
    return name


@contextmanager
def _stored(domain: str, data: Any, workdir: Path) -> Iterator[dict[str, Any]]:
    """Yields the fields that load the data, written into the run if they are arrays.

    What was written is removed again if the run does not come to use it.
    """
    if data is None:
        yield {}
        return
    if isinstance(data, str | Path):
        found = DOMAINS[domain].recognise(Path(data)) if Path(data).exists() else None
        yield {"data.path": str(data), **(found or {})}
        return
    folder, was_there = workdir / _DATA, workdir.exists()
    new = folder / "new"
    new.mkdir(parents=True, exist_ok=True)
    try:
        written, fields = DOMAINS[domain].write_data(data, new / "given")
        content = hashlib.sha256(written.read_bytes()).hexdigest()[:8]
        kept = folder / f"arrays-{content}{written.suffix}"
        is_new = not kept.exists()
        written.replace(kept)
        try:
            yield {**fields, "data.path": str(kept)}
        except BaseException:
            if is_new and not (workdir / "config.json").exists():
                kept.unlink()
            raise
    finally:
        shutil.rmtree(new, ignore_errors=True)
        if not was_there and not (workdir / "config.json").exists():
            shutil.rmtree(workdir, ignore_errors=True)
