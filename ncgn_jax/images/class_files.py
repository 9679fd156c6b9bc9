"""Reads the classes of pictures from small files beside them, as WebDataset has them.

    000000.jpg  000000.cls
    000001.jpg  000001.cls

A picture and its class share their name up to the first dot. A `.cls` file holds the
number or the name of a class.
"""

from collections.abc import Iterable, Sequence
from pathlib import PurePosixPath

from ncgn_jax.data.file_trees import TreeFile
from ncgn_jax.faults import DataError

_ENDING = ".cls"
_MAX_BYTES = 1000


def is_class_file(name: str | PurePosixPath) -> bool:
    """Tells whether a name ends like that of a file of a class."""
    return PurePosixPath(name).suffix.lower() == _ENDING


def read_class_files(
    origin: str, pictures: Sequence[str], files: Iterable[TreeFile]
) -> list[str]:
    """Reads the class of each picture.

    Args:
      origin: Folder or archive, for messages.
      pictures: Names of the pictures.
      files: Files of classes, and any others.

    Returns:
      The classes in the order of the pictures.

    Raises:
      DataError: If a picture has no class, or a file holds none.
    """
    own = [file for file in files if is_class_file(file.name)]
    # Those of a compressed archive are read fast in this order alone.
    own.sort(key=lambda file: file.place)
    classes = {_key(file.name): _read_class(file) for file in own}
    without = [name for name in pictures if _key(name) not in classes]
    if without:
        raise DataError(
            f"{origin}: {len(without):,} of {len(pictures):,} pictures have no "
            f"{_ENDING} file, {without[0]} among them; allowed: one for each, or none"
        )
    return [classes[_key(name)] for name in pictures]


def _key(name: str) -> str:
    folder, slash, last = name.rpartition("/")
    return f"{folder}{slash}{last.partition('.')[0]}"


def _read_class(file: TreeFile) -> str:
    content = file.read()
    try:
        name = content.decode().strip()
    except UnicodeDecodeError as error:
        raise DataError(f"{file.where}: not UTF-8 ({error})") from error
    if not name or "\n" in name or len(content) > _MAX_BYTES:
        raise DataError(
            f"{file.where}: found {name[:40]!r}; allowed: the number or the name of a "
            "class"
        )
    return name
