"""The command `explain`: print the loss, its derivative and the derivation, with every step checked on numbers."""

from textwrap import indent, wrap

from rich.console import Console
from rich.text import Text

from gramian.calculus import (
    ByVector,
    CheckedStep,
    Setting,
    Step,
    derive,
    formulas,
    in_decimals,
    plain_formula,
    plain_text,
)
from gramian.cli.explain.numbers import COLUMNS, NUMBER_WIDTH, are_small, beside, number, shows_numbers, verdict
from gramian.errors import GramianError, OptionError

__all__ = ["answers", "explain_derivation", "heading", "legend", "row", "sizes", "table"]

_WIDTH = 110
"""Largest width of a paragraph."""


def explain_derivation(
    length: int,
    m: int,
    n: int,
    penalty: str,
    vector: tuple[int, int] | None,
    *,
    beta: float,
    seed: int,
    latex: bool,
    fragment: bool,
    markdown: bool,
) -> None:
    """Print the derivation, checked on random numbers of these sizes.

    Raises:
        OptionError: If both LaTeX and Markdown are requested, or a fragment of something that is not LaTeX.
        GramianError: If a step does not hold, which means a defect in this package or in torch.
    """
    from gramian.cli.explain.documents import as_latex, as_markdown

    if latex and markdown:
        raise OptionError("the output must be LaTeX or Markdown; got both; try one of --latex and --markdown")
    if fragment and not latex:
        raise OptionError("--fragment must come with --latex; got no --latex; try --latex --fragment")
    a, b = vector or (0, 0)
    setting = Setting(length, m, n, penalty, a, b, seed, beta)
    checked = list(derive(setting))
    by_vector = None if vector is None else ByVector(setting)
    if latex:
        print(as_latex(setting, checked, by_vector, fragment=fragment), end="")
    elif markdown:
        print(as_markdown(setting, checked, by_vector), end="")
    else:
        _print(setting, checked, by_vector)
    broken = [heading(one.step) for one in checked if not one.holds]
    if broken:
        raise GramianError(
            f"every step must hold; got numbers that contradict these on this machine: {'; '.join(broken)}"
        )


def sizes(setting: Setting) -> str:
    """Describe Φ and its letters in a sentence, with formulas between dollar signs."""
    s = setting
    groups = "1 group" if s.m == 1 else f"{s.m} groups"
    vectors = "1 vector" if s.n == 1 else f"{s.n} vectors"
    return (
        rf"$\Phi$ has the shape [{s.length}, {s.m}, {s.n}]: {groups} of {vectors} of length {s.length}. $\Phi_i$ is "
        rf"group $i$, a matrix with its vectors as columns, and $\Phi_{{ij}}$ is vector $j$ of it; all count from 0. "
        rf"Here $\beta = {in_decimals(s.beta)}$, and $\Phi$ is random (seed {s.seed})."
    )


def answers(setting: Setting) -> list[tuple[str, str]]:
    """Return the derivative for a vector and a group, as a tensor and its slices: a name and a formula in LaTeX."""
    written = formulas(setting.penalty)
    group = rf", \quad G_a = {written.group}" if written.group else ""
    return [
        ("by a vector", rf"\frac{{\partial L}}{{\partial \Phi_{{ab}}}} = {written.vector}"),
        ("by a group", rf"\frac{{\partial L}}{{\partial \Phi_a}} = 2\beta\,\Phi_a\,G_a{group}"),
        ("the tensor", r"\Gamma_{pab} = 2\beta\sum_j \Phi_{paj}\,(G_a)_{jb}"),
        ("a slice", r"e_a^\top Q_p = 2\beta\,(e_p^\top\Phi_a)\,G_a, \quad (Q_p)_{ab} = \Gamma_{pab}"),
    ]


def legend(setting: Setting) -> str:
    """Explain the letters and the marks of the steps."""
    s = setting
    return (
        rf"$P = \Phi_a$ is group $a = {s.a}$, $dP$ a random change of it, and $b = {s.b}$ one of its vectors. ✓: the "
        rf"numbers "
        "of both sides agree. ✗: a common mistake, with the numbers that refute it."
    )


