"""Converts published NCGN weights into ours and checks that both compute the same.

    python -m ncgn_jax.convert --check tests/fixtures/ncgn_gat_points.npz
    python -m ncgn_jax.convert CHECKPOINT.pt OUT.npz

The first command loads weights and inputs from a parity file (`param/...`,
`graph/...`, `output`), runs our network in inference mode and prints the largest
absolute difference. Its exit status is 1 if that exceeds `--tolerance`. The second
command reads a PyTorch state dict (`weights_only=True`; PyTorch is an optional extra)
and writes our parameters as an `.npz` with keys `params/...` and `batch_stats/...`.

Published message weights are folded (see `models.ncgn`). With the first matrix of
lin_combine split as [C_x, C_p, C_e], the point kernel is C_x lin_x[sender half], and
so on; biases add up.
"""

import argparse
import os
import re
import sys
from collections.abc import Mapping
from typing import Any

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np

from ncgn_jax.data.array_files import read_npz, write_npz
from ncgn_jax.faults import DataError, one_line_errors
from ncgn_jax.graphs import MultiscaleGraph
from ncgn_jax.graphs.message_passing import GraphsTuple
from ncgn_jax.models.ncgn import NCGN
from ncgn_jax.processes import check_device_is_there

# Arrays of one layer or one network, nested by name.
Tree = dict[str, Any]


def convert_state_dict(weights: Mapping[str, np.ndarray]) -> tuple[Tree, Tree]:
    """Converts a published NCGN state dict.

    Args:
      weights: Arrays by PyTorch name, as in `model.state_dict()`.

    Returns:
      Keyword arguments for `NCGN`, and its variables (`params`, `batch_stats`).

    Raises:
      DataError: If keys are missing or unknown, with their names.
    """
    state = _Reader({_clean(name): np.asarray(v) for name, v in weights.items()})
    width = state.take("gate_proj.bias").shape[0]
    num_layers = state.count(r"model\.convs\.(\d+)\.bias")
    attention = "model.convs.0.att_src" in state
    params: Tree = {}
    stats: Tree = {}
    stacks = {
        "point_embed": ("og_proj", 3),
        "supernode_embed": ("cg_proj", 3),
        "readout": ("out", 3),
    }
    stacks |= {f"update_{i}": (f"og_lin.{i}", 2) for i in range(num_layers)}
    for ours, (theirs, depth) in stacks.items():
        params[ours], stats[ours] = _convert_mlp(state, theirs, depth)
    params["gate"] = _convert_linear(state, "gate_proj")
    for i in range(num_layers):
        for ours, theirs, receiver_is_point in (
            (f"coarsen_{i}", f"coarsening_ops.{i}", False),
            (f"spread_{i}", f"spread_ops.{i}", True),
        ):
            params[ours], stats[ours] = _convert_message(
                state, theirs, receiver_is_point
            )
        params[f"convolve_{i}"] = _convert_convolution(
            state, f"model.convs.{i}", attention
        )
        if i + 1 < num_layers:
            params[f"norm_{i}"], stats[f"norm_{i}"] = _convert_norm(
                state, f"model.norms.{i}"
            )
    # The forward pass does not use these.
    state.ignore(rf"og_lin\.{num_layers}\..*")
    state.ignore(r".*num_batches_tracked")
    state.refuse_leftovers()
    settings = {
        "out_dim": params["readout"]["dense_2"]["bias"].shape[0],
        "width": width,
        "num_layers": num_layers,
        "convolution": "gat" if attention else "gcn",
        "norm": "batch",
    }
    return settings, {"params": params, "batch_stats": stats}


def parity_graph(
    file: Mapping[str, np.ndarray],
) -> tuple[jax.Array, jax.Array, MultiscaleGraph]:
    """Reads features, level of each graph and ragged graph from a parity file."""
    file = {key.removeprefix("graph/"): file[key] for key in file if "graph/" in key}
    to_coarse = file["og_to_cg_edge_index"]
    assignment = np.zeros(file["pos_og"].shape[0], np.int32)
    assignment[to_coarse[0]] = to_coarse[1]
    num_graphs = file["t"].shape[0]
    own = jnp.arange(assignment.shape[0])
    senders, receivers = file["edge_index_cg"]
    graph_of_edge = file["x_cg_batch"][receivers]
    graph = MultiscaleGraph(
        positions=jnp.asarray(file["pos_og"]),
        supernode_positions=jnp.asarray(file["pos_cg"]),
        order=own,
        inverse_order=own,
        assignment=jnp.asarray(assignment),
        point_graph=jnp.asarray(file["x_og_batch"]),
        coarse=GraphsTuple(
            nodes={"mask": jnp.ones((file["pos_cg"].shape[0],), bool)},
            edges={"mask": jnp.ones(senders.shape, bool)},
            senders=jnp.asarray(senders),
            receivers=jnp.asarray(receivers),
            n_node=jnp.asarray(np.bincount(file["x_cg_batch"], minlength=num_graphs)),
            n_edge=jnp.asarray(np.bincount(graph_of_edge, minlength=num_graphs)),
            globals=None,
        ),
    )
    return jnp.asarray(file["x_og"][:, :-1]), jnp.asarray(file["t"]), graph


