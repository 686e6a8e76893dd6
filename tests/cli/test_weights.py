"""The commands inspect and orthogonalize: what they print, write and refuse."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from gramian.cli import main
from gramian.inspection.table import COLUMNS
from tests.weights.files import write


class TestTheCommands:
    def test_inspect_and_orthogonalize(self, command, tmp_path) -> None:
        write(tmp_path, "safetensors")
        done = command("orthogonalize", "weights.safetensors", "-o", "out.safetensors", "--select", "a.*")
        assert done.code == 0, done.err
        assert re.search(r"a\.weight +12 × 1 × 4 +\d+ +\S+e-0[789]", done.out), done.out
        assert "kept as they are: 4 not selected" in done.out
        shown = command("inspect", "weights.safetensors", "out.safetensors")
        assert shown.code == 0, shown.err
        assert re.search(r"a\.weight +o i -> i \(\) o +12 × 1 × 4", shown.out), shown.out
        assert re.search(r"skipped: .*\d of 1 axes", shown.out), shown.out
        plain = command("inspect", "out.safetensors", "--json", "--layout", "a.*=(m n) i -> i m n; n=2")
        rows = json.loads(plain.out)["out.safetensors"]["parameters"]
        row = next(row for row in rows if row["name"] == "a.weight")
        assert row["groups"] == [12, 2, 2]
        assert row["statistics"]["largest"] < 1e-6

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["inspect", "none.npz"], "weights must be an existing file"),
            (["inspect", "weights.npz", "--layout", "o i"], "--layout must be GLOB=PATTERN"),
            (["inspect", "weights.npz", "--layout", "a.*=(m n) i -> i m n; n=x"], "sizes of a layout must be like"),
            (["orthogonalize", "weights.npz", "-o", "weights.npz"], "--force to replace it"),
            (["orthogonalize", "weights.npz", "-o", "out.npz", "--rule", "magic"], "rule must be one of"),
        ],
    )
    def test_bad_input(self, arguments, message, tmp_path, monkeypatch, capsys) -> None:
        write(tmp_path, "npz")
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", ["gramian", *arguments])
        with pytest.raises(SystemExit) as stopped:
            main()
        assert stopped.value.code == 2
        said = capsys.readouterr().err
        assert message in said
        assert said.count("\n") == 1
        assert not (tmp_path / "out.npz").exists()

    def main(self, monkeypatch, *arguments: str) -> int:
        monkeypatch.setattr(sys, "argv", ["gramian", *arguments])
        with pytest.raises(SystemExit) as stopped:
            main()
        return stopped.value.code

    def test_a_page_replaces_nothing_unasked(self, tmp_path, monkeypatch, capsys) -> None:
        for kind in ("npz", "safetensors"):
            write(tmp_path, kind)
        monkeypatch.chdir(tmp_path)
        Path("notes.html").write_text("precious")
        Path("link.html").symlink_to("weights.npz")
        before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
        for arguments, message in (
            (("weights.npz", "--html", "weights.npz"), "must end in .html"),
            (("--html", "weights.npz", "weights.safetensors"), "must end in .html"),
            (("--html", "weights.npz", "weights.safetensors", "--force"), "must end in .html"),
            (("weights.npz", "--html", "notes.html"), "exists already; try another name, or --force"),
            (("weights.npz", "--html", "link.html", "--force"), "must not be a file that is read"),
            (("weights.npz", "--html", "nowhere/a.html"), "folder of nowhere/a.html must exist"),
        ):
            assert self.main(monkeypatch, "inspect", *arguments) == 2
            assert message in capsys.readouterr().err
            assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
        assert self.main(monkeypatch, "inspect", "weights.npz", "--html", "notes.html", "--force") == 0
        assert "<html" in Path("notes.html").read_text()

    def test_the_exit_status_tells_of_what_did_not_converge(self, tmp_path, monkeypatch, capsys) -> None:
        save_file({"good": torch.eye(3, 5), "[bad]": torch.ones(4, 8)}, tmp_path / "a.safetensors")
        monkeypatch.chdir(tmp_path)
        command = ("orthogonalize", "a.safetensors", "-o", "b.safetensors", "--max-steps", "5")
        assert self.main(monkeypatch, *command) == 1
        said = capsys.readouterr()
        assert said.err.startswith("gramian: warning: [bad] in a.safetensors")
        assert said.err.count("\n") == 1
        assert "written to b.safetensors" in said.out
        assert "[bad]" in said.out
        assert set(load_file("b.safetensors")) == {"good", "[bad]"}
        assert self.main(monkeypatch, *command, "--select", "good", "--force") == 0

    @pytest.mark.parametrize("columns", [20, 40, 60, 79, 80, 140])
    def test_names_and_numbers_at_any_width(self, columns, tmp_path, monkeypatch, capsys) -> None:
        names = ("model.layers.11.self_attn.q_proj.weight", "[red]w[/]", "w")
        path = tmp_path / "[bold]x[red].safetensors"
        save_file({name: torch.eye(3, 5) * 2 for name in names}, path)
        monkeypatch.setenv("COLUMNS", str(columns))
        monkeypatch.setenv("FORCE_COLOR", "1")  # as in a terminal
        monkeypatch.chdir(tmp_path)
        for command in (("inspect", path.name), ("orthogonalize", path.name, "-o", "[out].safetensors")):
            assert self.main(monkeypatch, *command) == 0
            said = re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out)
            joined = re.sub(r"\s", "", said)
            for name in names[1:]:
                assert name in joined
            pieces = iter(joined)
            assert all(letter in pieces for letter in names[0])
            assert "5×1×3" in joined
            assert "…" not in said
            if command[0] == "inspect":
                assert max(map(len, said.splitlines())) <= columns
                assert path.name in joined
                assert said.count("3.0e+00") == 3
                assert said.count("1.0e+00") == 3
                assert ("oi->i()o" in joined) == (columns in (20, 40, 60, 140))
            else:
                assert "writtento[out].safetensors" in joined

    @pytest.mark.parametrize("columns", ["40", "80"])
    def test_a_row_is_a_line_in_a_pipe(self, columns, command, tmp_path, monkeypatch) -> None:
        monkeypatch.setenv("COLUMNS", columns)
        name = "model." + "layers." * 30 + "weight"
        save_file({name: torch.randn(3, 5), **{f"b{i}": torch.ones(i) for i in range(9)}}, tmp_path / "a.safetensors")
        self.check_lines(command("inspect", "a.safetensors").out, name)

    @pytest.mark.slow
    def test_a_pipe_of_a_shell(self, tmp_path) -> None:
        name = "model." + "layers." * 30 + "weight"
        save_file({name: torch.randn(3, 5), "b": torch.randn(3)}, tmp_path / "a.safetensors")
        script = Path(sys.executable).with_name("gramian")
        environment = {key: value for key, value in os.environ.items() if key not in ("COLUMNS", "FORCE_COLOR")}
        done = subprocess.run(
            f"{script} inspect a.safetensors | cat",
            shell=True, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True,
        )  # fmt: skip
        self.check_lines(done.stdout, name)

    def check_lines(self, printed: str, name: str) -> None:
        path, header, row, skipped = filter(None, printed.splitlines())
        assert path == "a.safetensors"
        assert re.split(" {2,}", header) == list(COLUMNS)
        cells = re.split(" {2,}", row)
        assert cells[:3] == [name, "o i -> i () o", "5 × 1 × 3"]
        assert len(cells) == len(COLUMNS)
        assert skipped.startswith("skipped: ")

    def test_exclude(self, command, tmp_path) -> None:
        write(tmp_path, "safetensors")
        shown = command("inspect", "weights.safetensors", "--exclude", "a.*", "--json")
        content = json.loads(shown.out)["weights.safetensors"]
        assert [row["name"] for row in content["parameters"]] == ["conv"]
        assert content["skipped"]["a.weight"] == "excluded"
        done = command("orthogonalize", "weights.safetensors", "-o", "out.safetensors", "--exclude", "conv")
        assert done.code == 0, done.err
        assert "conv" not in done.out
        assert "1 excluded" in done.out

    def test_before(self, command, tmp_path) -> None:
        write(tmp_path, "safetensors")
        assert command("orthogonalize", "weights.safetensors", "-o", "out.safetensors", "--select", "a.*").code == 0
        held = load_file("out.safetensors")
        save_file({"a.weight": held["a.weight"], "new": torch.randn(3, 5)}, "after.safetensors")
        both = ("inspect", "after.safetensors", "--before", "weights.safetensors")
        shown = command(*both, "--html", "page.html")
        assert shown.code == 0, shown.err
        lines = shown.out.splitlines()
        assert lines[0] == "weights.safetensors → after.safetensors"
        assert re.match(r"a\.weight +o i -> i \(\) o +12 × 1 × 4 +\S+ → \S+e-0[789] ", lines[2])
        assert lines[3:5] == ["new: only after", "conv: only before"]
        content = json.loads(command(*both, "--json").out)
        assert (content["before"], content["after"]) == ("weights.safetensors", "after.safetensors")
        (row,) = content["parameters"]
        assert row["differences"]["coherence"] == row["after"]["coherence"] - row["before"]["coherence"] < 0
        assert content["unmatched"] == {"new": "only after", "conv": "only before"}
        page = Path("page.html").read_text(encoding="utf-8")
        assert page.count("<h2>") == 3
        assert page.count("<h3 id=") == 4
        several = command("inspect", "after.safetensors", "out.safetensors", "--before", "weights.safetensors")
        assert several.code == 2
        assert "--before must be compared with one file; got 2" in several.err

    def test_a_page(self, tmp_path, monkeypatch, capsys) -> None:
        write(tmp_path, "npz")
        write(tmp_path, "safetensors")
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(
            sys, "argv", ["gramian", "inspect", "weights.npz", "weights.safetensors", "--html", "a.html"]
        )
        with pytest.raises(SystemExit) as stopped:
            main()
        assert stopped.value.code == 0
        assert "pictures are in a.html" in capsys.readouterr().out
        page = (tmp_path / "a.html").read_text(encoding="utf-8")
        assert page.count("<h2>") == 2
        assert page.count("<h3 id=") == 4
