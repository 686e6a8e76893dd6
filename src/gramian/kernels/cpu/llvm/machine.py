"""Compile LLVM's intermediate representation for the processor of this machine, through llvmlite.

The machine code stays in the memory of the process. Nothing is written to disk, because a function compiles in less
time than Numba needs to be imported.
"""

# llvmlite has no types to check.
# pyright: basic

import ctypes
import importlib.util
import os
import platform
import threading
from functools import cache
from typing import Any

from gramian.kernels.cpu.llvm.claims import SHARE, Share

__all__ = ["compile_function", "converts_half", "is_installed", "vector_bytes"]

_LEAST_VERSION = 20
"""The LLVM version of llvmlite 0.45, which needs no initialisation call and has untyped pointers."""


class _Compiler:
    """The lock of this process: LLVM adds one module to an engine at a time."""

    lock = threading.Lock()


def _replace_lock() -> None:
    _Compiler.lock = threading.Lock()  # another thread of the parent may have held it


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_replace_lock)


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


@cache
def converts_half() -> bool:
    """Tell whether this processor converts float16; otherwise LLVM would call functions that may be missing."""
    from llvmlite import binding

    return platform.machine().lower() in ("arm64", "aarch64") or bool(binding.get_host_cpu_features().get("f16c"))


def compile_function(text: str) -> Share:
    """Compile a module and return its function `share`, which runs without the interpreter lock."""
    with _Compiler.lock:
        engine = _engine()
        from llvmlite import binding

        module = binding.parse_assembly(text)
        engine.add_module(module)
        engine.finalize_object()
        address = engine.get_function_address(SHARE)
    return ctypes.CFUNCTYPE(None, ctypes.c_void_p)(address)


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
