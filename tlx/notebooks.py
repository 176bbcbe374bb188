"""Show values in notebooks: a value names the function that draws it by place, because drawing is a level above it."""

from importlib import import_module
from typing import Any


def html_of(place: str, *values: Any) -> str | None:
    """Return the HTML that the function at `place`, "module:function", draws of some values.

    >>> html_of("html:escape", "<b>")
    '&lt;b&gt;'
    """
    module, _, name = place.partition(":")
    html: str | None = getattr(import_module(module), name)(*values)
    return html
