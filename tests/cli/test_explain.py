"""`gramian explain`: what it prints, in its forms, and the page of the documentation that contains its output."""

import dataclasses
import importlib.util
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

import gramian
from gramian.calculus import ByVector, Setting, derive, formulas, plain_text, steps
from gramian.cli import main
from gramian.cli.explain.documents import as_latex, as_markdown
from gramian.penalties import PENALTIES
from tests.report.browser import executable, opened

PAGE = Path(__file__).parents[2] / "docs" / "measured" / "derivation.md"


def explain(monkeypatch, capsys, *arguments: str) -> tuple[int, str, str]:
    monkeypatch.setattr("sys.argv", ["gramian", "explain", *arguments])
    monkeypatch.setenv("COLUMNS", "100")
    with pytest.raises(SystemExit) as ended:
        main()
    got = capsys.readouterr()
    return int(ended.value.code or 0), got.out, got.err


def test_every_step_with_its_numbers(monkeypatch, capsys) -> None:
    code, out, _ = explain(monkeypatch, capsys)
    assert code == 0
    for place, step in enumerate(steps(), 1):
        assert f"{place:2}  {plain_text(step.rule)}: {plain_text(step.title)}\n" in out
        assert f"    {step.claim}\n" in out
    mistakes = sum(step.is_mistake for step in steps())
    assert mistakes == 5
    assert f"✓ {len(steps()) - mistakes} steps hold on these numbers; ✗ {mistakes} mistakes are refuted by them." in out
    assert len(re.findall(r"^    ✓ ", out, re.MULTILINE)) == len(steps()) - mistakes
    assert len(re.findall(r"^    ✗ Refuted: ", out, re.MULTILINE)) == mistakes
    assert "$" not in out
    setting = Setting(5, 2, 3)
    for row in setting.X:
        assert "  ".join(f"{x:8.4f}" for x in row.tolist()) in out


@pytest.mark.parametrize("penalty", PENALTIES)
def test_the_loss_comes_first(monkeypatch, capsys, penalty) -> None:
    code, out, _ = explain(monkeypatch, capsys, "--penalty", penalty, "--beta", "0.1")
    assert code == 0
    first, second = out.splitlines()[:2]
    assert first == f"The loss, penalty {penalty}"
    assert second.startswith("    L(Φ) = β Σ_i ")
    assert "∂L/∂Φ_ab = " in out.split("Step by step")[0]
    printed = re.search(r"The loss is\s+L = ([\d.]+)\.\n", out)
    loss = gramian.loss(Setting(5, 2, 3).phi, beta=0.1, penalty=penalty).item()
    assert float(printed[1]) == pytest.approx(loss, rel=1e-3)


def test_the_vector_that_was_asked_for(monkeypatch, capsys) -> None:
    code, out, _ = explain(monkeypatch, capsys, "--vector", "1", "2", "--beta", "0.1")
    assert code == 0
    line, numbers, result, values = re.findall(r"^    (∂L/∂Φ_.*)$", out.split("group 1")[1], re.MULTILINE)[:4]
    assert line == "∂L/∂Φ_ab = 2β Σ_j Φ_aj sign(Φ_ajᵀΦ_ab − δ_jb)"
    assert numbers == "∂L/∂Φ_1,2 = 2·0.1·(Φ_1,0·sign(0.0709) + Φ_1,1·sign(−0.0208) + Φ_1,2·sign(0.9151 − 1))"
    assert result == "∂L/∂Φ_1,2 = 0.2 Φ_1,0 − 0.2 Φ_1,1 − 0.2 Φ_1,2"
    printed = torch.tensor([float(x) for x in re.findall(r"-?\d\.\d{4}", values)]).double()
    expected = gramian.grad_vector(Setting(5, 2, 3).phi, 1, 2, beta=0.1)
    torch.testing.assert_close(printed, expected, atol=5e-5, rtol=0)
    assert "  0        0.0709       0     0.0709     1.0000  moves away from vector 0\n" in out
    assert "  2        0.9151       1    -0.0849    -1.0000  becomes longer\n" in out
    assert "In words: every vector j of group 1 has a weight G_jb, with b = 2: the sign of the difference" in out


def test_small_numbers_keep_their_digits(monkeypatch, capsys) -> None:
    code, out, _ = explain(monkeypatch, capsys, "--beta", "1e-5", "--vector", "0", "1")
    assert code == 0
    assert "Here β = 1·10⁻⁵" in out
    values = re.search(r"∂L/∂Φ_0,1 = \((.*)\)\n\n", out)[1]
    expected = gramian.grad_vector(Setting(5, 2, 3).phi, 0, 1, beta=1e-5)
    printed = torch.tensor([float(x) for x in values.split(", ")]).double()
    torch.testing.assert_close(printed, expected, atol=0, rtol=5e-3)


