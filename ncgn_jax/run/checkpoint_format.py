"""Turns a tree of arrays into one buffer with a manifest, and back.

Example:
  >>> import numpy as np
  >>> from ncgn_jax.run.checkpoint_format import pack, unpack
  >>> manifest, buffer = pack({"w": np.ones((2, 3), np.float32)})
  >>> manifest[0]["path"], manifest[0]["shape"], buffer.nbytes
  ('w', [2, 3], 25)
  >>> unpack(manifest, buffer, {"w": np.zeros((2, 3), np.float32)})["w"].sum().item()
  6.0
"""

import json
import zlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import KeyPath

Tree = Any
Manifest = list[dict[str, Any]]


def pack(tree: Tree) -> tuple[Manifest, np.ndarray]:
    """Copies all leaves into one buffer of bytes.

    Args:
      tree: Tree of arrays of any dtype, random keys included.

    Returns:
      The manifest, which has for each leaf, in order, its path, shape and dtype, those
      of the stored array (`stored_shape`, `stored_dtype`, which differ for random
      keys) and the CRC-32 of its bytes; and the buffer, uint8 `[bytes]`, which shares
      no memory with the tree.
    """
    manifest: Manifest = []
    arrays: list[np.ndarray] = []
    flat, _ = jax.tree.flatten_with_path(tree)
    stored = [jax.random.key_data(x) if _is_key(x) else x for _, x in flat]
    for (path, leaf), array in zip(flat, jax.device_get(stored), strict=True):
        array = np.asarray(array)
        arrays.append(np.ascontiguousarray(array).reshape(-1).view(np.uint8))
        shape, dtype = _describe(leaf)
        manifest.append(
            {
                "path": _name(path),
                "shape": list(shape),
                "dtype": dtype,
                "stored_shape": list(array.shape),
                "stored_dtype": array.dtype.name,
                "key": str(jax.random.key_impl(leaf)) if _is_key(leaf) else None,
                "crc32": zlib.crc32(arrays[-1].data),
            }
        )
    # One byte more, because Orbax refuses an empty array.
    return manifest, np.concatenate([*arrays, np.zeros(1, np.uint8)])


def read_arrays(manifest: Manifest, buffer: np.ndarray) -> dict[str, np.ndarray]:
    """Returns the stored arrays by path.

    Raises:
      ValueError: If the buffer is too short or the bytes of an array have changed.
    """
    arrays: dict[str, np.ndarray] = {}
    start = 0
    for entry in manifest:
        shape, dtype = entry["stored_shape"], jnp.dtype(entry["stored_dtype"])
        stop = start + int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        piece = buffer[start:stop]
        if piece.nbytes != stop - start or zlib.crc32(piece.data) != entry["crc32"]:
            raise ValueError(f"the bytes of {entry['path']} are damaged")
        arrays[entry["path"]] = piece.view(dtype).reshape(shape)
        start = stop
    return arrays


def unpack(manifest: Manifest, buffer: np.ndarray, abstract_tree: Tree) -> Tree:
    """Puts the stored arrays into the structure of `abstract_tree`.

    Raises:
      ValueError: If the buffer is damaged.
      KeyError: If a leaf is not stored; see `tree_differences`.
    """
    arrays = read_arrays(manifest, buffer)
    keys = {entry["path"]: entry["key"] for entry in manifest}

    def restored(path: KeyPath, _: object) -> jax.Array:
        name = _name(path)
        # A copy: a donated array must not lie in the buffer's memory.
        array = jnp.array(arrays[name], copy=True)
        if keys[name] is None:
            return array
        return jax.random.wrap_key_data(array, impl=keys[name])

    return jax.tree.map_with_path(restored, abstract_tree)


def tree_differences(manifest: Manifest, abstract_tree: Tree) -> list[str]:
    """Lists the leaves that differ between a stored tree and an expected one.

    Args:
      manifest: Manifest of the stored tree.
      abstract_tree: Expected tree, of arrays or abstract arrays.

    Returns:
      Lines such as `params/w: stored (2, 3) float32, model needs (2, 4) float32`.
    """
    stored = {e["path"]: (tuple(e["shape"]), e["dtype"]) for e in manifest}
    flat, _ = jax.tree.flatten_with_path(abstract_tree)
    needed = {_name(path): _describe(leaf) for path, leaf in flat}
    lines = []
    for name, (shape, dtype) in needed.items():
        if name not in stored:
            lines.append(f"{name}: not stored, model needs {shape} {dtype}")
        elif stored[name] != (shape, dtype):
            old = "{} {}".format(*stored[name])
            lines.append(f"{name}: stored {old}, model needs {shape} {dtype}")
    for name in stored.keys() - needed.keys():
        old = "{} {}".format(*stored[name])
        lines.append(f"{name}: stored {old}, model has none")
    return sorted(lines)


def config_differences(stored: str, current: str) -> list[str]:
    """Lists the fields that differ between two configurations in JSON.

    Returns:
      Lines such as `model.width: stored 64, now 32`.
    """
    old, new = _fields(json.loads(stored)), _fields(json.loads(current))
    absent = "nothing"
    return [
        f"{name}: stored {old.get(name, absent)}, now {new.get(name, absent)}"
        for name in sorted(old.keys() | new.keys())
        if old.get(name, absent) != new.get(name, absent)
    ]


def _fields(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    fields: dict[str, Any] = {}
    for name, value in tree.items():
        if isinstance(value, dict):
            fields |= _fields(value, f"{prefix}{name}.")
        else:
            fields[prefix + name] = value
    return fields


def _name(path: KeyPath) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")


def _is_key(leaf: Any) -> bool:
    dtype = getattr(leaf, "dtype", None)
    return dtype is not None and jnp.issubdtype(dtype, jax.dtypes.prng_key)


def _describe(leaf: Any) -> tuple[tuple[int, ...], str]:
    """Returns shape and dtype of an array, an abstract array or a Python number."""
    if not hasattr(leaf, "dtype"):
        leaf = np.asarray(leaf)
    return tuple(leaf.shape), str(leaf.dtype)
