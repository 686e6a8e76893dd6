"""Indices of the formulas in docstrings are subscripts in the pages of the API, and names of the code are not."""

from types import SimpleNamespace

import pytest

from tests.documentation.conftest import load

indices = load("indices")


def page(address: str) -> SimpleNamespace:
    return SimpleNamespace(file=SimpleNamespace(src_uri=address))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Σ_jk |X_jk|", "Σ<sub>jk</sub> |X<sub>jk</sub>|"),
        ("2βΦ_iG_i, and ‖X‖_F", "2βΦ<sub>i</sub>G<sub>i</sub>, and ‖X‖<sub>F</sub>"),
        ("Φ_iᵀΦ_i − I|_jk", "Φ<sub>i</sub>ᵀΦ<sub>i</sub> − I|<sub>jk</sub>"),
        ("C_τw(X), prox_{τμ}(X)", "C<sub>τw</sub>(X), prox<sub>τμ</sub>(X)"),
        ("max_{j≠k}|X_jk|", "max<sub>j≠k</sub>|X<sub>jk</sub>|"),
        ("2^{n−1} · Π_{k=1}", "2<sup>n−1</sup> · Π<sub>k=1</sub>"),
        ("λw_i a_i", "λw<sub>i</sub> a<sub>i</sub>"),
    ],
)
def test_an_index_is_below_the_line(text, expected) -> None:
    assert indices.on_page_content(f"<p>{text}</p>", page=page("api/gramian.md")) == f"<p>{expected}</p>"


@pytest.mark.parametrize(
    "text",
    [
        "<p>log_prob, to_phi, group_l0 and layers.0.self_attn.q_proj.weight; step_ of x_</p>",
        "<p><code>X_jk</code></p>",
        '<h2 id="a_b">K_mn</h2>',
        '<p><a href="x_i.html">here</a></p>',
        '<div class="highlight"><pre><span></span><code>&gt;&gt;&gt; X_jk\n</code></pre></div>',
    ],
)
def test_names_code_and_addresses_stay(text) -> None:
    assert indices.on_page_content(text, page=page("api/gramian.md")) == text


def test_a_block_with_a_formula_is_no_program() -> None:
    block = '<div class="highlight"><pre><span></span><code>vol(V) = Π_k a(k)\n</code></pre></div>'
    expected = '<div class="formula unicode">vol(V) = Π<sub>k</sub> a(k)</div>'
    assert indices.on_page_content(block, page=page("api/gramian.md")) == expected


def test_other_pages_stay() -> None:
    assert indices.on_page_content("<p>X_jk</p>", page=page("rules.md")) == "<p>X_jk</p>"
