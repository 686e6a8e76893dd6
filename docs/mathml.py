"""Formulas of the site: fences named math become MathML, which browsers draw by themselves, without a script."""

from typing import Any

from latex2mathml.converter import convert


def fence(source: str, *_: object, **__: object) -> str:
    """Turn one fence into HTML; the colon of A : B is an operator with room around it."""
    formula = convert(source.strip().replace(" : ", r"\;:\;"), display="block")
    return f'<div class="formula">{formula}</div>'


def on_config(config: Any) -> Any:
    """Tell mkdocs of the fence."""
    config.mdx_configs.setdefault("pymdownx.superfences", {})["custom_fences"] = [
        {"name": "math", "class": "formula", "format": fence}
    ]
    return config
