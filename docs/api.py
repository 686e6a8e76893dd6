"""The pages of the API, generated when the site is built: a page for each public module, with the names it exports."""

import ast
from pathlib import Path
from typing import Any

SOURCE = Path(__file__).resolve().parent.parent / "src"

GROUPS: dict[str, tuple[str, ...]] = {
    "Tensors": (
        "gramian",
        "gramian.penalties",
        "gramian.rules",
        "gramian.layout",
        "gramian.foreach",
        "gramian.frozen",
        "gramian.calculus",
        "gramian.kernels",
    ),
    "Networks": (
        "gramian.training",
        "gramian.selection",
        "gramian.inspection",
        "gramian.weights",
        "gramian.integrations.lightning",
        "gramian.integrations.transformers",
        "gramian.distributed",
    ),
    "Models": ("gramian.coding", "gramian.distributions"),
    "Applications": (
        "gramian.activations",
        "gramian.images",
        "gramian.images.samples",
        "gramian.images.evaluation",
        "gramian.report",
    ),
    "Errors": ("gramian.errors",),
}
"""The public modules, as the menu shows them."""

AT_THE_ROOT = ("objective", "orthogonalize")
"""Modules without a page: their names are documented on the page of the package itself."""


def source_of(module: str) -> Path:
    """Return the file of a module or a package."""
    path = SOURCE.joinpath(*module.split("."))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def exports(module: str) -> list[str]:
    """Read `__all__` of a module from its source."""
    for node in ast.parse(source_of(module).read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return ast.literal_eval(node.value)
    raise AssertionError(f"{module} has no __all__")


def defined(module: str) -> list[str]:
    """List the functions of a module in the order of its source."""
    body = ast.parse(source_of(module).read_text(encoding="utf-8")).body
    return [node.name for node in body if isinstance(node, ast.FunctionDef)]


def summary(module: str) -> str:
    """Read the first line of a module's docstring."""
    text = ast.get_docstring(ast.parse(source_of(module).read_text(encoding="utf-8")))
    return (text or "").partition("\n\n")[0].replace("\n", " ")


def address(module: str) -> str:
    """Return the file of a module's page."""
    return f"api/{module}.md"


def page(module: str) -> str:
    """Write the page of a module: its docstring, and what it exports."""
    lines = [
        f"# {module}",
        "",
        *_block(module, "members: false", "show_root_heading: false", "show_root_toc_entry: false"),
    ]
    names = exports(module)
    if module != "gramian":
        for name in names:
            lines += _block(f"{module}.{name}")
        return "\n".join(lines)
    homes = _homes()
    lines += ["", "| name | documented in |", "|---|---|"]
    for name in names:
        home = homes.get(name, name)
        if home not in AT_THE_ROOT:
            target = f"gramian.{home}"
            anchor = "" if home == name else f"#{target}.{name}"
            lines.append(f"| `gramian.{name}` | [`{target}`]({target}.md{anchor}) |")
    for name in (*defined("gramian.objective.losses"), *defined("gramian.objective.derivatives")):
        if name in names:
            lines += _block(f"gramian.{name}")
    for name in reversed(exports("gramian.orthogonalize")):
        lines += _block(f"gramian.orthogonalize.{name}")
    return "\n".join(lines)


def index() -> str:
    """Write the overview: each public module with its first line."""
    lines = [
        "# API",
        "",
        "Every public name of every public module, with its docstring. Examples in docstrings run in the tests.",
        "",
    ]
    for group, modules in GROUPS.items():
        lines += [f"## {group}", ""]
        lines += [f"- [`{module}`]({module}.md): {summary(module)}" for module in modules]
        lines += [""]
    return "\n".join(lines)


def on_config(config: Any) -> Any:
    """Fill the section API of the menu."""
    menu: list[Any] = ["api/index.md"]
    menu += [{group: [{module: address(module)} for module in modules]} for group, modules in GROUPS.items()]
    for entry in config.nav:
        if "API" in entry:
            entry["API"] = menu
    return config


def on_files(files: Any, *, config: Any) -> Any:
    """Add the pages."""
    from mkdocs.structure.files import File

    files.append(File.generated(config, "api/index.md", content=index()))
    for modules in GROUPS.values():
        for module in modules:
            files.append(File.generated(config, address(module), content=page(module)))
    return files


def _block(name: str, *options: str) -> list[str]:
    lines = ["", f"::: {name}"]
    return [*lines, "    options:", *(f"      {option}" for option in options)] if options else lines


def _homes() -> dict[str, str]:
    """Read in which module each name of the root is defined, from the table of the root."""
    for node in ast.parse(source_of("gramian").read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "_HOMES":
            return ast.literal_eval(node.value)
    raise AssertionError("gramian has no table of the modules of its names")
