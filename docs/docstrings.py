"""What the reference needs to know of the docstrings of this package."""

import re
from typing import Any

import griffe


class House(griffe.Extension):
    """Our docstrings have one section "Example:", which griffe reads as a note, and formulas in running text."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Name the section as griffe does; set off the words that begin a formula and a source."""
        if obj.docstring:
            text = re.sub(r"^Example:$", "Examples:", obj.docstring.value, flags=re.MULTILINE)
            text = re.sub(r"^(Formula|Source)\b(?=[:,])", r"**\1**", text, flags=re.MULTILINE)
            before, title, attributes = text.partition("Attributes:\n")
            # griffe takes what follows the first of two names for a type.
            attributes = re.sub(r"^    (\w+), (\w+):", r"    \1: with `\2`,", attributes, flags=re.MULTILINE)
            obj.docstring.value = before + title + attributes
