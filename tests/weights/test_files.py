"""Weights in files: what is read, what is written, and that damaged and hostile files do no harm."""

import json
import os
import pickle
import random
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import gramian
from gramian.cli import main
from gramian.errors import LayoutError, OptionError, WeightsError
from gramian.weights import open_weights, orthogonalize_file

FIRST = {"a.weight": (4, 12), "conv": (6, 3, 3, 3), "bias": (7,), "embed.weight": (20, 4)}


def tensors(dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    by_name = {name: torch.randn(shape, generator=generator).to(dtype) for name, shape in FIRST.items()}
    return by_name | {"count": torch.arange(5)}


def sharded(folder: Path) -> Path:
    held = tensors()
    first, second = (
        {name: held[name] for name in names} for names in (("a.weight", "count"), ("conv", "bias", "embed.weight"))
    )
    save_file(first, folder / "model-1.safetensors", {"format": "pt"})
    save_file(second, folder / "model-2.safetensors")
    placed = {name: f"model-{1 + (name in second)}.safetensors" for name in held}
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": placed}, indent=3))
    return index


def write(folder: Path, kind: str) -> Path:
    if kind == "sharded":
        return sharded(folder)
    path = folder / f"weights.{kind}"
    if kind == "safetensors":
        save_file(tensors(), path, {"trained": "by me", "step": "7"})
    elif kind == "npz":
        np.savez_compressed(path, **{name: each.numpy() for name, each in tensors().items()})
    else:
        torch.save({"model": tensors(), "epoch": 3}, path)
    return path


KINDS = ("safetensors", "sharded", "npz", "pt")
over_kinds = pytest.mark.parametrize("kind", KINDS)


def names_in(kind: str) -> dict[str, str]:
    return {name: f"model.{name}" if kind == "pt" else name for name in tensors()}


@over_kinds
def test_reading(kind, tmp_path) -> None:
    weights = open_weights(write(tmp_path, kind))
    held = tensors()
    assert {name: entry.shape for name, entry in weights.entries.items()} == {
        name: tuple(held[plain].shape) for plain, name in names_in(kind).items()
    }
    for plain, name in names_in(kind).items():
        assert torch.equal(weights.read(name), held[plain])


@over_kinds
def test_only_what_was_chosen_changes(kind, tmp_path) -> None:
    source = write(tmp_path, kind)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    target = tmp_path / ("out" if kind == "sharded" else f"out{source.suffix}")
    done, skipped = orthogonalize_file(source, target)
    left = {each.name: each.reason for each in skipped}
    assert {path: path.read_bytes() for path in before} == before
    names, held = names_in(kind), tensors()
    assert {each.name for each in done} == {names["a.weight"], names["conv"]}
    assert all(each.converged for each in done)
    assert "embedding" in left[names["embed.weight"]]
    rewritten = open_weights(target)
    assert list(rewritten.entries) == list(open_weights(source).entries)
    for plain, name in names.items():
        if name in left:
            assert torch.equal(rewritten.read(name), held[plain])
    rows = rewritten.read(names["a.weight"])
    torch.testing.assert_close(rows @ rows.T, torch.eye(4))
    filters = rewritten.read(names["conv"]).flatten(1)
    torch.testing.assert_close(filters @ filters.T, torch.eye(6))
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*(path.name for path in before), target.name])


def test_safetensors_keep_every_other_byte(tmp_path) -> None:
    source, target = write(tmp_path, "safetensors"), tmp_path / "out.safetensors"
    orthogonalize_file(source, target, select="a.weight")
    old, new = source.read_bytes(), target.read_bytes()
    length = int.from_bytes(old[:8], "little")
    begin, end = (8 + length + each for each in json.loads(old[8 : 8 + length])["a.weight"]["data_offsets"])
    assert old[:begin] == new[:begin]
    assert old[end:] == new[end:]
    assert old[begin:end] != new[begin:end]


def test_sharded_keep_their_index_and_other_shards(tmp_path) -> None:
    orthogonalize_file(sharded(tmp_path), tmp_path / "out", select="a.*")
    for name in ("model.safetensors.index.json", "model-2.safetensors"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / name).read_bytes()
    assert open_weights(tmp_path / "out").kind == "sharded"


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64], ids=str)
def test_dtypes_stay(dtype, tmp_path) -> None:
    save_file(tensors(dtype), tmp_path / "in.safetensors")
    done, _ = orthogonalize_file(tmp_path / "in.safetensors", tmp_path / "out.safetensors")
    assert all(each.converged for each in done)
    assert load_file(tmp_path / "out.safetensors")["conv"].dtype == dtype


