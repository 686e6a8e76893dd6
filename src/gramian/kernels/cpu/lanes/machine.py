"""Compile LLVM's intermediate representation for the processor of this machine, through llvmlite.

The machine code stays in the memory of the process. Nothing is written to disk, because a function compiles in less
time than Numba needs to be imported.
"""

# llvmlite has no types to check.
# pyright: basic

import ctypes
import importlib.util
import threading
from collections.abc import Callable
from functools import cache
from typing import Any

__all__ = ["compile_function", "is_installed", "vector_bytes"]

_LEAST_VERSION = 15
"""The first LLVM whose pointers have no type of what they point to."""

_lock = threading.Lock()


@cache
def is_installed() -> bool:
    """Tell whether llvmlite is installed, with a version of LLVM that is new enough."""
    if importlib.util.find_spec("llvmlite") is None:
        return False
    from llvmlite import binding

    return binding.llvm_version_info[0] >= _LEAST_VERSION


@cache
def vector_bytes() -> int:
    """Return the bytes of the widest vector of this processor."""
    from llvmlite import binding

    features = binding.get_host_cpu_features()
    if features.get("avx512f"):
        return 64
    return 32 if features.get("avx2") else 16


def compile_function(text: str, name: str, arguments: tuple[Any, ...]) -> Callable[..., None]:
    """Compile a module and return one of its functions, which runs without the interpreter lock."""
    with _lock:
        engine = _engine()
        from llvmlite import binding

        module = binding.parse_assembly(text)
        engine.add_module(module)
        engine.finalize_object()
        address = engine.get_function_address(name)
    return ctypes.CFUNCTYPE(None, *arguments)(address)


@cache
def _machine() -> Any:
    from llvmlite import binding

    binding.initialize_native_target()
    binding.initialize_native_asmprinter()
    target = binding.Target.from_triple(binding.get_process_triple())
    return target.create_target_machine(
        cpu=binding.get_host_cpu_name(), features=binding.get_host_cpu_features().flatten(), opt=3
    )


@cache
def _engine() -> Any:
    from llvmlite import binding

    machine = _machine()
    return binding.create_mcjit_compiler(binding.parse_assembly(""), machine)
