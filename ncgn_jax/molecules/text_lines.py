r"""Reads the lines of text files as they come: any line ends, any encoding, compressed.

Example:
  >>> import io
  >>> stream = io.BytesIO(b"\xef\xbb\xbfCC a\rCCO b\xe9\r\n")
  >>> lines = TextLines(stream, "mine.smi")
  >>> list(lines), lines.notes
  ([(1, 'CC a'), (2, 'CCO bé')], ['mine.smi: not UTF-8 but Latin-1 (from line 2)'])
"""

import gzip
import io
from collections.abc import Iterator
from typing import BinaryIO, cast

from ncgn_jax.data.archives import SPOILT
from ncgn_jax.data.stand_ins import refuse_stand_in
from ncgn_jax.faults import DataError

MAX_LINE = 2**24  # characters; tables of QM9 hold whole geometries in a field
MAX_UNPACKED = 2**34  # characters of a compressed file
_BOM = "\xef\xbb\xbf"
_LOOKED_AT = 4096
_GZIP = b"\x1f\x8b"


class TextLines:
    """Iterates over the lines of a stream, with their numbers from 1.

    Lines end with LF, CR or both. They are UTF-8, UTF-16 with its byte order mark, or
    else Latin-1, which any bytes are; SMILES are ASCII, so that only names suffer.

    Attributes:
      notes: What was decided so far, a sentence each.
    """

    def __init__(self, stream: BinaryIO, where: str):
        """Prepares to read a stream.

        Args:
          stream: Bytes; gzip is recognised by its first two.
          where: Name for messages.
        """
        self.where = where
        self.notes: list[str] = []
        self._stream = _peekable(stream)

    def __iter__(self) -> Iterator[tuple[int, str]]:
        """Yields number and text of each line.

        Raises:
          DataError: If the stream is damaged, no text, or unpacks to too much.
        """
        try:
            yield from self._lines()
        except SPOILT as error:
            if isinstance(error, DataError):
                raise
            raise DataError(f"{self.where}: not readable ({error})") from error

    def _lines(self) -> Iterator[tuple[int, str]]:
        stream = self._stream
        packed = self._stream.peek(2)[:2] == _GZIP
        if packed:
            stream = _peekable(gzip.GzipFile(fileobj=stream))
        start = stream.peek(_LOOKED_AT)[:_LOOKED_AT]
        wide = start[:2] in (b"\xff\xfe", b"\xfe\xff")
        if b"\0" in start and not wide:
            raise DataError(f"{self.where}: not a text (zero bytes in it)")
        # Latin-1 keeps every byte, so that each line can be decoded by itself.
        file = io.TextIOWrapper(stream, "utf-16" if wide else "latin-1", newline=None)
        total = number = 0
        while text := file.readline(MAX_LINE + 1):
            number, total = number + 1, total + len(text)
            if len(text) > MAX_LINE or (packed and total > MAX_UNPACKED):
                limit = MAX_LINE if len(text) > MAX_LINE else MAX_UNPACKED
                what = "a line" if len(text) > MAX_LINE else "a compressed file"
                raise DataError(
                    f"{self.where}, line {number}: {what} of more than {limit:,} "
                    "characters; allowed: so many"
                )
            if number == 1:
                text = text.removeprefix(_BOM).removeprefix("\ufeff")
                refuse_stand_in(text, self.where)
            if not wide and not text.isascii():
                text = self._decode(text, number)
            yield number, text.removesuffix("\n")

    def _decode(self, text: str, number: int) -> str:
        try:
            return text.encode("latin-1").decode("utf-8")
        except UnicodeDecodeError:
            if not self.notes:
                self.notes.append(
                    f"{self.where}: not UTF-8 but Latin-1 (from line {number})"
                )
            return text


def _peekable(stream: BinaryIO | gzip.GzipFile) -> io.BufferedReader:
    """Returns the stream in a form that can be looked into."""
    if isinstance(stream, io.BufferedReader):
        return stream
    return io.BufferedReader(cast(io.RawIOBase, stream))
