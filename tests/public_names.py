"""The list of public names: `python -m tests.public_names > tests/public_names.txt` writes it anew."""

import importlib

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


def public_names() -> list[str]:
    """Return the public names, sorted, each with its module."""
    return sorted(f"{module}.{name}" for module in PUBLIC for name in importlib.import_module(module).__all__)


if __name__ == "__main__":
    print("\n".join(public_names()))
