"""The commands inspect and orthogonalize: what they print, write and refuse."""

import json
import re
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from gramian.cli import main
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

    @pytest.mark.parametrize("columns", [20, 40, 60, 79, 80, 120])
    def test_names_and_numbers_at_any_width(self, columns, tmp_path, monkeypatch, capsys) -> None:
        names = ("model.layers.11.self_attn.q_proj.weight", "[red]w[/]", "w")
        path = tmp_path / "[bold]x[red].safetensors"
        save_file({name: torch.eye(3, 5) * 2 for name in names}, path)
        monkeypatch.setenv("COLUMNS", str(columns))
        monkeypatch.chdir(tmp_path)
        for command in (("inspect", path.name), ("orthogonalize", path.name, "-o", "[out].safetensors")):
            assert self.main(monkeypatch, *command) == 0
            said = capsys.readouterr().out
            joined = re.sub(r"\s", "", said)
            for name in names[1:]:
                assert name in joined
            pieces = iter(joined)
            assert all(letter in pieces for letter in names[0])
            assert "5×1×3" in joined
            assert "…" not in said
            if command[0] == "inspect":
                assert path.name in joined
                assert said.count("3.0e+00") == 3
            else:
                assert "writtento[out].safetensors" in joined

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
