r"""Formulas of the site become MathML when it is built: browsers draw it without a script, a font or a network.

Two forms: `$P^\top P$` within a line, and a fence named `math` for a formula of its own. They work in the pages and in
the docstrings, and GitHub draws them, too.
"""

import html
import re
from collections.abc import Iterable
from typing import Any

from latex2mathml.converter import convert
from pymdownx.superfences import SuperFencesException

_INLINE = re.compile(r'<span class="arithmatex">\\\((.*?)\\\)</span>', re.DOTALL)
_PAIRED_BARS = {r"\lvert": r"\left|", r"\rvert": r"\right|", r"\lVert": r"\left\|", r"\rVert": r"\right\|"}
_BARE_BAR = re.compile(r"<mo(?![^>]*\bform=)[^>]*>(?:&#x0007C;|\|)</mo>")
_UNKNOWN = re.compile(r"<mi>(\\\w*|&)</mi>")


class FormulaError(ValueError):
    """A formula that browsers would draw wrongly."""


def mathml(source: str, display: str) -> str:
    r"""Turn a formula in LaTeX into MathML; the colon of A : B is an operator with room around it.

    Raises:
        FormulaError: If a bar does not say which side it closes, or if the converter does not know a command. MathML
            takes a bar without a form for an operator between two terms: browsers put room around it, and draw it
            below the line.
    """
    text = source.strip().replace(" : ", r"\;:\;")
    for bar, delimiter in _PAIRED_BARS.items():
        text = text.replace(bar, delimiter)
    formula = convert(text, display=display)
    if _BARE_BAR.search(formula):
        raise FormulaError(rf"a bar must be written \lvert or \rvert; got {source.strip()!r}")
    if unknown := _UNKNOWN.search(formula):
        raise FormulaError(f"a command must be known to latex2mathml; got {unknown[1]} in {source.strip()!r}")
    return formula


def fence(source: str, *_: object, **__: object) -> str:
    """Turn one fence named `math` into HTML.

    Raises:
        SuperFencesException: If the formula cannot be drawn.
    """
    try:
        return f'<div class="formula">{mathml(source, "block")}</div>'
    except FormulaError as error:
        raise SuperFencesException(str(error)) from None


def inline(content: str) -> str:
    """Replace the formulas within lines, which pymdownx.arithmatex marked in the HTML of a page.

    Raises:
        FormulaError: If a formula cannot be drawn.
    """
    return _INLINE.sub(lambda match: mathml(html.unescape(match[1]), "inline"), content)


def on_config(config: Any) -> Any:
    """Tell mkdocs of the fence."""
    config.mdx_configs.setdefault("pymdownx.superfences", {})["custom_fences"] = [
        {"name": "math", "class": "formula", "format": fence}
    ]
    return config


def on_page_content(content: str, *, page: Any, **_: object) -> str:
    """Draw the formulas within the lines of a page.

    Raises:
        FormulaError: If a formula cannot be drawn, or a heading holds one: the table of contents would print its LaTeX.
    """
    for title in _titles(page.toc):
        if r"\(" in title:
            raise FormulaError(f"{page.file.src_uri}: a heading must hold Unicode instead of a formula; got {title!r}")
    try:
        return inline(content)
    except FormulaError as error:
        raise FormulaError(f"{page.file.src_uri}: {error}") from None


def _titles(toc: Iterable[Any]) -> Iterable[str]:
    for item in toc:
        yield item.title
        yield from _titles(item.children)
