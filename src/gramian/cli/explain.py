"""The command `explain`: print the derivation of the gradient, with every step checked on numbers."""

import re
from itertools import count
from textwrap import indent

from rich.console import Console
from rich.text import Text
from torch import Tensor

from gramian.calculus import CheckedStep, Setting, derivative_by_vector, derive
from gramian.errors import GramianError, OptionError

__all__ = ["as_latex", "as_markdown", "explain_derivation"]

_ROWS, _COLUMNS = 8, 6
"""Largest number of rows and columns that are printed of an array."""
_NUMBER = 10
"""Width of a number, in characters."""
_MATRIX = 2


def explain_derivation(
    length: int,
    m: int,
    n: int,
    penalty: str,
    vector: tuple[int, int] | None,
    *,
    seed: int,
    latex: bool,
    markdown: bool,
) -> None:
    """Print the derivation, checked on random numbers of these sizes.

    Raises:
        OptionError: If both LaTeX and Markdown are requested.
        GramianError: If a step does not hold, which means a defect in this package or in torch.
    """
    if latex and markdown:
        raise OptionError("the output must be LaTeX or Markdown; got both; try one of --latex and --markdown")
    a, b = vector or (0, 0)
    setting = Setting(length, m, n, penalty, a, b, seed)
    steps = list(derive(setting))
    derivative = None if vector is None else derivative_by_vector(setting.phi, a, b, penalty)
    if latex or markdown:
        print((as_latex if latex else as_markdown)(setting, steps, derivative), end="")
    else:
        _print(setting, steps)
        if derivative is not None:
            print(f"∂L/∂Φ_{a},{b} =\n{_array(derivative[:, None])}")
    broken = [checked.step.title for checked in steps if not checked.holds]
    if broken:
        raise GramianError(
            f"every step must hold; got numbers that contradict these on this machine: {', '.join(broken)}"
        )


