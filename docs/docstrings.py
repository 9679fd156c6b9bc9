"""Shows the examples of docstrings as code: mkdocstrings knows `Examples:` alone."""

import re
from typing import Any

import griffe


class Examples(griffe.Extension):
    """Names the section of examples as mkdocstrings does."""

    def on_instance(self, *, obj: griffe.Object, **_: Any) -> None:
        """Renames the section of one docstring.

        Args:
          obj: A module, class, function or attribute.
        """
        if obj.docstring is not None:
            text = obj.docstring.value
            obj.docstring.value = re.sub(r"^Example:$", "Examples:", text, flags=re.M)