def test_tied_tensors_of_a_pytorch_file_stay_tied(tmp_path) -> None:
    shared = torch.randn(4, 8)
    torch.save({"one": shared, "two": shared}, tmp_path / "in.pt")
    orthogonalize_file(tmp_path / "in.pt", tmp_path / "out.pt", select="one")
    rewritten = torch.load(tmp_path / "out.pt", weights_only=True)
    assert rewritten["one"].data_ptr() == rewritten["two"].data_ptr()


def test_a_whole_network_through_a_file(tmp_path) -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(), nn.Linear(32, 10))
    torch.save(model.state_dict(), tmp_path / "in.pt")
    orthogonalize_file(tmp_path / "in.pt", tmp_path / "out.pt")
    model.load_state_dict(torch.load(tmp_path / "out.pt", weights_only=True))
    assert all(row.statistics.largest < 1e-6 for row in gramian.inspect(model).rows)


class TestRefused:
    def test_what_exists_is_not_replaced_without_force(self, tmp_path) -> None:
        source = write(tmp_path, "npz")
        target = tmp_path / "out.npz"
        target.write_bytes(b"precious")
        for where in (target, source):
            with pytest.raises(WeightsError, match="--force"):
                orthogonalize_file(source, where)
        assert target.read_bytes() == b"precious"
        orthogonalize_file(source, target, force=True)
        assert "conv" in open_weights(target).entries
        orthogonalize_file(source, source, force=True)
        assert open_weights(source).read("count").tolist() == list(range(5))

    def test_missing(self, tmp_path) -> None:
        with pytest.raises(WeightsError, match="which does not exist"):
            open_weights(tmp_path / "no.safetensors")
        with pytest.raises(WeightsError, match="got 0 in"):
            open_weights(tmp_path)
        (tmp_path / "a.onnx").touch()
        with pytest.raises(WeightsError, match=r"one of .safetensors, .safetensors.index.json, .npz"):
            open_weights(tmp_path / "a.onnx")
        with pytest.raises(WeightsError, match=r"folder of .* must exist"):
            orthogonalize_file(write(tmp_path, "npz"), tmp_path / "nowhere" / "out.npz")

    def test_selecting(self, tmp_path) -> None:
        source = write(tmp_path, "safetensors")
        with pytest.raises(OptionError, match="every pattern in select must match"):
            orthogonalize_file(source, tmp_path / "out.safetensors", select="nothing")
        with pytest.raises(LayoutError, match="bias of shape"):
            orthogonalize_file(source, tmp_path / "out.safetensors", select="bias")
        with pytest.raises(
            OptionError, match=r"of a floating-point dtype to be orthogonalized; got count of dtype torch.int64"
        ):
            orthogonalize_file(source, tmp_path / "out.safetensors", select="count", layouts="a -> a () ()")
        assert not (tmp_path / "out.safetensors").exists()
        assert [path.name for path in tmp_path.iterdir()] == [source.name]

    def test_an_index_that_leads_elsewhere(self, tmp_path) -> None:
        index = sharded(tmp_path)
        placed = json.loads(index.read_text())
        for bad in ("../secret.safetensors", "/etc/passwd", "gone.safetensors", 3):
            placed["weight_map"]["conv"] = bad
            index.write_text(json.dumps(placed))
            with pytest.raises(WeightsError, match=r"index|must be a file beside it"):
                open_weights(index)
        placed["weight_map"]["conv"] = "model-1.safetensors"
        index.write_text(json.dumps(placed))
        with pytest.raises(WeightsError, match="which does not hold it"):
            open_weights(index)


class Exploit:
    def __reduce__(self):
        return os.mkdir, (str(Path(os.environ["GRAMIAN_TEST_FOLDER"]) / "owned"),)


