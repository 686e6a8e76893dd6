"""Formulas of the site: fences named math become MathML, which browsers draw by themselves, without a script."""

import re
from typing import Any

from latex2mathml.converter import convert
from pymdownx.superfences import SuperFencesException

_BARE_BAR = re.compile(r"<mo(?![^>]*\bform=)[^>]*>(?:&#x0007C;|\|)</mo>")


def fence(source: str, *_: object, **__: object) -> str:
    """Turn one fence into HTML; the colon of A : B is an operator with room around it.

    Raises:
        SuperFencesException: If a bar does not say which side it closes. MathML takes a bar without a form for a
            stretchy operator between two terms: browsers put room around it, and draw it below the line.
    """
    formula = convert(source.strip().replace(" : ", r"\;:\;"), display="block")
    if _BARE_BAR.search(formula):
        raise SuperFencesException(f"a bar must be written \\left| or \\right|; got {source.strip()!r}")
    return f'<div class="formula">{formula}</div>'


def on_config(config: Any) -> Any:
    """Tell mkdocs of the fence."""
    config.mdx_configs.setdefault("pymdownx.superfences", {})["custom_fences"] = [
        {"name": "math", "class": "formula", "format": fence}
    ]
    return config
