"""Templates and inline pictures of all pages; a page is one file that needs no network."""

import base64
from collections.abc import Mapping
from importlib.resources import files
from string import Template

__all__ = ["as_data", "fill", "text_of"]


def fill(package: str, template: str, values: Mapping[str, object]) -> str:
    """Fill the template of a page or of a section with values, and with the style of all pages as `$style`.

    Args:
        package: The package whose folder holds the template.
        template: Its file name.
        values: The values, by name.
    """
    style = text_of("gramian.report", "style.css")
    return Template(text_of(package, template)).substitute({**values, "style": style})


def text_of(package: str, name: str) -> str:
    """Read a text file in the folder of a package."""
    return files(package).joinpath(name).read_text(encoding="utf-8")


def as_data(content: bytes) -> str:
    """Return a PNG as a data URI."""
    return "data:image/png;base64," + base64.b64encode(content).decode("ascii")