def test_nothing_in_a_file_is_executed(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("GRAMIAN_TEST_FOLDER", str(tmp_path))
    torch.save({"weight": Exploit()}, tmp_path / "a.pt")
    (tmp_path / "b.pt").write_bytes(pickle.dumps({"weight": Exploit()}))
    np.savez(tmp_path / "c.npz", weight=np.array([Exploit()], dtype=object))
    for name in ("a.pt", "b.pt", "c.npz"):
        with pytest.raises(WeightsError):
            open_weights(tmp_path / name)
    assert not (tmp_path / "owned").exists()


@pytest.mark.filterwarnings("ignore:.*:UserWarning")  # in three steps nothing converges
@over_kinds
def test_damaged_files(kind, tmp_path) -> None:
    """Cut off anywhere, and with bytes changed anywhere: a clear error or a whole result, and nothing beside it."""
    source = write(tmp_path, kind)
    victim = tmp_path / "model-1.safetensors" if kind == "sharded" else source
    content = victim.read_bytes()
    draw = random.Random(0)
    damaged = [content[: draw.randrange(len(content))] for _ in range(15)] + [b""]
    for _ in range(40):
        changed = bytearray(content)
        for _ in range(draw.choice((1, 8))):
            # Mostly where the structure is: at the beginning, and at the end of archives.
            at = draw.choice(
                (draw.randrange(min(300, len(changed))), draw.randrange(len(changed)), -draw.randrange(1, 300))
            )
            changed[at] = draw.randrange(256)
        damaged.append(bytes(changed))
    target = tmp_path / ("out" if kind == "sharded" else f"out{source.suffix}")
    refused = 0
    for each in damaged:
        victim.write_bytes(each)
        there = sorted(path.name for path in tmp_path.iterdir())
        try:
            orthogonalize_file(source, target, max_steps=3)
        except gramian.GramianError:
            refused += 1
            assert sorted(path.name for path in tmp_path.iterdir()) == there
        assert victim.read_bytes() == each
        if target.is_dir():
            for path in target.iterdir():
                path.unlink()
            target.rmdir()
        target.unlink(missing_ok=True)
    assert refused >= 16


class TestTheCommands:
    @staticmethod
    def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", "from gramian.cli import main; main()", *arguments]
        return subprocess.run(
            command, cwd=folder, capture_output=True, text=True, check=False, env={**os.environ, "COLUMNS": "200"}
        )

    def test_inspect_and_orthogonalize(self, tmp_path) -> None:
        write(tmp_path, "safetensors")
        done = self.run(tmp_path, "orthogonalize", "weights.safetensors", "-o", "out.safetensors", "--select", "a.*")
        assert done.returncode == 0, done.stderr
        assert re.search(r"a\.weight +12 × 1 × 4 +\d+ +\S+e-0[789]", done.stdout), done.stdout
        assert "kept as they are: 4 not selected" in done.stdout
        inspected = self.run(tmp_path, "inspect", "weights.safetensors", "out.safetensors")
        assert inspected.returncode == 0, inspected.stderr
        assert re.search(r"a\.weight +o i -> i \(\) o +12 × 1 × 4", inspected.stdout), inspected.stdout
        assert re.search(r"skipped: .*\d of 1 axes", inspected.stdout), inspected.stdout
        plain = self.run(tmp_path, "inspect", "out.safetensors", "--json", "--layout", "a.*=(m n) i -> i m n; n=2")
        rows = json.loads(plain.stdout)["out.safetensors"]["parameters"]
        row = next(each for each in rows if each["name"] == "a.weight")
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
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1
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

    def test_the_exit_status_if_a_tensor_does_not_converge(self, tmp_path, monkeypatch, capsys) -> None:
        save_file({"good": torch.eye(3, 5), "[bad]": torch.ones(4, 8)}, tmp_path / "a.safetensors")
        monkeypatch.chdir(tmp_path)
        command = ("orthogonalize", "a.safetensors", "-o", "b.safetensors", "--max-steps", "5")
        assert self.main(monkeypatch, *command) == 1
        printed = capsys.readouterr()
        assert printed.err.startswith("gramian: warning: [bad] in a.safetensors")
        assert printed.err.count("\n") == 1
        assert "written to b.safetensors" in printed.out
        assert "[bad]" in printed.out
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
            printed = capsys.readouterr().out
            joined = re.sub(r"\s", "", printed)
            for name in names[1:]:
                assert name in joined
            pieces = iter(joined)
            assert all(letter in pieces for letter in names[0])
            assert "5×1×3" in joined
            assert "…" not in printed
            if command[0] == "inspect":
                assert path.name in joined
                assert printed.count("3.0e+00") == 3
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
