r"""Reports how data were read: found, used, left out and why.

Every reader counts in a `Reading` while it reads and ends with a `DataReport`, which
its data set carries. A run prints the report first and stores it.

Example:
  >>> reading = Reading("mine", "clouds")
  >>> reading.find(".npy", "chair/0.npy", count=3)
  >>> reading.leave_out("normals, by their names", "chair/0_normals.npy")
  >>> reading.say("2 of 3 classes have one cloud")
  >>> report = reading.report({"train": 2, "test": 1}, "at random, seed 0")
  >>> print("\n".join(report.lines("mine (64 points)")))
  data: mine (64 points); mine: 3 clouds, 2 train, 1 test (at random, seed 0)
    found: 3 .npy (first chair/0.npy)
    left out: 1 normals, by their names (first chair/0_normals.npy)
    NOTE: 2 of 3 classes have one cloud
"""

import dataclasses
import hashlib
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

# So many classes, each with its counts, fit on a line.
_MAX_CLASSES = 60


@dataclasses.dataclass(frozen=True)
class Tally:
    """A number of things of one kind.

    Attributes:
      kind: What they are, or why they were left out.
      count: How many.
      first: Name of the first of them, empty if they have none.
    """

    kind: str
    count: int
    first: str = ""

    def __str__(self) -> str:
        where = f" (first {self.first})" if self.first else ""
        return f"{self.count:,} {self.kind}{where}"


@dataclasses.dataclass(frozen=True)
class DataReport:
    """How a data set was read.

    Attributes:
      origin: Path of the data, or how they were made.
      unit: What is counted, in the plural: "clouds".
      splits: How many are used, by split, in order.
      split_rule: Where the split comes from.
      found: What there was, by kind.
      left_out: What is not used, by reason.
      classes: How many of each class are used, in each of the splits.
      contents: Sizes, units and preparation, a phrase each.
      num_repeated: How many of those used equal an earlier one exactly; None if nobody
        looked.
      notes: What was decided by a rule, and warnings, a sentence each.
    """

    origin: str
    unit: str
    splits: Mapping[str, int]
    split_rule: str = ""
    found: tuple[Tally, ...] = ()
    left_out: tuple[Tally, ...] = ()
    classes: Mapping[str, tuple[int, ...]] = dataclasses.field(default_factory=dict)
    contents: tuple[str, ...] = ()
    num_repeated: int | None = None
    notes: tuple[str, ...] = ()

    @property
    def summary(self) -> str:
        """Returns one line on what is used."""
        total = f"{self.origin}: {sum(self.splits.values()):,} {self.unit}"
        parts = ", ".join(f"{count:,} {name}" for name, count in self.splits.items())
        rule = f" ({self.split_rule})" if self.split_rule else ""
        return f"{total}, {parts}{rule}" if parts else total

    @property
    def brief(self) -> str:
        """Returns what a table's caption says: what is used, left out, and decided."""
        reasons = ", ".join(f"{tally.count:,} {tally.kind}" for tally in self.left_out)
        parts = [self.summary, f"left out: {reasons}" if reasons else ""]
        return "; ".join(filter(None, [*parts, self._describe_repeated(), *self.notes]))

    def lines(self, name: str) -> list[str]:
        """Returns the report, a line for each thing to know.

        Args:
          name: Name of the data set.
        """
        rows = {
            "found": _join(self.found),
            "left out": _join(self.left_out),
            "classes": self._describe_classes(),
            "contents": "; ".join(self.contents),
            "repeated": self._describe_repeated(),
        }
        return [
            f"data: {name}; {self.summary}",
            *(f"  {title}: {text}" for title, text in rows.items() if text),
            *(f"  NOTE: {note}" for note in self.notes),
        ]

    def __str__(self) -> str:
        return "\n".join(self.lines(self.origin))

    def replace_origin(self, old: str, new: str) -> "DataReport":
        """Returns the report with another name of the place, for instance of a copy."""
        return dataclasses.replace(self, origin=self.origin.replace(old, new))

    def with_notes(self, notes: Iterable[str]) -> "DataReport":
        """Returns the report with more notes."""
        return dataclasses.replace(self, notes=(*self.notes, *notes))

    def _describe_classes(self) -> str:
        shown = [
            f"{name} {' + '.join(f'{count:,}' for count in counts)}"
            for name, counts in list(self.classes.items())[:_MAX_CLASSES]
        ]
        rest = len(self.classes) - len(shown)
        more = f" and {rest} more" if rest else ""
        order = f" ({' + '.join(self.splits)})" if len(self.splits) > 1 else ""
        return f"{len(self.classes)}{order}: {', '.join(shown)}{more}" if shown else ""

    def _describe_repeated(self) -> str:
        if not self.num_repeated:
            return ""
        return f"{self.num_repeated:,} {self.unit} equal an earlier one exactly"


