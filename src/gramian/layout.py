"""Layouts: an einops pattern says how any parameter is Φ[l, m, n]."""

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache, lru_cache
from keyword import kwlist
from typing import Any, TypeVar

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from gramian.errors import DtypeError, LayoutError, OvercompleteWarning
from gramian.typing import FLOATING_DTYPES, Phi

__all__ = ["Layout", "as_layout", "as_phi", "from_phi"]

_RESERVED = ("pattern", "self")  # parameters of Layout: a size of that name could not be given

_MOST_AXES = 64  # of a tensor, in torch

_Cached = TypeVar("_Cached", bound=Callable[..., Any])

Side = tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Layout:
    r"""Declare which axes of a parameter mean vector, group and member.

    The right side of the pattern has exactly three axes, in the order vector (l), group (m), member (n). Each
    may be one name, several in parentheses, or `()` for an axis of size one. The left side names the axes of
    the parameter. The sizes that the parameter's shape does not determine are given by keyword, or in the text after a
    semicolon, which is the form that `str` returns.

    Args:
        pattern: An einops pattern such as `"(m n) i -> i m n"`, or with sizes `"(m n) i -> i m n; n=4"`.
        **sizes: Sizes of named axes.

    Raises:
        LayoutError: If the pattern is not `left -> vector group member` or a size is not a positive integer.

    Cost:
        Each distinct pattern and set of sizes is parsed once; the results are views where the strides of the parameter
        allow one.

    Examples:
        >>> import torch, gramian
        >>> layout = gramian.Layout("(m n) i -> i m n", n=4)  # rows of a Linear weight, in groups of four
        >>> weight = torch.randn(64, 32)
        >>> layout.to_phi(weight).shape
        torch.Size([32, 16, 4])
        >>> torch.equal(layout.from_phi(layout.to_phi(weight), weight.shape), weight)
        True
        >>> layout, str(layout)
        (Layout('(m n) i -> i m n', n=4), '(m n) i -> i m n; n=4')
        >>> gramian.Layout(str(layout)) == layout
        True

    References:
        Rogozhnikov, "Einops: clear and reliable tensor manipulations with Einstein-like notation", ICLR 2022.
    """

    pattern: str
    sizes: tuple[tuple[str, int], ...] = field(default=())

    def __init__(self, pattern: str, **sizes: int) -> None:
        if not isinstance(pattern, str):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise LayoutError(f"a layout pattern must be a string; got {type(pattern).__name__}; try 'o i -> i () o'")
        if ";" in pattern:
            pattern, written = _sizes_of(pattern)
            sizes = {**written, **sizes}
        object.__setattr__(self, "pattern", pattern)
        object.__setattr__(self, "sizes", tuple(sorted(sizes.items())))
        left, _ = _uncompiled(_parse)(pattern)
        names = {name for axis in left for name in axis}
        for name, size in sizes.items():
            if name not in names:
                raise LayoutError(
                    f"every size given to a layout must name an axis of its pattern; got {name}={size} for "
                    f"{pattern!r}, whose axes are {_listed(sorted(names))}; try one of those names"
                )
            if isinstance(size, bool) or not isinstance(size, int) or size < 1:  # pyright: ignore[reportUnnecessaryIsInstance]
                raise LayoutError(f"an axis size must be a positive integer; got {name}={size!r} for {pattern!r}")

    def __repr__(self) -> str:
        sizes = "".join(f", {name}={size}" for name, size in self.sizes)
        return f"Layout({self.pattern!r}{sizes})"

    def __str__(self) -> str:
        sizes = ", ".join(f"{name}={size}" for name, size in self.sizes)
        return f"{self.pattern}; {sizes}" if sizes else self.pattern

    def axis_sizes(self, shape: tuple[int, ...]) -> dict[str, int]:
        """Solve for the size of every named axis, for a parameter of a shape.

        Args:
            shape: Shape of the parameter.

        Returns:
            The size of each named axis of the pattern.

        Raises:
            LayoutError: If the rank or a size does not fit the pattern.
        """
        return dict(_uncompiled(_solve)(self, tuple(shape)))

    def phi_shape(self, shape: tuple[int, ...]) -> tuple[int, int, int]:
        """Compute the sizes (l, m, n) of Φ for a parameter of a shape.

        Raises:
            LayoutError: If the shape does not fit the pattern.

        Examples:
            >>> from gramian import Layout
            >>> Layout("o i kh kw -> (i kh kw) () o").phi_shape((16, 3, 5, 5))
            (75, 1, 16)
        """
        sizes = self.axis_sizes(shape)
        length, groups, members = [_product(axis, sizes) for axis in _uncompiled(_parse)(self.pattern)[1]]
        return length, groups, members

    def sides(self) -> tuple[Side, Side]:
        """Return the names of the axes of the parameter, and those of vector, group and member."""
        return _uncompiled(_parse)(self.pattern)

    def to_phi(self, parameter: Float[Tensor, "..."]) -> Phi:
        """Rearrange a parameter into Φ[l, m, n].

        Args:
            parameter: A tensor whose shape fits the left side of the pattern.

        Returns:
            Φ, a view of the parameter where its strides allow one, else a copy.

        Raises:
            LayoutError: If the shape does not fit the pattern.
        """
        forward, _, numbers = _uncompiled(_numbered)(self.pattern)
        return rearrange(parameter, forward, **_renamed(numbers, self.axis_sizes(tuple(parameter.shape))))

    def from_phi(self, phi: Phi, shape: tuple[int, ...]) -> Float[Tensor, "..."]:
        """Rearrange Φ[l, m, n] back into a parameter of the given shape; the exact inverse of `to_phi`.

        Args:
            phi: Φ from `to_phi`, or any tensor of that shape.
            shape: Shape of the parameter.

        Returns:
            The parameter, a view of `phi` where its strides allow one, else a copy.

        Raises:
            LayoutError: If `shape` does not fit the pattern, or `phi` does not have the shape that follows from it.
        """
        sizes = self.axis_sizes(shape)
        expected = self.phi_shape(shape)
        if tuple(phi.shape) != expected:
            raise LayoutError(
                f"phi must have the shape {list(expected)}, which {self!r} determines for a parameter of shape "
                f"{list(shape)}; got {list(phi.shape)}"
            )
        _, backward, numbers = _uncompiled(_numbered)(self.pattern)
        return rearrange(phi, backward, **_renamed(numbers, sizes))


