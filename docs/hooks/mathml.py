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

_INLINE = re.compile(r'([(\[]?)<span class="arithmatex">\\\((.*?)\\\)</span>([.,;:?)\]]*)', re.DOTALL)
_PAIRED_BARS = {r"\lvert": r"\left|", r"\rvert": r"\right|", r"\lVert": r"\left\|", r"\rVert": r"\right\|"}
_BARE_BAR = re.compile(r"<mo(?![^>]*\bform=)[^>]*>(?:&#x0007C;|\|)</mo>")
_INFINITY = re.compile(r"<mo>(&#x0221E;|∞)</mo>")
_SLASH = re.compile(r"<mo>(&#x0002F;|/)</mo>")
_TALL_BAR = re.compile(r'<mo stretchy="true" (?=[^>]*>(?:&#x0007C;|&#x02016;)</mo>)')
_FUNCTION = re.compile(r"<mo( movablelimits=\"true\")?>([a-z]{2,})</mo>")
_OPENS = re.compile(r"(?:<mrow>)?<mo[^>]*>(?:\(|\[|&#x00028;|&#x0005B;)</mo>")
_UNARY = re.compile(
    r"(<mo[^>]*>(?:[(\[{,;=<>·:]|&#x0?00(?:28|5B|7B|2C|3D|3C|3E);|&#x0(?:2264|2265|2208|2190|22C5);)</mo>(?:<mspace[^>]*/>)*)<mo>(&#x02212;|\+|&#x0002B;|&#x000B1;)</mo>"
)
_UNKNOWN = re.compile(r"<mi>(\\\w*|&)</mi>")
_LIMITED = re.compile(r"<msub>(?=<mo>(?:max|min|sup|inf|lim|&#x02211;|&#x0220F;)</mo>)")
_SUBSCRIPT = re.compile(r"<(/?)msub>")
_STRUT = '<mspace height="0.72em" />'
"""Under a root, the height of a tall letter: else the bar touches a small one, and a root of n looks like π."""


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
    formula = _TALL_BAR.sub('<mo stretchy="false" ', formula) if display == "inline" else _limits_below(formula)
    return _spaced(formula)


def _limits_below(formula: str) -> str:
    """Set the index of a maximum, minimum, sum or product below it, as LaTeX does in a formula of its own."""
    while opening := _LIMITED.search(formula):
        depth = 1
        for tag in _SUBSCRIPT.finditer(formula, opening.end()):
            depth += -1 if tag[1] else 1
            if depth == 0:
                inside = formula[opening.end() : tag.start()]
                formula = f"{formula[: opening.start()]}<munder>{inside}</munder>{formula[tag.end() :]}"
                break
    return formula


def _spaced(formula: str) -> str:
    """Set the room around operators that the converter leaves to the browser, as LaTeX sets it."""
    formula = _INFINITY.sub(r"<mi>\1</mi>", formula)
    formula = _SLASH.sub(r'<mo lspace="0" rspace="0">\1</mo>', formula)
    formula = formula.replace("</msqrt>", _STRUT + "</msqrt>")
    formula = _UNARY.sub(r'\1<mo form="prefix">\2</mo>', formula)
    return _FUNCTION.sub(_function, formula)


def _function(name: re.Match[str]) -> str:
    """Name a function as an operator with a thin space before its argument, and none before a parenthesis."""
    after = "0" if _OPENS.match(name.string, name.end()) else "0.17em"
    return f'<mo{name[1] or ""} lspace="0.17em" rspace="{after}">{name[2]}</mo>'


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

    A formula stays on one line with the parenthesis before it and the punctuation after it.

    Raises:
        FormulaError: If a formula cannot be drawn.
    """
    return _INLINE.sub(_drawn, content)


def _drawn(found: re.Match[str]) -> str:
    before, source, after = found.groups()
    formula = mathml(html.unescape(source), "inline")
    return f'<span class="together">{before}{formula}{after}</span>' if before or after else formula


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
