"""Texts from files: every format, and what is no text."""

import json

import pytest

from gramian.activations.recording import texts
from gramian.activations.recording.texts import batched, files_of, read_texts
from gramian.errors import DataError, MissingExtraError, OptionError

TEXTS = ["one", "two  words", "zażółć 日曜日"]


def test_lines(tmp_path) -> None:
    (tmp_path / "a.txt").write_bytes("one\r\n\n  \ntwo  words\nzażółć 日曜日".encode())
    assert list(read_texts([tmp_path / "a.txt"])) == TEXTS


def test_json_lines(tmp_path) -> None:
    rows = [{"text": TEXTS[0], "id": 1}, TEXTS[1], {"text": None}, {"text": TEXTS[2]}]
    (tmp_path / "a.jsonl").write_text("\n".join(json.dumps(row) for row in rows) + "\n\n")
    assert list(read_texts([tmp_path / "a.jsonl"])) == TEXTS
    (tmp_path / "b.jsonl").write_text(json.dumps({"body": "one"}))
    assert list(read_texts([tmp_path / "b.jsonl"], field="body")) == ["one"]
    with pytest.raises(OptionError, match=r"line 1 of .*b\.jsonl must have the field 'text'; got 'body'; try --field"):
        list(read_texts([tmp_path / "b.jsonl"]))
    for content, words in (
        ("{", "line 1 of .* must be JSON"),
        ("[3]", "must be a text or an object"),
        ("3", "got int"),
    ):
        (tmp_path / "b.jsonl").write_text(content)
        with pytest.raises(DataError, match=words):
            list(read_texts([tmp_path / "b.jsonl"]))


def test_parquet(tmp_path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    path = tmp_path / "a.parquet"
    parquet.write_table(pyarrow.table({"text": [*TEXTS, None, ""], "number": [1, 2, 3, 4, 5]}), path)
    assert list(read_texts([path])) == TEXTS
    with pytest.raises(OptionError, match="must have the column 'body'; got 'text', 'number'"):
        list(read_texts([path], field="body"))
    with pytest.raises(DataError, match=r"the column 'number' of .* must be texts; got int"):
        list(read_texts([path], field="number"))
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(DataError, match="must be a whole Parquet file; got"):
        list(read_texts([path]))


def test_parquet_without_pyarrow(tmp_path, monkeypatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(MissingExtraError, match=r"Parquet files needs pyarrow.*pip install 'gramian\[activations\]'"):
        list(read_texts([tmp_path / "a.parquet"]))


def test_long_lines_are_cut_and_other_bytes_refused(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(texts, "_LONGEST_LINE", 8)
    (tmp_path / "a.txt").write_text("abcdefgéijklmnopqrstuvw\nshort\n")
    assert list(read_texts([tmp_path / "a.txt"])) == ["abcdefg", "short"]
    (tmp_path / "a.txt").write_bytes(b"caf\xe9\n")
    with pytest.raises(DataError, match=r"a\.txt must be text in UTF-8; got other bytes"):
        list(read_texts([tmp_path / "a.txt"]))


def test_files_of_a_folder(tmp_path) -> None:
    (tmp_path / "b").mkdir()
    for name in ("c.txt", "b/a.TXT", "b/x.png", "a.jsonl"):
        (tmp_path / name).touch()
    files = files_of(tmp_path, (".txt", ".jsonl"), kind="texts")
    assert [file.name for file in files] == ["a.jsonl", "a.TXT", "c.txt"]
    assert files_of(tmp_path / "c.txt", (".txt",), kind="texts") == [tmp_path / "c.txt"]
    for name in ("missing.txt", "b/x.png"):
        with pytest.raises(DataError, match=r"inputs must be texts \(\.txt\), or a folder of them; got"):
            files_of(tmp_path / name, (".txt",), kind="texts")


def test_batches() -> None:
    assert list(batched(range(5), 2)) == [[0, 1], [2, 3], [4]]