@pytest.mark.parametrize("width", ["40", "80", "200"])
def test_arrays_fit_the_screen(monkeypatch, capsys, width) -> None:
    monkeypatch.setattr("sys.argv", ["gramian", "explain", "--l", "14", "--n", "12"])
    monkeypatch.setenv("COLUMNS", width)
    with pytest.raises(SystemExit):
        main()
    out = capsys.readouterr().out
    arrays = [line for line in out.splitlines() if re.search(r"\d\.\d{4} …", line)]
    assert arrays
    assert all(len(line) <= int(width) for line in arrays)


@pytest.mark.parametrize("penalty", PENALTIES)
def test_latex_is_plain_and_balanced(penalty) -> None:
    setting = Setting(5, 2, 3, penalty, 1, 2)
    checked = list(derive(setting))
    text = as_latex(setting, checked, ByVector(setting))
    assert text.isascii()
    assert text.count("{") == text.count("}")
    assert text.count(r"\[") == text.count(r"\]")
    assert text.count(r"\item") == len(checked)
    assert text.count("$") % 2 == 0
    outside = re.sub(r"\\\[.*?\\\]|\$.*?\$|\\_", "", text)
    assert "_" not in outside  # an underscore outside a formula is an error
    assert "`" not in text
    for name in ("document", "enumerate", "tabular"):
        assert text.count(rf"\begin{{{name}}}") == text.count(rf"\end{{{name}}}") == 1


def test_a_fragment_is_the_document_without_its_frame(monkeypatch, capsys) -> None:
    code, whole, _ = explain(monkeypatch, capsys, "--latex")
    assert code == 0
    code, fragment, _ = explain(monkeypatch, capsys, "--latex", "--fragment")
    assert code == 0
    assert whole.startswith(r"\documentclass{article}")
    assert fragment.startswith("% Needs amsmath and amssymb.\n\\section*{The loss")
    body = fragment.split("\n", 1)[1]
    assert whole.endswith("\\begin{document}\n" + body + "\\end{document}\n")


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no pdflatex on the PATH")
@pytest.mark.parametrize(("penalty", "sizes"), [("l1", (5, 2, 3)), ("spectral", (20, 3, 12)), ("logdet", (1, 1, 1))])
def test_pdflatex_takes_the_document_and_the_fragment(tmp_path, penalty, sizes) -> None:
    setting = Setting(*sizes, penalty, beta=1e-3)
    checked = list(derive(setting))
    fragment = as_latex(setting, checked, ByVector(setting), fragment=True)
    (tmp_path / "whole.tex").write_text(as_latex(setting, checked, ByVector(setting)), encoding="ascii")
    (tmp_path / "part.tex").write_text(fragment, encoding="ascii")
    frame = r"\documentclass{book}\usepackage{amsmath,amssymb}\begin{document}\input{part}\end{document}"
    (tmp_path / "frame.tex").write_text(frame, encoding="ascii")
    for name in ("whole", "frame"):
        command = ["pdflatex", "-interaction=batchmode", "-halt-on-error", "-draftmode", f"{name}.tex"]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, timeout=120, check=False)
        log = (tmp_path / f"{name}.log").read_text(encoding="latin-1")
        assert done.returncode == 0, log[-2000:]
        assert "Missing character" not in log
        assert "Undefined control sequence" not in log
    assert "Overfull" not in (tmp_path / "whole.log").read_text(encoding="latin-1")


@pytest.mark.parametrize("form", ["--latex", "--markdown"])
def test_a_document_has_the_vector_that_was_asked_for(monkeypatch, capsys, form) -> None:
    code, out, _ = explain(monkeypatch, capsys, form, "--vector", "0", "1")
    assert code == 0
    part = out.split("The derivative with respect to vector 1 of group 0")[1].split("Step by step")[0]
    setting = Setting(5, 2, 3, "l1", 0, 1)
    assert ByVector(setting).formula in part
    assert r"\mathrm{sign}(" in part
    values = re.search(r"\\Phi_\{0,1\}\} = \((.*)\)", part)[1]
    expected = gramian.grad_vector(setting.phi, 0, 1)
    found = torch.tensor([float(x) for x in re.findall(r"-?\d+\.\d{4}", values)]).double()
    assert all((found - x).abs().min() <= 5e-5 for x in expected)
    assert "derivative with respect to vector" not in explain(monkeypatch, capsys, form)[1]


