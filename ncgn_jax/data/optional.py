"""Imports packages that only some kinds of files need."""

import importlib
from types import ModuleType

from ncgn_jax.faults import DataError


def import_optional(name: str, extra: str, needed_by: object) -> ModuleType:
    """Imports a package that an extra installs.

    Args:
      name: Name of the module, such as `pyarrow.parquet`.
      extra: Extra of this package that brings it.
      needed_by: File that needs it, for the message.

    Raises:
      DataError: If it does not import; the message says what to install.

    Example:
      >>> import_optional("json", "json", "a.json").loads("[1]")
      [1]
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        package = name.partition(".")[0]
        raise DataError(
            f"{needed_by}: needs {package}, which does not import ({error}); "
            f"`pip install 'ncgn_jax[{extra}]'`"
        ) from error
