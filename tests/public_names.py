"""The list of public names: `python -m tests.public_names > tests/public_names.txt` writes it anew."""

import ast
import importlib
import importlib.util
from pathlib import Path

PUBLIC = (
    *(
        "gramian",
        "gramian.activations",
        "gramian.calculus",
        "gramian.coding",
        "gramian.distributed",
        "gramian.distributions",
    ),
    *("gramian.errors", "gramian.foreach", "gramian.frozen"),
    *("gramian.images", "gramian.images.evaluation", "gramian.images.samples"),
    *("gramian.inspection", "gramian.kernels", "gramian.layout", "gramian.penalties"),
    *("gramian.report", "gramian.rules", "gramian.selection", "gramian.training", "gramian.weights"),
)
"""The modules whose `__all__` is public."""

SLOW = ("gramian.integrations.lightning", "gramian.integrations.transformers")
"""Public modules whose libraries take seconds to import: `__all__` is read from their source."""


def public_names() -> list[str]:
    """Return the public names, sorted, each with its module."""
    names = {module: importlib.import_module(module).__all__ for module in PUBLIC}
    names |= {module: _listed(module) for module in SLOW}
    return sorted(f"{module}.{name}" for module in names for name in names[module])


def _listed(module: str) -> list[str]:
    spec = importlib.util.find_spec(module)
    for node in ast.parse(Path(spec.origin).read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return ast.literal_eval(node.value)
    raise AssertionError(f"{module} has no __all__")


if __name__ == "__main__":
    print("\n".join(public_names()))
