"""Formulas of the site: LaTeX in, MathML out. The converter is installed by `make docs`."""

import re
from types import SimpleNamespace

import pytest

from tests.documentation.conftest import load

pytest.importorskip("latex2mathml", reason="the tools of the site are installed by `make docs`")
markdown = pytest.importorskip("markdown")
mathml = load("mathml")

ARITHMATEX = {"generic": True, "inline_syntax": ["dollar"], "block_syntax": []}


def html(text: str) -> str:
    extensions = ["pymdownx.arithmatex", "tables"]
    return markdown.markdown(text, extensions=extensions, extension_configs={"pymdownx.arithmatex": ARITHMATEX})


def page(*titles: str) -> SimpleNamespace:
    toc = [SimpleNamespace(title=title, children=[]) for title in titles]
    return SimpleNamespace(toc=toc, file=SimpleNamespace(src_uri="rules.md"))


def test_a_formula_within_a_line_becomes_mathml() -> None:
    text = mathml.on_page_content(html(r"The residual $X = P^\top P - I$ is zero."), page=page("Rules"))
    assert re.fullmatch(r"<p>The residual <math.*</math> is zero\.</p>", text)
    assert "<msup><mi>P</mi><mo>&#x022A4;</mo></msup>" in text


def test_characters_that_html_escapes_come_through() -> None:
    assert "<mo>&#x0003C;</mo>" in mathml.inline(html("$x < 1$"))


def test_a_table_holds_formulas() -> None:
    text = mathml.inline(html("| symbol | meaning |\n|---|---|\n| $X$ | $\\lvert x\\rvert \\le 1$ |"))
    assert text.count("<td><math") == 2


@pytest.mark.parametrize("text", ["It costs $5 or $10.", "`$HOME/$USER`", r"It costs \$5 and \$6."])
def test_a_dollar_is_no_formula(text) -> None:
    assert "<math" not in mathml.inline(html(text))


@pytest.mark.parametrize("bars", [r"\lvert x\rvert", r"\left|x\right|"])
def test_bars_say_which_side_they_close(bars) -> None:
    text = mathml.mathml(bars, "inline")
    assert re.search('form="prefix">&#x0007C;.*form="postfix">&#x0007C;', text)


def test_norms_say_which_side_they_close() -> None:
    text = mathml.mathml(r"\lVert X\rVert_F", "inline")
    assert re.search('form="prefix">&#x02016;.*form="postfix">&#x02016;', text)


def test_a_bare_bar_is_refused() -> None:
    with pytest.raises(mathml.FormulaError, match=r"must be written \\lvert or \\rvert; got '\|x\|'"):
        mathml.mathml("|x|", "inline")


@pytest.mark.parametrize("unknown", [r"\foo x", r"\begin{aligned} a &= b \end{aligned}"])
def test_what_the_converter_does_not_know_is_refused(unknown) -> None:
    with pytest.raises(mathml.FormulaError, match="must be known to latex2mathml"):
        mathml.mathml(unknown, "block")


@pytest.mark.parametrize("formula", [r"s \in [-1, 1]", "x = -2", r"\{-1\}", r"y \le -x"])
def test_a_minus_before_a_term_is_a_sign(formula) -> None:
    assert '<mo form="prefix">&#x02212;</mo>' in mathml.mathml(formula, "inline")
    assert '<mo form="prefix">&#x02212;</mo>' not in mathml.mathml("x - 2", "inline")


def test_names_of_functions_and_infinity_have_the_room_of_latex() -> None:
    assert '<mo lspace="0.17em" rspace="0">max</mo>' in mathml.mathml(r"\max(x, y)", "inline")
    assert '<mo lspace="0.17em" rspace="0.17em">max</mo>' in mathml.mathml(r"\max x", "inline")
    assert "<mi>&#x0221E;</mi>" in mathml.mathml(r"\eta = \infty", "inline")


def test_the_bar_of_a_root_does_not_touch_a_small_letter() -> None:
    assert mathml.mathml(r"\sqrt{n}", "inline").count('<mspace height="0.72em" /></msqrt>') == 1


def test_a_formula_stays_together_with_its_punctuation() -> None:
    assert re.search(
        r'<span class="together">\(<math.*</math>\),</span>', mathml.inline(html(r"see ($\beta = 1$), or"))
    )
    assert "together" not in mathml.inline(html(r"see $\beta = 1$ or"))


def test_limits_are_below_the_operator_in_a_formula_of_its_own() -> None:
    formula = mathml.mathml(r"\min_{Y_j} x_i + \max_k y", "block")
    assert re.findall(r"<munder>.*?</munder>", formula) == [
        '<munder><mo lspace="0.17em" rspace="0.17em">min</mo><mrow><msub><mi>Y</mi><mi>j</mi></msub></mrow></munder>',
        '<munder><mo lspace="0.17em" rspace="0.17em">max</mo><mi>k</mi></munder>',
    ]
    assert "<munder><mo>&#x02211;</mo>" in mathml.mathml(r"\left( \sum_i x \right)", "block")
    assert "<munder>" not in mathml.mathml(r"\min_Y x", "inline")


def test_bars_within_a_line_keep_the_height_of_the_line() -> None:
    assert 'stretchy="true"' not in mathml.mathml(r"\lVert X^\top\rVert_2", "inline")
    assert 'stretchy="true"' in mathml.mathml(r"\lVert X^\top\rVert_2", "block")


def test_an_error_names_the_page() -> None:
    with pytest.raises(mathml.FormulaError, match=r"rules\.md: a bar must be written"):
        mathml.on_page_content(html("$|x|$"), page=page("Rules"))


def test_a_heading_holds_no_formula() -> None:
    with pytest.raises(mathml.FormulaError, match=r"rules\.md: a heading must hold Unicode"):
        mathml.on_page_content("", page=page("Rules", r"Choosing \(\beta\)"))


def test_a_fence_is_a_formula_of_its_own() -> None:
    assert mathml.fence("A : B").startswith('<div class="formula"><math')
    with pytest.raises(mathml.SuperFencesException, match="must be written"):
        mathml.fence("|x|")
