"""Griffe extension: render the docstring section `Example:` as runnable code, as `Examples:` is."""

from typing import Any

from griffe import Extension, Object


class ExampleSections(Extension):
    """Rename the section so that griffe's Google parser reads its doctests."""

    def on_object(self, *, obj: Object, **kwargs: Any) -> None:
        """Rename it in the docstring of one object."""
        if obj.docstring:
            obj.docstring.value = obj.docstring.value.replace("Example:\n", "Examples:\n")
