"""What a symbolic calculator, tensorgrad, gives for the loss of each penalty, beside the closed forms of gramian.

    pip install tensorgrad
    PYTHONHASHSEED=0 python benchmarks/calculators.py > docs/measured/calculators.md

PYTHONHASHSEED fixes the names that tensorgrad chooses for indices. The output is a table in Markdown: whether the loss
can be written, the derivative as tensorgrad writes it, and how far its numbers are from automatic differentiation of
the loss as defined, for l = 5, n = 3 in float64.
"""

from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import torch
from torch import Tensor

from gramian.calculus import Setting

try:
    import sympy
    import tensorgrad
    import tensorgrad.functions as F  # noqa: N812
    from tensorgrad.compiler import compile_to_callable
    from tensorgrad.extras.to_index import to_index
except ImportError as error:
    raise SystemExit(f"{error}; try: pip install tensorgrad") from None

LONGEST = 60
"""Longest derivative, in characters, that is printed."""

L_SIZE, M_SIZE, N_SIZE = sympy.symbols("l m n")
P = tensorgrad.Variable("P", L_SIZE, N_SIZE)
GRAM = P @ P.rename(n="k")
IDENTITY = tensorgrad.Delta(N_SIZE, "n", "k")
X = GRAM - IDENTITY


def huber() -> Any:
    """Σ h(X) by relu: with r = relu(|x| − δ) it is (|x| − r)²/2δ + r."""
    beyond = F.relu(F.abs(X) - 0.1)
    within = F.abs(X) - beyond
    return 5 * F.sum(within * within) + F.sum(beyond)


LOSSES: dict[str, Callable[[], Any] | str] = {
    "l1": lambda: F.sum(F.abs(X)),
    "huber": huber,
    "squared_frobenius": lambda: F.sum(X * X),
    "frobenius": lambda: F.sqrt(F.sum(X * X)),
    "spectral": "no eigenvalues",
    "coherence": lambda: F.max(F.abs(GRAM - GRAM * IDENTITY)),
    "logdet": lambda: F.sum(P * P) - F.log(F.det(GRAM)),
}
"""Losses of one group, with β = 1; text says why there is none."""


def evaluate(derivative: Any, group: Tensor) -> Tensor:
    """Compute a derivative [l, n] in numbers.

    The program is called on tensors without names: its own call names their axes, which torch 2.13 no longer has.
    """
    length, members = group.shape
    program = compile_to_callable(derivative)
    function = program.codegen.specialize(
        {L_SIZE: length, N_SIZE: members}, verbose=False, dtype=group.dtype, for_inductor=False
    )
    (result,) = function(group)
    return result if result.shape == group.shape else result.mT


def written(derivative: Any) -> str:
    """Return a derivative as tensorgrad writes it in indices."""
    try:
        text = to_index(derivative.full_simplify())
    except NotImplementedError:
        return "not printed"
    return f"`{text}`" if len(text) <= LONGEST else f"{len(text)} characters"


def all_groups() -> tuple[str, str]:
    """Return the derivative of l1 by Φ[l, m, n], all groups at once, and its error."""
    phi = tensorgrad.Variable("Phi", L_SIZE, M_SIZE, N_SIZE)
    residuals = F.dot(phi, phi.rename(n="k"), "l") - IDENTITY @ tensorgrad.Delta(M_SIZE, "m")
    derivative = F.sum(F.abs(residuals)).grad(phi)
    setting = Setting(5, 2, 3)
    program = compile_to_callable(derivative)
    sizes = {L_SIZE: 5, M_SIZE: 2, N_SIZE: 3}
    (result,) = program.codegen.specialize(sizes, verbose=False, dtype=torch.float64, for_inductor=False)(setting.phi)
    axes = [result.shape.index(size) for size in (5, 2, 3)]
    return to_index(derivative.full_simplify()), in_words(
        (result.permute(axes) - setting.autograd()).abs().max().item()
    )


def in_words(error: float) -> str:
    """Describe an error."""
    return f"{error:.0e}" if error > 1e-12 else "rounding"


def describe(name: str) -> tuple[str, str]:
    """Return the derivative as text, and its error or why there is none."""
    loss = LOSSES[name]
    if isinstance(loss, str):
        return "", f"not possible: {loss}"
    derivative = loss().grad(P)
    setting = Setting(5, 1, 3, name)
    try:
        error = (evaluate(derivative, setting.P) - setting.autograd()[:, 0]).abs().max().item()
    except NotImplementedError:
        return written(derivative), "not evaluated: no lowering"
    return written(derivative), in_words(error)


def main() -> None:
    """Print the table."""
    print(f"*tensorgrad {version('tensorgrad')}, torch {torch.__version__.split('+')[0]}.*\n")
    print("| penalty | derivative that tensorgrad prints | error of its numbers |\n|---|---|---|")
    for name in LOSSES:
        text, error = describe(name)
        print(f"| {name} | {text} | {error} |")
    text, error = all_groups()
    print(f"\nThe derivative of l1 by all groups at once (error of its numbers: {error}):\n\n    {text}\n")
    second = F.sum(F.abs(X)).grad(P).grad(P).full_simplify()
    print(f"The second derivative of l1 by one group:\n\n    {to_index(second)}")


if __name__ == "__main__":
    main()
