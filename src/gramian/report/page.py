"""What all pages share: one file that needs nothing else, no network and no other file."""

import base64
from collections.abc import Mapping
from importlib.resources import files
from string import Template

__all__ = ["as_data", "fill", "text_of"]


def fill(template: str, values: Mapping[str, object]) -> str:
    """Give the text of a page or of a section: a template of this folder, with the style of all pages where it asks."""
    return Template(text_of(template)).substitute({**values, "style": text_of("style.css")})


def text_of(name: str) -> str:
    """Read a file of this folder."""
    return files("gramian.report").joinpath(name).read_text(encoding="utf-8")


def as_data(content: bytes) -> str:
    """Give a PNG as the source of an image."""
    return "data:image/png;base64," + base64.b64encode(content).decode("ascii")
