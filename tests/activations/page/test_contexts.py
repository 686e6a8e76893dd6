"""Samples as text: tokens in context, patches, numbers, and what cannot be printed."""

import pytest

from gramian.activations import Place
from gramian.activations.page.contexts import readable, sample_table


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a\nb\r\tc", "a⏎b⏎⇥c"),
        ("\x00\x1b[31m", "\\x00\\x1b[31m"),
        ("\u202egnp.exe\u2066", "\\u202egnp.exe\\u2066"),
        ("\ud83d lone", "\\ud83d lone"),
        ("日本 é 😀", "日本 é 😀"),
    ],
)
def test_readable(text, expected) -> None:
    assert readable(text) == expected


def test_tokens_in_context() -> None:
    text = "x" * 100 + " the token " + "y" * 100
    table = sample_table([Place(3, 7, text, span=(105, 110)), Place(4, 0, "short", span=None)], kind="tokens")
    assert table["document"] == [3, 4]
    assert table["position"] == [7, 0]
    assert table["token"] == ["token", ""]
    assert table["before"] == ["…" + "x" * 51 + " the ", ""]
    assert table["after"] == [" " + "y" * 43 + "…", "short"]


def test_patches() -> None:
    places = [Place(0, 5, "a/b.png", patch=(1, 1), grid=(4, 4)), Place(1, 0, "", patch=None)]
    table = sample_table(places, kind="patches")
    assert table["names"] == {"0": "a/b.png"}
    assert table["patch"] == [[1, 1, 4, 4], None]
    assert "token" not in table


def test_without_contexts_there_are_only_numbers() -> None:
    assert sample_table([Place(8, 0)], kind="rows") == {"kind": "rows", "document": [8], "position": [0]}
    assert sample_table([], kind="tokens") == {"kind": "tokens", "document": [], "position": []}


def test_long_tokens_are_shortened() -> None:
    table = sample_table([Place(0, 0, "z" * 500, span=(0, 500))], kind="tokens")
    assert len(table["token"][0]) == 61
