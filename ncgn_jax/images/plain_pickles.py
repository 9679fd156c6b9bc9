"""Reads dictionaries of arrays, lists, texts and numbers out of pickles, and no more.

Unpickling runs whatever a file asks for. So nothing is unpickled here: the operations
of the file are listed by `pickletools`, which runs none, and those that build plain
values are followed. Arrays of bytes, the one object that CIFAR's files hold, are made
from their stored bytes; any other object is refused by its name.

Example:
  >>> import pickle
  >>> read_pickle(pickle.dumps({"data": b"12", "labels": [3, 1]}), "a")
  {'data': b'12', 'labels': [3, 1]}
  >>> read_pickle(pickle.dumps(print), "b")
  Traceback (most recent call last):
  ...
  ncgn_jax.faults.DataError: b: holds builtins.print; allowed: arrays of bytes, lists, \
texts and numbers; nothing else is read out of a pickle
"""

import math
import pickletools
from typing import Any

import numpy as np

from ncgn_jax.faults import DataError

_ALLOWED = (
    "arrays of bytes, lists, texts and numbers; nothing else is read out of a pickle"
)
# Names of what builds an array of numpy, old and new, and bytes of Python 2.
_RECONSTRUCT = frozenset(
    f"{module}.multiarray._reconstruct" for module in ("numpy.core", "numpy._core")
)
# No bytes at all, as Python 3 writes them for Python 2.
_NO_BYTES = frozenset(("__builtin__.bytes", "builtins.bytes"))
_KNOWN = _RECONSTRUCT | _NO_BYTES | {"numpy.ndarray", "numpy.dtype", "_codecs.encode"}
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_EMPTY = {"EMPTY_LIST": list, "EMPTY_DICT": dict, "EMPTY_TUPLE": tuple}
_VALUES = frozenset(
    (
        "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT",
        "BINFLOAT", "STRING", "BINSTRING", "SHORT_BINSTRING", "BINBYTES",
        "SHORT_BINBYTES", "BINBYTES8", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE",
        "BINUNICODE8",
    )
)  # fmt: skip
_MARK = object()


class _Named(str):
    """The name of a known class or function."""


class _Object:
    """An array, or a type of numbers, before it is built."""

    def __init__(self, name: str, arguments: tuple):
        self.name, self.arguments = name, arguments
        self.state: Any = None


def read_pickle(content: bytes, where: str) -> dict[str, Any]:
    """Reads a dictionary of plain values out of a pickle, of Python 2 or 3.

    Args:
      content: The pickle. Strings of Python 2 become texts, letter by letter.
      where: The file, for messages.

    Returns:
      Values by texts. Lists may hold anything plain: whoever uses one checks its items.

    Raises:
      DataError: If it holds anything else, or is damaged.
    """
    try:
        stored = _follow(content, where)
        if not isinstance(stored, dict):
            found = stored if isinstance(stored, _Named) else type(stored).__name__
            raise DataError(f"{where}: holds {found}; allowed: a dictionary")
        return {
            key.decode("utf-8", "replace") if isinstance(key, bytes) else str(key): (
                _array(value, where) if isinstance(value, _Object) else value
            )
            for key, value in stored.items()
        }
    except DataError:
        raise
    except Exception as error:  # spoilt pickles make `pickletools` raise anything
        raise DataError(
            f"{where}: not a readable pickle ({type(error).__name__}: {error})"
        ) from error


def _follow(content: bytes, where: str) -> Any:
    stack: list[Any] = []
    memo: dict[int, Any] = {}
    for operation, argument, _ in pickletools.genops(content):
        name = operation.name
        if name in ("PROTO", "FRAME"):
            continue
        if name == "STOP":
            return stack.pop()
        if name in _CONSTANTS:
            stack.append(_CONSTANTS[name])
        elif name in _EMPTY:
            stack.append(_EMPTY[name]())
        elif name in _VALUES:
            stack.append(argument)
        elif name == "MARK":
            stack.append(_MARK)
        elif name in ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"):
            memo[len(memo) if argument is None else int(argument)] = stack[-1]
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            stack.append(memo[int(argument or 0)])
        else:
            _build(name, argument, stack, where)
    raise DataError(f"{where}: a pickle without an end")


