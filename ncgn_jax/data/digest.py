"""Tells data sets and weights apart by their content.

Example:
  >>> import numpy as np
  >>> digest({"x": np.ones(3)}) == digest({"x": np.ones((3, 1))})
  False
"""

import dataclasses
import hashlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

# Fields of data sets that are texts about them, or follow from the rest by way of
# another program.
_NOT_CONTENT = frozenset(("name", "source", "report", "smiles", "depictions"))
# Rows of data that stay on disk are looked at here and there.
_NUM_LOOKED_AT = 256

# Metadata of a field of a dataclass that a later version added. It counts where it is
# set, so that digests and stored facts of earlier versions stay equal to today's.
ADDED_LATER = {"added_later": True}


def counts(field: dataclasses.Field, value: object) -> bool:
    """Tells whether a field counts: always, or if it was added later, where it is set.

    Args:
      field: A field of a dataclass.
      value: Its value.
    """
    return "added_later" not in field.metadata or value != field.default


def digest(content: Any) -> str:
    """Returns 16 letters that change with any array, number or name in a data set.

    Names and origins of a whole data set do not count. Of rows that are no numpy
    array, such as shards on disk, shape and type count, and some of the rows.

    Args:
      content: A dataclass, mapping, sequence, array, string or number.
    """
    state = hashlib.sha256()
    for piece in _pieces(content):
        state.update(piece)
    return state.hexdigest()[:16]


def _pieces(content: Any) -> Iterator[bytes | memoryview]:
    """Yields the bytes of all that a data set consists of, in order."""
    if isinstance(content, np.ndarray):
        yield f"{content.dtype.str} {content.shape} ".encode()
        yield np.ascontiguousarray(content).reshape(-1).view(np.uint8).data
    elif dataclasses.is_dataclass(content):
        fields = {field.name: field for field in dataclasses.fields(content)}
        values = {n: getattr(content, n) for n in fields.keys() - _NOT_CONTENT}
        yield from _pieces({n: v for n, v in values.items() if counts(fields[n], v)})
    elif isinstance(content, Mapping):
        for name in sorted(content):
            yield f"{name} ".encode()
            yield from _pieces(content[name])
    elif isinstance(content, tuple | list):
        yield f"{len(content)} of ".encode()
        for item in content:
            yield from _pieces(item)
    elif hasattr(content, "shape"):
        rows = np.unique(np.linspace(0, len(content) - 1, _NUM_LOOKED_AT).astype(int))
        yield f"{content.dtype} {content.shape} ".encode()
        yield from _pieces(np.asarray(content[rows]))
    else:
        yield f"{content!r} ".encode()