def every_formula() -> list[str]:
    """All formulas of all penalties, in lines and within sentences."""
    found = []
    for penalty in PENALTIES:
        written = formulas(penalty)
        found += [step.latex for step in steps(penalty)] + [written.loss, written.slope, written.group, written.vector]
        prose = [step.because for step in steps(penalty)] + [written.where, written.because, written.kink]
        found += [formula for text in prose for formula in re.findall(r"\$(.+?)\$", text)]
    return list(dict.fromkeys(found))


def test_every_bar_is_left_or_right() -> None:
    # MathML takes a bar without a side for an operator between two terms, and browsers draw it below the line.
    barred = [latex for latex in every_formula() if "|" in latex.replace(r"\|", "")]
    assert len(barred) >= 6
    for latex in barred:
        assert re.sub(r"\\left\|(.*?)\\right\|", "", latex).replace(r"\|", "").count("|") == 0


@pytest.mark.skipif(executable() is None, reason="no Chromium or Chrome on the PATH")
def test_bars_stand_on_the_line_in_a_browser(tmp_path) -> None:
    pytest.importorskip("latex2mathml")
    pytest.importorskip("pymdownx")
    spec = importlib.util.spec_from_file_location("mathml", PAGE.parents[1] / "hooks" / "mathml.py")
    mathml = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(mathml)
    page = tmp_path / "page.html"
    bare = mathml.convert(r"\bigl|Q^\top V\bigr|_{jk}", display="block")
    drawn = [mathml.fence(latex) for latex in every_formula() if r"\left|" in latex and r"\Phi" in latex]
    page.write_text("<!doctype html><meta charset=utf-8>" + "".join([bare, *drawn]), encoding="utf-8")
    # How far the middle of each bar is from the middle of the letter beside it, in heights of that letter.
    measure = """[...document.querySelectorAll('math')].map(math => Math.max(...[...math.querySelectorAll('mo')]
        .filter(each => each.textContent === '|').map(each => {
            const bar = each.getBoundingClientRect(), letters = [...math.querySelectorAll('mi')];
            const letter = letters.find(letter => 'QΦ'.includes(letter.textContent)).getBoundingClientRect();
            return Math.abs(bar.top + bar.bottom - letter.top - letter.bottom) / 2 / letter.height; })))"""
    with opened(executable(), tmp_path / "profile") as tab:
        tab.open(page)
        broken, *distances = tab.value(measure)
    assert len(distances) >= 2
    assert max(distances) < 0.2 < broken


def test_the_page_of_the_documentation_is_what_the_command_prints(monkeypatch, capsys) -> None:
    code, out, _ = explain(monkeypatch, capsys, "--markdown")
    assert code == 0
    assert out == PAGE.read_text(encoding="utf-8")
    setting = Setting(5, 2, 3)
    assert out == as_markdown(setting, list(derive(setting)))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--latex", "--markdown"), "the output must be LaTeX or Markdown; got both"),
        (("--fragment",), "--fragment must come with --latex; got no --latex; try --latex --fragment"),
        (("--beta", "0"), "beta must be positive"),
        (("--vector", "2", "0"), "one of 2 groups of 3, from 0; got group 2, vector 0"),
        (("--n", "0"), "l, m and n must be at least 1; got 5, 2, 0"),
        (("--l", "0"), "l, m and n must be at least 1; got 0, 2, 3"),
        (("--l", "10000000", "--m", "10000000"), "l·m·n must be at most 4096"),
        (("--n", "100"), "n³·max(l, n) at most 1048576"),
        (("--seed", str(2**70)), "the seed must be from -2⁶³ to 2⁶⁴ - 2; got 1180591620717411303424"),
        (("--penalty", "l3"), "l1"),
        (("--penalty", "logdet", "--n", "7"), "logdet is infinite for n > l"),
    ],
)
def test_mistakes(monkeypatch, capsys, arguments, message) -> None:
    code, out, err = explain(monkeypatch, capsys, *arguments)
    assert code == 2
    assert message in err
    assert not out
    assert "Traceback" not in err


def test_a_line_that_does_not_hold_is_an_error(monkeypatch, capsys) -> None:
    def broken(setting):
        line = next(iter(derive(setting)))
        return [dataclasses.replace(line, rhs=line.rhs + 1)]

    monkeypatch.setattr("gramian.cli.explain.command.derive", broken)
    code, out, err = explain(monkeypatch, capsys)
    assert code != 0
    assert "‼ This does not hold: the two sides differ by up to 1." in out
    assert "every step must hold; got numbers that contradict these on this machine: Definition: the Gram" in err