def check_parity(path: str | os.PathLike[str]) -> float:
    """Computes the largest absolute difference between our output and a parity file's.

    Runs in float64 if `jax_enable_x64` is on, else in float32.

    Raises:
      DataError: If the file cannot be read, or is not a parity file of an NCGN.
    """
    file = read_npz(path)
    missing = [key for key in ("output", "graph/x_og", "graph/t") if key not in file]
    if missing:
        raise DataError(f"{path}: not a parity file, lacks {', '.join(missing)}")
    dtype = jax.dtypes.canonicalize_dtype(float)
    file = {
        key: value.astype(dtype) if value.dtype.kind == "f" else value
        for key, value in file.items()
    }
    weights = {
        key.removeprefix("param/"): value.astype(np.float64)
        for key, value in file.items()
        if key.startswith("param/")
    }
    settings, variables = convert_state_dict(weights)
    variables = jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), variables)
    features, level, graph = parity_graph(file)
    network = NCGN(**settings)
    with jax.default_matmul_precision("highest"):
        output = jax.jit(network.apply)(variables, features, level, graph)
    return float(np.max(np.abs(np.asarray(output) - file["output"])))


def convert_checkpoint(
    checkpoint: str | os.PathLike[str], out: str | os.PathLike[str]
) -> int:
    """Converts a published PyTorch checkpoint into an `.npz`; counts its parameters.

    Args:
      checkpoint: File with a state dict, or with a dict that holds one under
        `state_dict`, `model`, `model_state_dict` or `ema`.
      out: Path of the `.npz`.

    Returns:
      Number of parameters.

    Raises:
      DataError: If PyTorch is not installed, the file cannot be read or holds no NCGN,
        or the result cannot be written.
    """
    try:
        import torch
    except ImportError as error:
        raise DataError(
            "reading a .pt file needs PyTorch: install the extra with "
            "`pip install 'ncgn_jax[torch]'`"
        ) from error
    try:
        loaded = torch.load(checkpoint, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise DataError(f"{checkpoint}: no such file") from None
    except Exception as error:  # PyTorch's reader raises anything on a spoilt file
        raise DataError(
            f"{checkpoint}: not a PyTorch weights file "
            f"({type(error).__name__}: {error})"
        ) from error
    for key in ("state_dict", "model_state_dict", "model", "ema"):
        if isinstance(loaded, Mapping) and isinstance(loaded.get(key), Mapping):
            loaded = loaded[key]
            break
    if not isinstance(loaded, Mapping):
        raise DataError(
            f"{checkpoint}: holds {type(loaded).__name__}, expected a state dict"
        )
    tensors = {
        name: value.double().numpy()
        for name, value in loaded.items()
        if isinstance(value, torch.Tensor)
    }
    settings, variables = convert_state_dict(tensors)
    flat = flax.traverse_util.flatten_dict(variables, sep="/")
    flat = {key: np.asarray(value, np.float32) for key, value in flat.items()}
    meta = {f"settings/{key}": np.asarray(value) for key, value in settings.items()}
    try:
        write_npz(out, flat | meta)
    except OSError as error:
        raise DataError(f"{out}: cannot be written ({error})") from error
    return sum(value.size for key, value in flat.items() if key.startswith("params/"))


def load_converted(path: str | os.PathLike[str]) -> tuple[NCGN, Tree]:
    """Reads a file written by `convert_checkpoint`.

    Returns:
      The network and its variables.

    Raises:
      DataError: If the file cannot be read or was not written by it.
    """
    flat = read_npz(path)
    settings = {
        key.removeprefix("settings/"): value.item()
        for key, value in flat.items()
        if key.startswith("settings/")
    }
    if not settings:
        raise DataError(f"{path}: not a converted checkpoint, lacks settings/")
    variables = flax.traverse_util.unflatten_dict(
        {k: v for k, v in flat.items() if not k.startswith("settings/")}, sep="/"
    )
    return NCGN(**settings), variables


def _clean(name: str) -> str:
    """Removes the prefixes that wrappers (DataParallel, EMA) put before a name."""
    return re.sub(r"^(module\.|ema_model\.|net\.)+", "", name)


class _Reader:
    """A state dict that records which weights were read."""

    def __init__(self, state: Mapping[str, np.ndarray]) -> None:
        self._state = state
        self._unread = set(state)

    def __contains__(self, name: str) -> bool:
        return name in self._state

    def take(self, name: str) -> np.ndarray:
        """Reads a weight; DataError if it is missing."""
        if name not in self._state:
            raise DataError(f"the checkpoint is not an NCGN: it lacks {name!r}")
        self._unread.discard(name)
        return self._state[name]

    def count(self, pattern: str) -> int:
        """Returns one more than the largest number that the pattern finds in a name."""
        found = [m for name in self._state if (m := re.fullmatch(pattern, name))]
        return max((int(m.group(1)) + 1 for m in found), default=0)

    def ignore(self, pattern: str) -> None:
        """Counts all weights of matching names as read."""
        self._unread -= {n for n in self._unread if re.fullmatch(pattern, n)}

    def refuse_leftovers(self) -> None:
        """Raises DataError if there are weights that were not read."""
        if self._unread:
            names = sorted(self._unread)
            raise DataError(
                f"the checkpoint is not an NCGN: {len(names)} unknown weights, "
                f"first {', '.join(names[:5])}"
            )


def _convert_linear(state: _Reader, name: str) -> Tree:
    return {
        "kernel": state.take(f"{name}.weight").T,
        "bias": state.take(f"{name}.bias"),
    }


def _convert_norm(state: _Reader, name: str) -> tuple[Tree, Tree]:
    module = f"{name}.module"
    params = {
        "scale": state.take(f"{module}.weight"),
        "bias": state.take(f"{module}.bias"),
    }
    stats = {
        "mean": state.take(f"{module}.running_mean"),
        "var": state.take(f"{module}.running_var"),
    }
    return {"BatchNorm_0": params}, {"BatchNorm_0": stats}


def _convert_mlp(state: _Reader, name: str, depth: int) -> tuple[Tree, Tree]:
    params: Tree = {
        f"dense_{i}": _convert_linear(state, f"{name}.lins.{i}") for i in range(depth)
    }
    params["norm_0"], stats = _convert_norm(state, f"{name}.norms.0")
    # These are the same layer under other names.
    state.ignore(rf"{re.escape(name)}\.norms\.\d+\..*")
    return params, {"norm_0": stats}


def _convert_message(
    state: _Reader, name: str, receiver_is_point: bool
) -> tuple[Tree, Tree]:
    width = state.take(f"{name}.lin_x.bias").shape[0]
    combine = state.take(f"{name}.lin_combine.lins.0.weight")
    by_x, by_offset, by_edge = np.split(combine, 3, axis=1)
    lin_x = by_x @ state.take(f"{name}.lin_x.weight")
    receiver, sender = lin_x[:, :width], lin_x[:, width:]
    point, supernode = (receiver, sender) if receiver_is_point else (sender, receiver)
    geometry = np.concatenate(
        [
            by_offset @ state.take(f"{name}.lin_pos.weight"),
            by_edge @ state.take(f"{name}.lin_edge.weight"),
        ],
        axis=1,
    )
    bias = (
        state.take(f"{name}.lin_combine.lins.0.bias")
        + by_x @ state.take(f"{name}.lin_x.bias")
        + by_offset @ state.take(f"{name}.lin_pos.bias")
        + by_edge @ state.take(f"{name}.lin_edge.bias")
    )
    norms = [_convert_norm(state, f"{name}.lin_combine.norms.{i}") for i in range(2)]
    params = {
        "point": {"kernel": point.T, "bias": bias},
        "supernode": {"kernel": supernode.T},
        "geometry": {"kernel": geometry.T},
        "dense_1": _convert_linear(state, f"{name}.lin_combine.lins.1"),
        "norm_0": norms[0][0],
        "norm_1": norms[1][0],
    }
    return params, {"norm_0": norms[0][1], "norm_1": norms[1][1]}


def _convert_convolution(state: _Reader, name: str, attention: bool) -> Tree:
    params: Tree = {
        "linear": {"kernel": state.take(f"{name}.lin.weight").T},
        "bias": state.take(f"{name}.bias"),
    }
    if attention:
        params["attend_source"] = state.take(f"{name}.att_src").reshape(-1, 1)
        params["attend_target"] = state.take(f"{name}.att_dst").reshape(-1, 1)
    return params


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m ncgn_jax.convert",
        description="Converts published NCGN weights, or checks that both agree.",
    )
    parser.add_argument("files", nargs="*", metavar="CHECKPOINT.pt OUT.npz")
    parser.add_argument("--check", metavar="FIXTURE.npz")
    parser.add_argument("--x64", action="store_true", help="check in float64")
    parser.add_argument("--tolerance", type=float, help="default 1e-5, 1e-9 with --x64")
    options = parser.parse_args(arguments)
    if bool(options.check) == bool(options.files) or len(options.files) not in (0, 2):
        parser.error("give either --check FIXTURE.npz or CHECKPOINT.pt OUT.npz")
    with one_line_errors():
        if options.check:
            return _report_check(options)
        total = convert_checkpoint(*options.files)
    print(f"wrote {options.files[1]}: {total:,} parameters")
    return 0


def _report_check(options: argparse.Namespace) -> int:
    check_device_is_there()
    jax.config.update("jax_enable_x64", options.x64)
    tolerance = options.tolerance or (1e-9 if options.x64 else 1e-5)
    difference = check_parity(options.check)
    passed = difference <= tolerance
    print(
        f"{options.check}: largest absolute difference {difference:.3e} in "
        f"{'float64' if options.x64 else 'float32'} "
        f"({'within' if passed else 'ABOVE'} {tolerance:.0e})"
    )
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