class Reading:
    """Counts what a reader finds and leaves out, in the order of its first.

    Attributes:
      origin: Path of the data.
      unit: What is counted, in the plural.
    """

    def __init__(self, origin: object, unit: str):
        self.origin, self.unit = str(origin), unit
        self._found: dict[str, Tally] = {}
        self._left_out: dict[str, Tally] = {}
        self._notes: dict[str, None] = {}

    def find(self, kind: str, name: str = "", count: int = 1) -> None:
        """Counts what is there; `name` is that of the first."""
        _count(self._found, kind, name, count)

    def leave_out(self, reason: str, name: str = "", count: int = 1) -> None:
        """Counts what is not used; `name` is that of the first."""
        _count(self._left_out, reason, name, count)

    def say(self, note: str) -> None:
        """Notes a decision or a warning, each once."""
        self._notes[note] = None

    def found(self, kind: str) -> int:
        """Returns how many of a kind were found."""
        return self._found[kind].count if kind in self._found else 0

    @property
    def left_out(self) -> tuple[Tally, ...]:
        """What was left out so far."""
        return tuple(self._left_out.values())

    def report(
        self,
        splits: Mapping[str, int],
        split_rule: str = "",
        *,
        classes: Mapping[str, Sequence[int]] | None = None,
        contents: Sequence[str] = (),
        num_repeated: int | None = None,
    ) -> DataReport:
        """Returns the report; the arguments are attributes of `DataReport`."""
        return DataReport(
            origin=self.origin,
            unit=self.unit,
            splits=dict(splits),
            split_rule=split_rule,
            found=tuple(self._found.values()),
            left_out=self.left_out,
            classes={name: tuple(n) for name, n in (classes or {}).items()},
            contents=tuple(contents),
            num_repeated=num_repeated,
            notes=tuple(self._notes),
        )


def classes_by_split(
    class_names: Sequence[str], *labels: np.ndarray
) -> dict[str, tuple[int, ...]]:
    """Counts the members of each class in each split.

    Args:
      class_names: Name of each class.
      labels: Class of each member, int [member], an array for each split.

    Example:
      >>> classes_by_split(("a", "b"), np.array([0, 0, 1]), np.array([1]))
      {'a': (2, 0), 'b': (1, 1)}
    """
    counts = [np.bincount(part, minlength=len(class_names)) for part in labels]
    return {
        str(name): tuple(int(part[i]) for part in counts)
        for i, name in enumerate(class_names)
    }


def count_repeated(*parts: Iterable[np.ndarray]) -> int:
    """Counts the rows that equal an earlier one, bit by bit, over all parts.

    Example:
      >>> count_repeated(np.array([[1, 2], [3, 4]]), np.array([[1, 2]]))
      1
    """
    found = [digest for part in parts for digest in row_digests(part)]
    return len(found) - len(set(found))


def row_digests(rows: Iterable[np.ndarray]) -> list[bytes]:
    """Returns a digest of each row, equal for rows that are equal bit by bit."""
    return [
        hashlib.blake2b(np.ascontiguousarray(row).tobytes(), digest_size=16).digest()
        for row in rows
    ]


def _join(tallies: Sequence[Tally]) -> str:
    return ", ".join(map(str, tallies))


def _count(into: dict[str, Tally], kind: str, name: str, count: int) -> None:
    if count:
        known = into.get(kind, Tally(kind, 0, name))
        into[kind] = Tally(kind, known.count + count, known.first)
