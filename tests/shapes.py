"""The run-time check of shapes and types: beartype, which reads `float` as any real number, as PEP 484 does."""

import os
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder

from beartype import BeartypeConf, beartype

CHECKED = os.environ.get("CHECK_SHAPES") == "1"
"""Whether functions are wrapped when the package is imported."""

checked = beartype(conf=BeartypeConf(is_pep484_tower=True))

COMPILED = {
    "gramian.coding.inference.loops.descent",
    "gramian.coding.inference.loops.vectors",
    "gramian.coding.inference.loops.working_set",
    "gramian.kernels.gpu.triton_code.entries",
    "gramian.kernels.gpu.triton_code.fused",
    "gramian.kernels.gpu.triton_code.registers",
    "gramian.kernels.gpu.triton_code.signs",
    "gramian.kernels.gpu.triton_code.tiles",
}
"""What Numba and Triton compile from its source, where a wrapper for shape checks is more than they can take."""


class AsItIs(MetaPathFinder):
    """Finds those modules before the hook that wraps."""

    def find_spec(self, name, path=None, target=None) -> ModuleSpec | None:
        return PathFinder.find_spec(name, path, target) if name in COMPILED else None