def as_layout(layout: Layout | str | None, rank: int) -> Layout | None:
    """Turn a layout argument into a `Layout`, or None if the tensor is Φ[l, m, n] itself.

    Args:
        layout: A `Layout`, its text, or None.
        rank: Rank of the tensor.

    Raises:
        LayoutError: If there is no layout and the rank is neither 2 nor 3.
    """
    if layout is None:
        if rank == 3:
            return None
        if rank == 2:
            return _ONE_GROUP
        raise LayoutError(
            f"without a layout a tensor must be phi[l, m, n] or one group [l, n]; got {rank} axes; "
            "try layout='o i kh kw -> (i kh kw) () o', or the pattern that says what the axes mean"
        )
    if isinstance(layout, str):
        return Layout(layout)
    if not isinstance(layout, Layout):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise LayoutError(f"layout must be a gramian.Layout, a pattern or None; got {layout!r}")
    return layout


def as_phi(parameter: Tensor, layout: Layout | str | None) -> Phi:
    """Check a parameter and rearrange it into Φ[l, m, n]; every public function calls this first.

    Args:
        parameter: A strided tensor of dtype float64, float32, bfloat16 or float16.
        layout: Its layout; see `as_layout`.

    Returns:
        Φ, a view of `parameter` where its strides allow one.

    Raises:
        DtypeError: If `parameter` is not such a tensor.
        LayoutError: If it does not fit its layout.

    Warns:
        OvercompleteWarning: Once for each (l, n) with n > l.
    """
    if not isinstance(parameter, Tensor):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise DtypeError(
            f"phi must be a torch.Tensor; got {type(parameter).__name__}; try torch.as_tensor(phi, dtype=torch.float32)"
        )
    if parameter.dtype not in FLOATING_DTYPES:
        raise DtypeError(
            f"phi must be of dtype float64, float32, bfloat16 or float16; got {parameter.dtype}; try phi.float(), "
            "or, for complex vectors, their real and imaginary parts stacked along the vector axis"
        )
    if parameter.layout != torch.strided:
        raise DtypeError(f"phi must be a dense (strided) tensor; got {parameter.layout}; try phi.to_dense()")
    if layout is None and parameter.ndim == 2:
        phi = parameter.unsqueeze(1)  # the result of _ONE_GROUP, at a tenth of the overhead
    else:
        resolved = as_layout(layout, parameter.ndim)
        phi = parameter if resolved is None else resolved.to_phi(parameter)
    length, _, members = phi.shape
    if members > length and not torch.compiler.is_compiling():
        _warn_overcomplete(length, members)
    return phi


