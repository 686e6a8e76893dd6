"""The page of the commands, generated from the program when the site is built: every command, option and default."""

import inspect
import re
import types
import typing
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PLACE = "<!-- commands -->"
_DEFAULT = re.compile(r"\s*\[default: (.*)\]$")
_CALL = re.compile(r"(?<![\w`'-])(torchrun (?:--[\w=-]+ )+gramian \w+|--[a-z][a-z-]*(?:=\w+)?)")
_KINDS = {int: "INTEGER", float: "FLOAT", str: "TEXT", Path: "PATH"}


@dataclass(frozen=True)
class Parameter:
    """An argument or an option of a command."""

    names: tuple[str, ...]
    """Its names, as in `--out` and `-o`; of an argument one, in capitals."""
    value: str
    """What stands for its value; empty for a flag."""
    text: str
    default: str
    """The default; empty if there is none."""
    required: bool
    repeatable: bool

    @property
    def is_option(self) -> bool:
        """Whether it is named on the command line."""
        return self.names[0].startswith("-")


def commands() -> dict[str, Callable[..., None]]:
    """Return the functions of the commands by name, in the order of `gramian --help`."""
    from gramian.cli.application import application

    return {each.name or each.callback.__name__: each.callback for each in application.registered_commands}  # type: ignore[union-attr]


def parameters(command: Callable[..., None]) -> Iterator[Parameter]:
    """Read the arguments and options of a command from its signature."""
    hints = typing.get_type_hints(command, include_extras=True)
    for name, parameter in inspect.signature(command).parameters.items():
        annotation, info = typing.get_args(hints[name])
        required = parameter.default is inspect.Parameter.empty
        kind, repeatable = _kind(annotation)
        if type(info).__name__ == "ArgumentInfo":
            names, value = (info.metavar or name.upper(),), ""
        else:
            # Within Annotated the first name that is given stands in the place of a default.
            given = (info.default,) if isinstance(info.default, str) else ()
            names = (*given, *(info.param_decls or ())) or (f"--{name.replace('_', '-')}",)
            value = "" if kind is bool else info.metavar or _KINDS[kind]
        text = " ".join((info.help or "").split())
        default = "" if required or parameter.default is None or kind is bool else str(parameter.default)
        if found := _DEFAULT.search(text):
            text, default = text[: found.start()], found[1]
        yield Parameter(names, value, text, default, required, repeatable)


def section(name: str, command: Callable[..., None]) -> str:
    """Write the section of one command: what it does, how it is called, and each argument and option."""
    every = list(parameters(command))
    words = [f"gramian {name}"]
    for each in every:
        shown = " ".join([*each.names[:1], each.value]).strip() + ("..." if each.repeatable else "")
        if each.required:
            words.append(shown)
        elif not each.is_option:
            words.append(f"[{shown}]")
    usage = " ".join([*words, "[OPTIONS]"])
    summary = _as_code(inspect.cleandoc(command.__doc__ or ""))
    lines = [f"## gramian {name}", "", summary, "", "```text", usage, "```", ""]
    for each in sorted(every, key=lambda each: each.is_option):
        term = ", ".join(f"`{name}`" for name in each.names) + (f" `{each.value}`" if each.value else "")
        end = f" *Default: {each.default}.*" if each.default else " *Required.*" if each.required else ""
        lines += [term, f":   {_as_code(each.text)}{end}", ""]
    return "\n".join(lines)


def on_page_markdown(markdown: str, **_: object) -> str:
    """Put the sections into the page that has a place for them."""
    if PLACE not in markdown:
        return markdown
    return markdown.replace(PLACE, "\n".join(section(name, command) for name, command in commands().items()))


def _as_code(text: str) -> str:
    """Set the options and calls within a text as code, so that no line ends within their dashes."""
    return _CALL.sub(r"`\1`", text)


def _kind(annotation: Any) -> tuple[type, bool]:
    """Return the type of one value, and whether there can be several."""
    if isinstance(annotation, types.UnionType):
        annotation = next(each for each in typing.get_args(annotation) if each is not type(None))
    if typing.get_origin(annotation) is list:
        return typing.get_args(annotation)[0], True
    if typing.get_origin(annotation) is tuple:
        return typing.get_args(annotation)[0], False
    return annotation, False
