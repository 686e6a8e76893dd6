"""What all pages share: one file that needs nothing else, no network and no other file."""

import base64
from collections.abc import Mapping
from importlib.resources import files
from string import Template

__all__ = ["as_data", "fill"]


def fill(template: str, values: Mapping[str, object]) -> str:
    """Give the text of a page: a template of this folder, with the style of all pages in it."""
    folder = files("gramian.report")
    text, style = (folder.joinpath(name).read_text(encoding="utf-8") for name in (template, "style.css"))
    return Template(text).substitute({**values, "style": style})


def as_data(content: bytes) -> str:
    """Give a PNG as the source of an image."""
    return "data:image/png;base64," + base64.b64encode(content).decode("ascii")
