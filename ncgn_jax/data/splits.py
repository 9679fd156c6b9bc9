"""Recognises the names that people give to training, validation and test parts.

Example:
  >>> split_of("Training"), split_of("test"), split_of("holdout")
  ('train', 'test', None)
  >>> split_in("modelnet40_train"), split_in("X_val"), split_in("trainer")
  ('train', 'val', None)
"""

import re

SPLITS = ("train", "val", "test")
# What to do where the data name a split: take it, or draw one.
SPLITTINGS = ("given", "random")
_NAMES = {
    **dict.fromkeys(("train", "training", "trn", "tr"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "validate", "dev"), "val"),
    **dict.fromkeys(("test", "testing", "tst", "te", "eval", "evaluation"), "test"),
}
# As whole names these are too short, or mean too much, to be parts of a longer one.
_ALONE = frozenset(("tr", "te", "eval", "evaluation", "dev", "validate"))


def split_of(name: str) -> str | None:
    """Returns the split that a whole name stands for: train, val, test or None."""
    return _NAMES.get(name.strip().lower())


def split_in(name: str) -> str | None:
    """Returns the split that one word of a name stands for, None for none or several.

    Words are separated by anything but letters and digits, or by a change of case:
    `X_train`, `train-labels`, `testImages`, `train0`.
    """
    if split_of(name):
        return split_of(name)
    spaced = re.sub(r"([a-z])([A-Z])", r"\1 \2", name)
    words = re.findall(r"[A-Za-z]+", spaced)
    found = {_NAMES[w.lower()] for w in words if w.lower() in _NAMES.keys() - _ALONE}
    return found.pop() if len(found) == 1 else None
