"""Numbers of a step as text: arrays, both sides next to each other, and the verdict."""

from torch import Tensor

from gramian.calculus import CheckedStep

__all__ = [
    "COLUMNS",
    "NUMBER_WIDTH",
    "are_small",
    "beside",
    "number",
    "numbers",
    "sentence",
    "shows_numbers",
    "verdict",
]

ROWS, COLUMNS = 8, 6
"""Largest number of rows and columns that are printed of an array."""
NUMBER_WIDTH = 10
"""Width of a number with the space before it, in characters."""
_SMALL = 0.01
"""Numbers that are all smaller are written with an exponent."""


def number(x: float, *, scientific: bool = False) -> str:
    """Format a number with four decimals, or with three digits and an exponent; zero has no sign."""
    if scientific:
        return f"{x:.2e}" if x else "0"
    return f"{x if abs(x) >= 5e-5 else 0.0:.4f}"


def are_small(*tensors: Tensor) -> bool:
    """Tell whether four decimals would leave too few digits of all numbers."""
    largest = max(tensor.abs().max().item() for tensor in tensors)
    return 0 < largest < _SMALL


def numbers(values: Tensor, columns: int = COLUMNS, *, scientific: bool = False) -> tuple[list[list[str]], bool, bool]:
    """Return numbers as text, and whether rows and columns beyond the largest number were cut off.

    A tensor [l, m, n] is shown as a matrix with its groups next to each other.
    """
    matrix = values.reshape(1, 1) if values.ndim == 0 else values.flatten(1)
    rows = [[number(x, scientific=scientific) for x in row[:columns].tolist()] for row in matrix[:ROWS]]
    return rows, matrix.shape[0] > ROWS, matrix.shape[1] > columns


def beside(checked: CheckedStep, columns: int = COLUMNS) -> str:
    """Format both sides next to each other."""
    small = are_small(checked.lhs, checked.rhs)
    first, second = (_as_rows(side, columns, scientific=small) for side in (checked.lhs, checked.rhs))
    width = max(map(len, first))
    middle = (len(first) - 1) // 2
    return "\n".join(
        f"{one.ljust(width)}  {checked.step.relation if row == middle else ' '}  {two}".rstrip()
        for row, (one, two) in enumerate(zip(first, second, strict=True))
    )


def _as_rows(values: Tensor, columns: int, *, scientific: bool) -> list[str]:
    rows, cut_rows, cut_columns = numbers(values, columns, scientific=scientific)
    lines = [" ".join(f"{x:>{NUMBER_WIDTH - 1}}" for x in row) + (" …" if cut_columns else "") for row in rows]
    return [*lines, *([f"{'…':>{NUMBER_WIDTH - 1}}"] if cut_rows else [])]


def shows_numbers(checked: CheckedStep) -> bool:
    """Tell whether the numbers of the step show more than its verdict."""
    return checked.step.relation != "≤"


def verdict(checked: CheckedStep) -> str:
    """Return the verdict on a step as one line that begins with a mark."""
    if not checked.holds:
        return f"‼ This does not hold: the two sides differ by up to {checked.difference:.3g}."
    if checked.step.relation == "≤":
        return f"✓ {checked.lhs.item():.6g} ≤ {checked.rhs.item():.6g}: {checked.step.left} ≤ {checked.step.right}."
    if checked.step.is_mistake:
        return f"✗ {_refutation(checked)}"
    return f"✓ Both sides agree: they differ by at most {checked.difference:.1e}."


def sentence(checked: CheckedStep) -> str:
    """Return the verdict without digits that depend on the machine."""
    if not checked.holds or checked.step.relation != "=":
        return verdict(checked)
    return "✓ Both sides agree" + (" up to rounding." if checked.step.exact else " up to the error of the quotient.")


def _refutation(checked: CheckedStep) -> str:
    """Name the entry in which a mistake is most wrong."""
    difference = (checked.lhs - checked.rhs).abs()
    # The first of the entries that are largest up to rounding, so that every machine names the same one.
    place = int((difference.flatten() >= (1 - 1e-9) * difference.max()).nonzero()[0])
    small = are_small(checked.lhs, checked.rhs)
    right, wrong = (number(side.flatten()[place].item(), scientific=small) for side in (checked.lhs, checked.rhs))
    if not difference.ndim:
        return f"Refuted: it is {right}, and not {wrong}."
    row, column = divmod(place, difference.shape[-1])
    return f"Refuted: the entry in row {row}, column {column} is {right}, and not {wrong}."