def _build(name: str, argument: Any, stack: list[Any], where: str) -> None:
    """Follows an operation that takes values from the stack."""
    if name in ("GLOBAL", "STACK_GLOBAL"):
        if name == "STACK_GLOBAL":
            attribute, module = stack.pop(), stack.pop()
            called = f"{module}.{attribute}"
        else:
            called = str(argument).replace(" ", ".")
        if called not in _KNOWN:
            raise DataError(f"{where}: holds {called}; allowed: {_ALLOWED}")
        stack.append(_Named(called))
    elif name == "REDUCE":
        arguments, called = stack.pop(), stack.pop()
        if not isinstance(called, _Named) or not isinstance(arguments, tuple):
            raise DataError(f"{where}: calls {called!r}; allowed: {_ALLOWED}")
        stack.append(_reduce(called, arguments))
    elif name == "BUILD":
        state, built = stack.pop(), stack[-1]
        if not isinstance(built, _Object):
            raise DataError(f"{where}: changes {type(built)}; allowed: {_ALLOWED}")
        built.state = state
    elif name in ("TUPLE1", "TUPLE2", "TUPLE3"):
        count = int(name[-1])
        if len(stack) < count:
            raise DataError(f"{where}: a pickle of values that are not there")
        stack[-count:] = [tuple(stack[-count:])]
    elif name in ("TUPLE", "LIST", "DICT"):
        values = _since_mark(stack)
        made: dict[str, Any] = {"TUPLE": tuple, "LIST": list, "DICT": _pairs}
        stack.append(made[name](values))
    elif name == "APPEND":
        value = stack.pop()
        list.append(stack[-1], value)
    elif name == "APPENDS":
        values = _since_mark(stack)
        list.extend(stack[-1], values)
    elif name == "SETITEM":
        value, key = stack.pop(), stack.pop()
        dict.update(stack[-1], {key: value})
    elif name == "SETITEMS":
        values = _since_mark(stack)
        dict.update(stack[-1], _pairs(values))
    else:
        raise DataError(f"{where}: operation {name}; allowed: {_ALLOWED}")


def _reduce(called: str, arguments: tuple) -> Any:
    if called == "_codecs.encode" and len(arguments) == 2:
        text, encoding = arguments
        if isinstance(text, str) and encoding == "latin1":
            return text.encode("latin-1")
    if called in _NO_BYTES and not arguments:
        return b""
    return _Object(called, arguments)


def _since_mark(stack: list[Any]) -> list[Any]:
    values = []
    while (value := stack.pop()) is not _MARK:
        values.append(value)
    return values[::-1]


def _pairs(values: list[Any]) -> dict[Any, Any]:
    return dict(zip(values[::2], values[1::2], strict=True))


def _array(built: _Object, where: str) -> np.ndarray:
    """Makes an array of bytes of its state: version, shape, type, order, bytes."""
    state = built.state
    if built.name in _RECONSTRUCT and isinstance(state, tuple) and len(state) == 5:
        _, shape, kind, by_column, raw = state
        of_bytes = isinstance(kind, _Object) and kind.name == "numpy.dtype"
        raw = raw.encode("latin-1") if isinstance(raw, str) else raw
        sides = isinstance(shape, tuple) and all(
            type(n) is int and n >= 0 for n in shape
        )
        if (
            of_bytes
            and kind.arguments[:1] == ("u1",)
            and sides
            and isinstance(raw, bytes)
            and math.prod(shape) == len(raw)
        ):
            flat = np.frombuffer(raw, np.uint8)
            return flat.reshape(shape[::-1]).T if by_column else flat.reshape(shape)
    raise DataError(f"{where}: holds {built.name} of another kind; allowed: {_ALLOWED}")
