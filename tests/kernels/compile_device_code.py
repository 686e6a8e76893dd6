"""Compile the device code for a GPU, without one: `python -m tests.kernels.compile_device_code [--all]`."""

import itertools
import sys

import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from gramian.kernels.gpu import triton_code

POINTERS = {"P", "D", "X", "M", "G", "A", "B", "values", "sums"}
NUMBERS = {"scale", "parameter"}
WIDE = {"X", "M", "values", "sums", "D"}

SHAPES = [{"N": 4, "FOLD": 4, "COLUMNS": 16, "ROWS": 64}, {"N": 40, "FOLD": 1, "COLUMNS": 64, "ROWS": 64}]
TILES = [{"DOWN": 64, "ACROSS": 64, "ROWS": 32}]
PENALTIES = [{"PENALTY": penalty} for penalty in range(3)]
OPTIONS = {
    "fused_gram": (SHAPES,),
    "fused_gradient": (SHAPES, PENALTIES, [{"EXACT": True}, {"EXACT": False}]),
    "fused_apply": (SHAPES, [{"ADD": True}, {"ADD": False}]),
    "strip": (TILES, PENALTIES),
    "product": ([{"DOWN": 64, "ACROSS": 64, "DEEP": 32}], [{"ADD": True}, {"ADD": False}]),
}


def compile_one(name: str, dtype: str, options: dict, capability: int) -> str:
    function = getattr(triton_code, name)
    narrow = {"fp32": tl.float32, "bf16": tl.bfloat16, "fp16": tl.float16}[dtype]
    if name == "fused_apply":
        narrow = tl.float32
    constants = {"WIDE": tl.float32, "NARROW": narrow, "PRECISION": "tf32x3", **options}
    signature = {}
    for argument in function.arg_names:
        if argument in constants:
            signature[argument] = "constexpr"
        elif argument in POINTERS:
            signature[argument] = "*fp32" if argument in WIDE else f"*{dtype}"
        else:
            signature[argument] = "fp32" if argument in NUMBERS else "i32"
    constexprs = {(function.arg_names.index(key),): value for key, value in constants.items()}
    made = triton.compile(ASTSource(function, signature, constexprs), target=GPUTarget("cuda", capability, 32))
    return made.asm["ptx"]


def main(everything: bool) -> None:
    count = 0
    for name, choices in OPTIONS.items():
        kinds = itertools.product(("fp32", "bf16", "fp16"), itertools.product(*choices), (80, 90))
        for dtype, picked, capability in kinds if everything else itertools.islice(kinds, 1):
            options = {key: value for part in picked for key, value in part.items()}
            assert "mma" in compile_one(name, dtype, options, capability)  # the tensor cores multiply
            count += 1
    print(f"{count} compiled")


if __name__ == "__main__":
    main("--all" in sys.argv)
