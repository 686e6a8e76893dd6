"""The derivation as a document: Markdown for a page, and LaTeX for a paper or a lecture."""

import re

from torch import Tensor

from gramian.calculus import ByVector, CheckedStep, Setting, formulas, in_decimals
from gramian.cli.explain.command import answers, heading, legend, row, sizes
from gramian.cli.explain.numbers import are_small, numbers, sentence, shows_numbers

__all__ = ["as_latex", "as_markdown"]

_LATEX_COLUMNS = 4
"""Columns of a matrix that fit twice on a line of a page."""
_EXPONENT = re.compile(r"e([+-])0*(\d+)")
_IN_UPRIGHT = r"\\mathrm{e}{\1\2}"
_LINE = 110
"""Longest substituted formula on one line, in characters of LaTeX."""
_PREAMBLE = r"""\documentclass{article}
\usepackage[margin=25mm]{geometry}
\usepackage{amsmath, amssymb}
\setlength{\parindent}{0pt}
\begin{document}
"""


def as_markdown(setting: Setting, steps: list[CheckedStep], by_vector: ByVector | None = None) -> str:
    """Format the derivation as Markdown, with formulas in `math` fences and between dollar signs.

    Args:
        setting: Sizes, penalty, strength and seed.
        steps: The checked steps.
        by_vector: The derivative with respect to one vector, with numbers; by default none.
    """
    written = formulas(setting.penalty)
    parts = [f"### The loss, penalty {setting.penalty}", _fence(rf"L(\Phi) = {written.loss}")]
    parts += [written.where] if written.where else []
    parts += [f"{sizes(setting)} The loss is $L = {in_decimals(setting.loss(setting.phi).item())}$."]
    parts += ["### Its derivative"]
    for name, latex in answers(setting):
        parts += [f"{name.capitalize()}:", _fence(latex)]
    if by_vector is not None:
        parts.append(f"### The derivative with respect to vector {setting.b} of group {setting.a}")
        parts += map(_fence, (by_vector.formula, by_vector.substituted, by_vector.result))
        parts += [_fence(f"{by_vector.symbol} = {_row(by_vector)}"), _markdown_table(by_vector), by_vector.words]
    parts += ["### Step by step", legend(setting)]
    for place, one in enumerate(steps, 1):
        step = one.step
        parts += [f"#### {place}. {heading(step)}", _fence(step.latex), step.because]
        if shows_numbers(one):
            parts += [f"Left: {step.left}. Right: {step.right}.", _fence(_both(one))]
        parts.append(sentence(one))
    return "\n\n".join(parts) + "\n"


def as_latex(
    setting: Setting, steps: list[CheckedStep], by_vector: ByVector | None = None, *, fragment: bool = False
) -> str:
    r"""Format the derivation as a LaTeX document.

    Args:
        setting: Sizes, penalty, strength and seed.
        steps: The checked steps.
        by_vector: The derivative with respect to one vector, with numbers; by default none.
        fragment: Whether to leave out the preamble, for \input in a document that loads amsmath and amssymb.
    """
    written = formulas(setting.penalty)
    parts = [
        rf"\section*{{The loss, penalty {_prose(f'`{setting.penalty}`')}}}",
        _display(rf"L(\Phi) = {written.loss}"),
        _prose(written.where),
        _prose(f"{sizes(setting)} The loss is $L = {in_decimals(setting.loss(setting.phi).item())}$."),
        r"\section*{Its derivative}",
    ]
    for name, latex in answers(setting):
        parts += [f"{name.capitalize()}:", _display(latex)]
    if by_vector is not None:
        parts.append(rf"\section*{{The derivative with respect to vector {setting.b} of group {setting.a}}}")
        parts += [
            _display(by_vector.formula),
            _display(_broken(by_vector.substituted)),
            _display(_broken(by_vector.result)),
        ]
        parts.append(_display(f"{by_vector.symbol} = {_row(by_vector)}"))
        parts += [_table(by_vector), _prose(by_vector.words)]
    parts += [r"\section*{Step by step}", _prose(legend(setting)), r"\begin{enumerate}"]
    for one in steps:
        step = one.step
        parts += [
            rf"\item \textbf{{{_prose(step.rule)}: {_prose(step.title)}.}}",
            _display(step.latex),
            _prose(step.because),
        ]
        if shows_numbers(one):
            parts.append(_prose(f"Left: {step.left}. Right: {step.right}."))
            parts.append(_display(_both(one), small=True))
        parts.append(_prose(sentence(one)))
    body = "\n".join(part for part in [*parts, r"\end{enumerate}"] if part) + "\n"
    return "% Needs amsmath and amssymb.\n" + body if fragment else _PREAMBLE + body + "\\end{document}\n"