def from_phi(phi: Phi, parameter: Tensor, layout: Layout | str | None) -> Tensor:
    """Rearrange Φ back into the shape of its parameter; the inverse of `as_phi`."""
    if layout is None and parameter.ndim == 2:
        return phi.squeeze(1)
    resolved = as_layout(layout, parameter.ndim)
    return phi if resolved is None else resolved.from_phi(phi, tuple(parameter.shape))


@cache
def _warn_overcomplete(length: int, members: int) -> None:
    warnings.warn(
        f"a group of n = {members} vectors of length l = {length} cannot be orthonormal (n > l), so the smallest "
        "possible loss is positive; try smaller groups, or a layout that makes the longer axis the vector",
        OvercompleteWarning,
        stacklevel=4,
    )


@lru_cache(maxsize=1024)
def _parse(pattern: str) -> tuple[Side, Side]:
    sides = pattern.split("->")
    if len(sides) != 2:
        raise LayoutError(f"a layout pattern must be 'parameter axes -> vector group member'; got {pattern!r}")
    left, right = (tuple(_axes(side, pattern)) for side in sides)
    if len(right) != 3:
        raise LayoutError(
            f"the right side of a layout pattern must have exactly three axes (vector group member); got "
            f"{len(right)} in {pattern!r}; try (a b) to merge axes and () for an axis of size one"
        )
    names_left = [name for axis in left for name in axis]
    names_right = [name for axis in right for name in axis]
    for names, which in ((names_left, "left"), (names_right, "right")):
        repeated = sorted({name for place, name in enumerate(names) if name in names[:place]})
        if repeated:
            raise LayoutError(
                f"an axis must occur once on each side of a layout pattern; got {_listed(repeated)} twice on the "
                f"{which} of {pattern!r}"
            )
    if len(names_left) > _MOST_AXES:
        raise LayoutError(
            f"a layout pattern must name at most {_MOST_AXES} axes, the limit of a tensor; got {len(names_left)}"
        )
    unmatched = sorted(set(names_left) ^ set(names_right))
    if unmatched:
        raise LayoutError(
            f"both sides of a layout pattern must name the same axes, so that it is invertible; got "
            f"{_listed(unmatched)} on one side only of {pattern!r}"
        )
    return left, right


@lru_cache(maxsize=1024)
def _numbered(pattern: str) -> tuple[str, str, tuple[tuple[str, str], ...]]:
    """Return a pattern for einops, its inverse, and the name of each axis in them: einops reserves some names."""
    left, right = _uncompiled(_parse)(pattern)
    numbers = {name: f"a{place}" for place, name in enumerate([name for axis in left for name in axis])}
    forward, backward = [
        " ".join([f"({' '.join([numbers[name] for name in axis])})" for axis in side]) for side in (left, right)
    ]
    return f"{forward} -> {backward}", f"{backward} -> {forward}", tuple(numbers.items())


