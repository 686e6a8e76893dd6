"""Options of commands: their help and their values."""

from typing import Any

import typer

from gramian.errors import OptionError

__all__ = ["given", "option", "parse_groups"]


def option(text: str, default: object, *names: str) -> Any:
    """Return an option whose help shows the default that applies if its value is None."""
    return typer.Option(*names, help=f"{text} [default: {default}]", show_default=False)


def given(**options: Any) -> dict[str, Any]:
    """Return the options that the user gave: those that are not None."""
    return {name: value for name, value in options.items() if value is not None}


def parse_groups(text: str | None) -> tuple[int | None, int | None]:
    """Parse the number of groups, and their size if it is given: 64 or 64x4."""
    if text is None:
        return None, None
    parts = text.lower().replace("×", "x").split("x")
    if len(parts) > 2 or not all(part.strip().isdecimal() for part in parts):
        raise OptionError(f"--groups must be a number, or two as in 64x4; got {text!r}")
    return int(parts[0]), int(parts[1]) if len(parts) == 2 else None