def _fence(latex: str) -> str:
    return f"```math\n{latex}\n```"


def _markdown_table(by_vector: ByVector) -> str:
    head = f"| {' | '.join(_columns(by_vector))} |\n|---|---|---|---|---|---|\n"
    return head + "\n".join(f"| {' | '.join(cells)} |" for cells in _cells(by_vector))


def _columns(by_vector: ByVector) -> list[str]:
    a, b = by_vector.setting.a, by_vector.setting.b
    symbols = ("j", rf"\Phi_{{{a},j}}^\top\Phi_{{{a},{b}}}", rf"\delta_{{j,{b}}}", f"X_{{j,{b}}}", f"G_{{j,{b}}}")
    return [*(f"${symbol}$" for symbol in symbols), rf"a step against it: $\Phi_{{{a},{b}}}$"]


def _cells(by_vector: ByVector) -> list[list[str]]:
    rows = [
        [f"${t.j}$", f"${t.inner:.4f}$", f"${t.delta}$", f"${t.X:.4f}$", f"${t.G + 0.0:.4f}$", t.words]
        for t in by_vector.terms[:8]
    ]
    return [*rows, *([[r"$\vdots$", "", "", "", "", ""]] if len(by_vector.terms) > 8 else [])]


_IN_LATEX = {"✓": r"$\checkmark$", "✗": r"$\times$", "‼": r"\textbf{!!}", "≤": r"$\le$", "−": "$-$", "_": r"\_"}


def _prose(text: str) -> str:
    """Convert a sentence to ASCII LaTeX; formulas between dollar signs remain as they are."""
    pieces = re.split(r"(\$.+?\$)", re.sub(r"\A([✓✗‼])", r"\1~", text).replace("~ ", "~"))
    outside = [
        re.sub(r"`(.+?)`", r"\\texttt{\1}", "".join(_IN_LATEX.get(c, c) for c in piece)) for piece in pieces[::2]
    ]
    return "".join(one for pair in zip(outside, [*pieces[1::2], ""], strict=True) for one in pair)


def _display(latex: str, *, small: bool = False) -> str:
    return (r"{\footnotesize" if small else "") + rf"\[ {latex} \]" + ("}" if small else "")


def _row(by_vector: ByVector) -> str:
    return _EXPONENT.sub(_IN_UPRIGHT, row(by_vector).replace("…", r"\ldots").replace(", ", r",\; "))


def _both(one: CheckedStep) -> str:
    """Write both sides with the relation between them."""
    small = are_small(one.lhs, one.rhs)
    left, right = (_matrix(side, scientific=small) for side in (one.lhs, one.rhs))
    relation = r"\ne" if one.step.is_mistake else "="
    return f"{left} {relation} {right}"


def _matrix(values: Tensor, *, scientific: bool) -> str:
    rows, cut_rows, cut_columns = numbers(values, _LATEX_COLUMNS, scientific=scientific)
    rows = [[_EXPONENT.sub(_IN_UPRIGHT, x) for x in row] for row in rows]
    if values.ndim == 0:
        return rows[0][0]
    lines = [" & ".join([*row, *([r"\cdots"] if cut_columns else [])]) for row in rows]
    return r"\begin{pmatrix} " + r" \\ ".join([*lines, *([r"\vdots"] if cut_rows else [])]) + r" \end{pmatrix}"


def _broken(latex: str) -> str:
    """Break a long sum into lines."""
    left, right = latex.split(" = ", 1)
    lines = [""]
    for term in re.split(r" (?=[+-] [\\\d])", right):
        if len(lines[-1]) + len(term) > _LINE and lines[-1]:
            lines.append("")
        lines[-1] += f" {term}"
    return rf"\begin{{aligned}} {left} ={{}}&" + r" \\ &".join(lines) + r" \end{aligned}"


def _table(by_vector: ByVector) -> str:
    head = " & ".join(_columns(by_vector))
    lines = " \\\\\n".join(" & ".join(cells) for cells in _cells(by_vector))
    body = f"{head} \\\\ \\hline\n{lines}"
    return f"\\begin{{center}}\n\\begin{{tabular}}{{rrrrrl}}\n{body}\n\\end{{tabular}}\n\\end{{center}}"
