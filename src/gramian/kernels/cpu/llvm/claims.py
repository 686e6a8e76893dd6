"""The function through which several threads share the blocks of a compiled loop, each claiming piece after piece.

It needs no interpreter: the arguments and the next piece are numbers in memory, of which each thread reads the address.
"""

import ctypes
import re
from collections.abc import Callable, Sequence

__all__ = ["SHARE", "Share", "pack_claims", "write_callback", "write_share"]

Share = Callable[[int], None]
"""A compiled function `share`, of the address of its claims."""

SHARE = "share"
"""The name of the function."""

_HEAD = ("claimed", "joined", "pieces", "parts", "start", "blocks", "room")
"""Numbers before the arguments. Threads count up the first two: pieces that have been claimed, and threads that have
joined. Then all pieces, the most threads, the first block, the number of blocks and the bytes of scratch memory for a
thread."""


def write_share(arguments: str, attributes: str) -> str:
    """Write the function `share`, which calls a function `run` of the same module.

    Args:
        arguments: Those of `run`: 64-bit integers and pointers, with `%first` and `%last` for the first block and the
            one after the last. Each thread gets another part of the memory at `%scratch`, if there is such an argument.
        attributes: Attributes of the function.
    """
    lines = [f"define void @{SHARE}(ptr %claims) nounwind {attributes} {{", "entry:"]
    given = [pair for pair in re.findall(r"(\w+) %(\w+)", arguments) if pair[1] not in ("first", "last")]
    for i, (kind, name) in enumerate([*(("i64", name) for name in _HEAD), *given]):
        lines.append(f"  %{name}.place = getelementptr i64, ptr %claims, i64 {i}")
        if name not in ("claimed", "joined"):
            value = "%scratch.base" if name == "scratch" else f"%{name}"
            lines.append(f"  {value} = load {kind}, ptr %{name}.place, align 8")
    lines += [
        "  %member = atomicrmw add ptr %joined.place, i64 1 monotonic, align 8",
        "  %idle = icmp sge i64 %member, %parts",
        "  %offset = mul i64 %member, %room",
        *(["  %scratch = getelementptr i8, ptr %scratch.base, i64 %offset"] if ("ptr", "scratch") in given else []),
        "  br i1 %idle, label %end, label %claim",
        "claim:",
        "  %piece = atomicrmw add ptr %claimed.place, i64 1 monotonic, align 8",
        "  %done = icmp sge i64 %piece, %pieces",
        "  br i1 %done, label %end, label %work",
        "work:",
        "  %before = mul i64 %blocks, %piece",
        "  %after = add i64 %before, %blocks",
        "  %lower = sdiv i64 %before, %pieces",
        "  %upper = sdiv i64 %after, %pieces",
        "  %first = add i64 %start, %lower",
        "  %last = add i64 %start, %upper",
        f"  call void @run({arguments})",
        "  br label %claim",
        "end:",
        "  ret void",
        "}",
    ]
    return "\n".join(lines) + "\n"


def write_callback() -> str:
    """Write a module whose loop calls a function of the first block and the one after the last, its only argument."""
    arguments = "ptr %function, i64 %first, i64 %last"
    call = "call void %function(i64 %first, i64 %last)\n  ret void"
    return f"define void @run({arguments}) {{\n  {call}\n}}\n" + write_share(arguments, "")


def pack_claims(
    arguments: Sequence[int], start: int, stop: int, *, parts: int, pieces: int, room: int
) -> "ctypes.Array[ctypes.c_int64]":
    """Return the memory that `share` reads; it can be used once.

    Args:
        arguments: The arguments of `run`, without `%first` and `%last`.
        start: The first block.
        stop: The block after the last.
        parts: The most threads that take part.
        pieces: Into how many pieces the blocks are split.
        room: Bytes of scratch memory for each thread.
    """
    numbers = (0, 0, pieces, parts, start, stop - start, room, *arguments)
    return (ctypes.c_int64 * len(numbers))(*numbers)
