"""Formulas of the docstrings get subscripts in the pages of the API: a hook of mkdocs.

A docstring writes a formula in Unicode, Σ_jk |X_jk|, which is readable in `help()` too. In a page the index belongs
below the line, and a formula in a block of its own is no program.
"""

import re
from typing import Any

_NAMES = r"(?:(?<![A-Za-z])(?:max|min|mean|prox)|(?<![A-Za-z0-9_])[a-z]|[A-ZΑ-Ωα-ω]\u0302?|[Ĝ‖|)²ᵀ])"
_INDEX = re.compile(
    rf"({_NAMES})_(\{{[^{{}}]*\}}|[a-z]{{1,3}}(?![a-z_])|[0-9](?![0-9])|[α-ω]w?(?![α-ω])|F(?![A-Za-z]))"
)
_POWER = re.compile(r"(?<=[\w})|])\^\{([^{}]*)\}")
_CODE = re.compile(r"(<(pre|code|math|h[1-6]|nav|script|style)\b.*?</\2>)", re.DOTALL)
_TAG = re.compile(r"(<[^>]*>)")
_BLOCK = re.compile(r'<div class="highlight"><pre><span></span><code>([^<]*)</code></pre></div>')


def lowered(text: str) -> str:
    """Put the indices of the formulas in a text below the line, and exponents in braces above it."""
    text = _POWER.sub(r"<sup>\1</sup>", text)
    return _INDEX.sub(lambda found: f"{found[1]}<sub>{lowered(found[2].strip('{}'))}</sub>", text)


def on_page_content(content: str, *, page: Any, **_: object) -> str:
    """Set the formulas in a page of the API."""
    if not page.file.src_uri.startswith("api/"):
        return content
    content = _BLOCK.sub(_formula, content)
    parts = _CODE.split(content)
    # Of each three parts the first is text, the second is code as it stands, and the third the name of its tag.
    return "".join(_outside_tags(part) if place % 3 == 0 else part for place, part in enumerate(parts) if place % 3 < 2)


def _formula(block: re.Match[str]) -> str:
    return block[0] if "&gt;&gt;&gt;" in block[1] else f'<div class="formula unicode">{block[1].strip()}</div>'


def _outside_tags(text: str) -> str:
    return "".join(part if place % 2 else lowered(part) for place, part in enumerate(_TAG.split(text)))