def _print(setting: Setting, steps: list[CheckedStep]) -> None:
    console = Console(highlight=False)
    console.print(
        f"Φ[{setting.length}, {setting.m}, {setting.n}] at random, seed {setting.seed}; penalty {setting.penalty}; "
        f"group a = {setting.a}, vector b = {setting.b}; P = Φ_a, X = PᵀP − I, G = ∂μ(X)\n"
    )
    for number, checked in enumerate(steps, 1):
        step = checked.step
        mistake = step.relation == "≠"
        console.print(Text(f"{number:2}  {step.title}", style="bold yellow" if mistake else "bold"))
        console.print(Text(f"    {step.claim}", style="cyan"))
        for line in Text(step.because).wrap(console, max(30, min(console.width, 110) - 4)):
            console.print(Text("    ") + line, style="dim")
        if _shows_numbers(checked):
            most = min(_COLUMNS, (console.width - 14) // 2 // _NUMBER)
            console.print(Text(indent(_sides(checked, max(1, most)), "    ")))
        console.print(Text(f"    {_verdict(checked)}", style="green" if checked.holds else "bold red"))
        console.print()


def _verdict(checked: CheckedStep) -> str:
    mark = "✓" if checked.holds else "✗"
    if checked.step.relation == "≤":
        return f"{mark} {checked.lhs.max().item():.6g} ≤ {checked.rhs.min().item():.6g}, the smallest of the others"
    if checked.step.relation == "≠":
        return f"{mark} the two differ by up to {checked.difference:.3g}"
    return f"{mark} the two sides differ by at most {checked.difference:.1e}"


def _sentence(checked: CheckedStep) -> str:
    """Return the verdict without digits that depend on the machine."""
    if checked.step.relation != "=":
        return f"{_verdict(checked)[2:].capitalize()}."
    if not checked.holds:
        return f"The two sides are not equal: they differ by {checked.difference:.3g}."
    return "The two sides are equal" + (
        " up to rounding." if checked.step.exact else " up to the error of the difference quotient."
    )


def _shows_numbers(checked: CheckedStep) -> bool:
    return checked.lhs.ndim <= _MATRIX and checked.step.relation != "≤"


def _array(values: Tensor, columns: int = _COLUMNS) -> str:
    """Format numbers as rows of text, cut off at the largest number of rows and columns."""
    matrix = values.reshape(1, 1) if values.ndim == 0 else values[None] if values.ndim == 1 else values
    rows = [
        "  ".join(f"{x if abs(x) >= 5e-5 else 0.0:8.4f}" for x in row[:columns].tolist())
        + (" …" if len(row) > columns else "")
        for row in matrix[:_ROWS]
    ]
    return "\n".join([*rows, *(["       …"] if len(matrix) > _ROWS else [])])


def _sides(checked: CheckedStep, columns: int = _COLUMNS) -> str:
    """Format both sides next to each other."""
    first, second = _array(checked.lhs, columns).splitlines(), _array(checked.rhs, columns).splitlines()
    width = max(map(len, first))
    middle = len(first) // 2
    return "\n".join(
        f"{one.ljust(width)}  {checked.step.relation if row == middle else ' '}  {two}".rstrip()
        for row, (one, two) in enumerate(zip(first, second, strict=True))
    )


def as_markdown(setting: Setting, steps: list[CheckedStep], derivative: Tensor | None = None) -> str:
    """Format the derivation as Markdown, with formulas in `math` fences and the numbers of both sides.

    Args:
        setting: Sizes, penalty and seed.
        steps: The checked steps.
        derivative: ∂L/∂Φ_ab, [l], which is printed at the end; default none.
    """

    def item(number: int, checked: CheckedStep) -> str:
        numbers = f"```text\n{_sides(checked)}\n```\n\n" if _shows_numbers(checked) else ""
        return (
            f"### {number}. {checked.step.title}\n\n```math\n{checked.step.latex}\n```\n\n{checked.step.because}\n\n"
            f"{numbers}*{_sentence(checked)}*\n\n"
        )

    text = f"On random numbers, {_about(setting)}.\n\n" + "".join(map(item, count(1), steps))
    if derivative is not None:
        text += (
            f"### By vector {setting.b} of group {setting.a}\n\n```math\n{_by_vector(setting)}\n```\n\n"
            f"```text\n{_array(derivative[:, None])}\n```\n"
        )
    return text.rstrip("\n") + "\n"


_IN_LATEX = {
    "Γ": r"\Gamma", "Σ": r"\Sigma", "Φ": r"\Phi", "β": r"\beta", "η": r"\eta", "μ": r"\mu", "τ": r"\tau",
    "·": r"\cdot", "∂": r"\partial", "‖": r"\|", "|": "|", "−": "-", "⊗": r"\otimes", "≤": r"\le", "≠": r"\neq",
    "ᵀ": r"^\top", "⁻": "^-", "¹": "^1", "²": "^2",
}  # fmt: skip


def _in_latex(text: str) -> str:
    """Convert a sentence with mathematical symbols to plain ASCII LaTeX."""
    text = re.sub(r"_(\w+)", r"\\textsubscript{\1}", re.sub(r"`(\w+)`", r"\\texttt{\1}", text))
    return "".join(
        rf"\ensuremath{{{_IN_LATEX[character]}}}" if character in _IN_LATEX else character for character in text
    )


def as_latex(setting: Setting, steps: list[CheckedStep], derivative: Tensor | None = None) -> str:
    """Format the derivation as a LaTeX enumeration.

    Args:
        setting: Sizes, penalty and seed.
        steps: The checked steps.
        derivative: ∂L/∂Φ_ab, [l], which is printed at the end; default none.
    """
    items = [
        f"\\item \\textbf{{{_in_latex(checked.step.title)}.}}\n  \\[ {checked.step.latex} \\]\n"
        f"  {_in_latex(checked.step.because)}\n  % {_in_latex(_verdict(checked)[2:])}\n"
        for checked in steps
    ]
    if derivative is not None:
        numbers = r" \\ ".join(
            line.strip().replace("…", r"\vdots") for line in _array(derivative[:, None]).splitlines()
        )
        items.append(
            f"\\item \\textbf{{By vector {setting.b} of group {setting.a}.}}\n"
            f"  \\[ {_by_vector(setting)} = \\begin{{pmatrix}} {numbers} \\end{{pmatrix}} \\]\n"
        )
    head = f"% \\usepackage{{amsmath}}\n\\begin{{enumerate}}\n% {_about(setting)}\n"
    return head + "".join(items) + "\\end{enumerate}\n"


def _about(setting: Setting) -> str:
    return (
        f"l = {setting.length}, m = {setting.m}, n = {setting.n}, penalty {setting.penalty}, seed {setting.seed}, "
        f"group a = {setting.a}, vector b = {setting.b}"
    )


def _by_vector(setting: Setting) -> str:
    return rf"\frac{{\partial L}}{{\partial \Phi_{{{setting.a},{setting.b}}}}}"
