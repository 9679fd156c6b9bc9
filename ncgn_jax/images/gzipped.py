"""Unpacks .gz files that lie in folders and archives, within bounds."""

import gzip
import io

from ncgn_jax.data.archives import MAX_MEMBER_BYTES, SPOILT, read_bounded
from ncgn_jax.faults import DataError


def gunzip(content: bytes, where: str, max_bytes: int = MAX_MEMBER_BYTES) -> bytes:
    """Unpacks the content of a .gz file.

    Raises:
      DataError: If it is damaged, or larger than `max_bytes` unpacked.
    """
    try:
        with gzip.open(io.BytesIO(content)) as file:
            return read_bounded(file, where, max_bytes)
    except SPOILT as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{where}: not readable as .gz ({error})") from error
