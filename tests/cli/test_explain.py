"""`gramian explain`: what it prints, in its three forms, and the page of the documentation that it makes."""

import dataclasses
import importlib.util
import re
from pathlib import Path

import pytest
import torch

import gramian
from gramian.calculus import STEPS, Setting, derive
from gramian.cli import main
from gramian.cli.explain import as_latex, as_markdown
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
    assert "Φ[5, 2, 3] at random, seed 0; penalty l1" in out
    for number, step in enumerate(STEPS, 1):
        assert f"{number:2}  {step.title}" in out
        assert step.claim in out
    assert out.count("✓") == len(STEPS)
    assert "✗" not in out
    setting = Setting(5, 2, 3)
    for row in setting.X:
        assert "  ".join(f"{x:8.4f}" for x in row.tolist()) in out


def test_the_vector_that_was_asked_for(monkeypatch, capsys) -> None:
    code, out, _ = explain(monkeypatch, capsys, "--m", "3", "--vector", "2", "1", "--penalty", "huber", "--seed", "7")
    assert code == 0
    phi = Setting(5, 3, 3, seed=7).phi
    expected = gramian.grad_vector(phi, 2, 1, penalty="huber")
    printed = out.split("∂L/∂Φ_2,1 =\n")[1].split()
    torch.testing.assert_close(torch.tensor([float(x) for x in printed]).double(), expected, atol=5e-5, rtol=0)


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


def test_latex_is_plain_and_balanced() -> None:
    setting = Setting(5, 2, 3)
    text = as_latex(setting, list(derive(setting)), setting.phi[:, 0, 0])
    assert text.isascii()
    assert text.count("{") == text.count("}")
    assert text.count(r"\[") == text.count(r"\]") == text.count(r"\item") == len(STEPS) + 1
    assert text.count(r"\begin{enumerate}") == text.count(r"\end{enumerate}") == 1
    assert "_" not in re.sub(r"\\\[.*?\\\]|%.*", "", text)  # an underscore outside a formula is an error


@pytest.mark.parametrize("form", ["--latex", "--markdown"])
def test_a_document_ends_with_the_vector_that_was_asked_for(monkeypatch, capsys, form) -> None:
    code, out, _ = explain(monkeypatch, capsys, form, "--vector", "0", "1")
    assert code == 0
    _, end = out.split("By vector 1 of group 0")
    assert r"\frac{\partial L}{\partial \Phi_{0,1}}" in end
    printed = re.findall(r"-?\d+\.\d{4}", end)
    expected = gramian.grad_vector(Setting(5, 2, 3).phi, 0, 1)
    torch.testing.assert_close(torch.tensor([float(x) for x in printed]).double(), expected, atol=5e-5, rtol=0)
    assert "group a = 0, vector b = 1" in out
    assert "By vector 1 of" not in explain(monkeypatch, capsys, form)[1]


def test_every_bar_is_left_or_right() -> None:
    # MathML takes a bar without a side for an operator between two terms, and browsers draw it below the line.
    barred = [step.latex for step in STEPS if "|" in step.latex.replace(r"\|", "")]
    assert len(barred) >= 2
    for latex in barred:
        assert re.sub(r"\\left\|(.*?)\\right\|", "", latex).replace(r"\|", "").count("|") == 0


@pytest.mark.skipif(executable() is None, reason="no Chromium or Chrome on the PATH")
def test_bars_stand_on_the_line_in_a_browser(tmp_path) -> None:
    pytest.importorskip("latex2mathml")
    pytest.importorskip("pymdownx")
    spec = importlib.util.spec_from_file_location("mathml", PAGE.parents[1] / "mathml.py")
    mathml = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(mathml)
    page = tmp_path / "page.html"
    bare = mathml.convert(r"\bigl|Q^\top V\bigr|_{jk}", display="block")
    formulas = [mathml.fence(step.latex) for step in STEPS if r"\left|" in step.latex]
    page.write_text("<!doctype html><meta charset=utf-8>" + "".join([bare, *formulas]), encoding="utf-8")
    # How far the middle of each bar is from the middle of the letter beside it, in heights of that letter.
    measure = """[...document.querySelectorAll('math')].map(math => Math.max(...[...math.querySelectorAll('mo')]
        .filter(each => each.textContent === '|').map(each => {
            const bar = each.getBoundingClientRect(), letter = math.querySelector('msup mi').getBoundingClientRect();
            return Math.abs(bar.top + bar.bottom - letter.top - letter.bottom) / 2 / letter.height; })))"""
    with opened(executable(), tmp_path / "profile") as tab:
        tab.open(page)
        broken, *drawn = tab.value(measure)
    assert len(drawn) >= 2
    assert max(drawn) < 0.2 < broken


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

    monkeypatch.setattr("gramian.cli.explain.derive", broken)
    code, out, err = explain(monkeypatch, capsys)
    assert code != 0
    assert "✗ the two sides differ by at most 1.0e+00" in out
    assert "every step must hold; got numbers that contradict these on this machine: The residual" in err