def _sizes_of(text: str) -> tuple[str, dict[str, int]]:
    """Split "pattern; name=size, name=size" into the pattern and the sizes."""
    pattern, _, rest = text.partition(";")
    sizes: dict[str, int] = {}
    for part in rest.split(","):
        name, _, number = (piece.strip() for piece in part.partition("="))
        if not number.isdigit() or name in sizes:
            raise LayoutError(f"sizes in a layout must be like 'h=8, d=64'; got {part.strip()!r} in {text!r}")
        sizes[name] = int(number)
    return pattern.strip(), sizes


def _renamed(numbers: tuple[tuple[str, str], ...], sizes: dict[str, int]) -> dict[str, int]:
    return {number: sizes[name] for name, number in numbers}


def _axes(side: str, pattern: str) -> Iterator[tuple[str, ...]]:
    depth: list[str] | None = None
    for token in side.replace("(", " ( ").replace(")", " ) ").split():
        if token == "(" and depth is None:
            depth = []
        elif token == ")" and depth is not None:
            yield tuple(depth)
            depth = None
        elif not token.isidentifier():
            raise LayoutError(
                f"an axis of a layout pattern must be a name, (names) or (); got {token!r} in {pattern!r}; "
                "ellipsis, numbers and nested parentheses are not supported"
            )
        elif token.startswith("_") or token.endswith("_") or token in kwlist or token in _RESERVED:
            raise LayoutError(
                f"an axis name must not begin or end with an underscore, be a Python keyword or one of "
                f"{_listed(sorted(_RESERVED))}; got {token!r} in {pattern!r}; try a single letter"
            )
        elif depth is None:
            yield (token,)
        else:
            depth.append(token)
    if depth is not None:
        raise LayoutError(f"parentheses of a layout pattern must be closed; got {pattern!r}")


@lru_cache(maxsize=4096)
def _solve(layout: Layout, shape: tuple[int, ...]) -> tuple[tuple[str, int], ...]:
    left, _ = _uncompiled(_parse)(layout.pattern)
    if len(left) != len(shape):
        raise LayoutError(
            f"a parameter must have the {len(left)} axes on the left of {layout.pattern!r}; got shape {list(shape)} "
            f"with {len(shape)}"
        )
    sizes = dict(layout.sizes)
    for position, (axis, size) in enumerate(zip(left, shape, strict=True)):
        unknown = [name for name in axis if name not in sizes]
        if len(unknown) > 1:
            raise LayoutError(
                f"at most one size in {_spelled(axis)} may be unknown; got {_listed(unknown)} in "
                f"{layout.pattern!r} for shape {list(shape)}; try Layout({layout.pattern!r}, {unknown[-1]}=...)"
            )
        known = _product(tuple(name for name in axis if name in sizes), sizes)
        if unknown:
            if size % known:
                raise LayoutError(
                    f"axis {position} of size {size} must be a multiple of {known} to be split as {_spelled(axis)}; "
                    f"got shape {list(shape)} for {layout!r}; try a size that divides {size}"
                )
            sizes[unknown[0]] = size // known
        elif known != size:
            raise LayoutError(
                f"axis {position} must have size {known}, the product of {_spelled(axis)}; got {size} in shape "
                f"{list(shape)} for {layout!r}"
            )
    return tuple(sizes.items())


def _product(axis: tuple[str, ...], sizes: dict[str, int]) -> int:
    # A loop and not math.prod of a generator, which torch.compile cannot trace.
    product = 1
    for name in axis:
        product = product * sizes[name]
    return product


def _uncompiled(function: _Cached) -> _Cached:
    # torch.compile ignores a cache, and warns about it.
    return function.__wrapped__ if torch.compiler.is_compiling() else function  # pyright: ignore


def _listed(names: list[str]) -> str:
    return ", ".join(repr(name) for name in names)


def _spelled(axis: tuple[str, ...]) -> str:
    return axis[0] if len(axis) == 1 else f"({' '.join(axis)})"


_ONE_GROUP = Layout("l n -> l () n")