def _print(setting: Setting, checked: list[CheckedStep], by_vector: ByVector | None) -> None:
    console = Console(highlight=False)
    written = formulas(setting.penalty)
    _heading(console, f"The loss, penalty {setting.penalty}")
    _formula(console, rf"L(\Phi) = {written.loss}")
    if written.where:
        _paragraph(console, written.where)
    _paragraph(console, f"{sizes(setting)} The loss is $L = {in_decimals(setting.loss(setting.phi).item())}$.")
    _heading(console, "Its derivative")
    for name, latex in answers(setting):
        console.print(Text(f"    {name:12} ") + Text(plain_formula(latex), style="cyan"), soft_wrap=True)
    console.print()
    if by_vector is not None:
        _heading(console, f"The derivative with respect to vector {setting.b} of group {setting.a}")
        _print_vector(console, by_vector)
    _heading(console, "Step by step")
    _paragraph(console, legend(setting))
    for place, one in enumerate(checked, 1):
        _print_step(console, place, one)
    held = sum(one.holds and not one.step.is_mistake for one in checked)
    refuted = sum(one.holds and one.step.is_mistake for one in checked)
    console.print(f"✓ {held} steps hold on these numbers; ✗ {refuted} mistakes are refuted by them.")


def _print_vector(console: Console, by_vector: ByVector) -> None:
    for latex in (by_vector.formula, by_vector.substituted, by_vector.result):
        console.print(Text(f"    {plain_formula(latex)}", style="cyan"), soft_wrap=True)
    console.print(Text(f"    {plain_formula(by_vector.symbol)} = {row(by_vector)}", style="cyan"), soft_wrap=True)
    console.print()
    console.print(Text(indent(table(by_vector), "    ")), soft_wrap=True)
    console.print()
    _paragraph(console, by_vector.words)


def table(by_vector: ByVector) -> str:
    """Format the terms of the derivative with respect to a vector, one in a row, at most eight."""
    a, b = by_vector.setting.a, by_vector.setting.b
    columns = f"{f'Φ_{a},jᵀΦ_{a},{b}':>12}  {f'δ_j,{b}':>6}  {f'X_j,{b}':>9}  {f'G_j,{b}':>9}"
    head = f"  j  {columns}  a step against it: Φ_{a},{b}"
    rows = [
        f"{t.j:3}  {t.inner:12.4f}  {t.delta:6}  {t.X:9.4f}  {t.G + 0.0:9.4f}  {t.words}" for t in by_vector.terms[:8]
    ]
    return "\n".join([head, *rows, *(["  …"] if len(by_vector.terms) > 8 else [])])


def row(by_vector: ByVector) -> str:
    """Format the entries of the derivative with respect to a vector in a line, at most eight."""
    small = are_small(by_vector.value)
    entries = [number(x, scientific=small) for x in by_vector.value[:8].tolist()]
    return f"({', '.join([*entries, *(['…'] if len(by_vector.value) > 8 else [])])})"


def heading(step: Step) -> str:
    """Return the rule and the title of a step in Unicode."""
    return plain_text(f"{step.rule}: {step.title}")


def _print_step(console: Console, place: int, one: CheckedStep) -> None:
    step = one.step
    style = "bold yellow" if step.is_mistake else "bold"
    console.print(Text(f"{place:2}  {heading(step)}", style=style), soft_wrap=True)
    _formula(console, step.latex)
    _paragraph(console, step.because, end=False)
    if shows_numbers(one):
        _paragraph(console, f"Left: {step.left}. Right: {step.right}.", end=False)
        most = min(COLUMNS, (console.width - 14) // 2 // NUMBER_WIDTH)
        console.print(Text(indent(beside(one, max(1, most)), "    ")))
    colour = "bold red" if not one.holds else "yellow" if step.is_mistake else "green"
    _paragraph(console, verdict(one), style=colour)


def _heading(console: Console, text: str) -> None:
    console.print(Text(text, style="bold underline"))


def _formula(console: Console, latex: str) -> None:
    console.print(Text(f"    {plain_formula(latex)}", style="cyan"), soft_wrap=True)


def _paragraph(console: Console, prose: str, *, style: str = "dim", end: bool = True) -> None:
    for line in wrap(plain_text(prose).replace("`", ""), max(30, min(console.width, _WIDTH) - 4)):
        console.print(Text(f"    {line}", style=style))
    if end:
        console.print()
