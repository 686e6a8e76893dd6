"""Cells of tables have room for their text in at most two lines."""

import textwrap

import pytest

from tests.documentation.conftest import load

tables = load("tables")


@pytest.mark.parametrize(
    "text",
    [
        "steps without activity after which a group may be replaced, in the first three quarters of the steps",
        "resnet.encoder.stages.*.layers.*.shortcut.convolution.weight",
        "a file of weights, with --arch timm:NAME or --arch torchvision:NAME",
        "largest learning rate; number of steps in which it rises from 0",
    ],
)
def test_a_long_text_has_two_lines(text) -> None:
    assert len(textwrap.wrap(text, tables.width(text))) <= 2
    assert tables.width(text) < len(text) + 1


def test_a_short_cell_stays_on_one_line() -> None:
    assert tables.on_page_content("<td>0.52 ± 0.01</td>") == '<td style="white-space: nowrap">0.52 ± 0.01</td>'


def test_a_long_cell_keeps_its_style() -> None:
    text = tables.on_page_content('<td style="text-align: right;"><code>' + "word " * 20 + "</code></td>")
    assert text.startswith('<td style="text-align: right; min-width: ')


def test_what_is_no_cell_stays() -> None:
    assert tables.on_page_content("<tr><thead>") == "<tr><thead>"
