"""What a checkpoint holds beside weights is known and left alone; odd tensors and names are told apart."""

import pickle
import warnings
import zipfile
from collections.abc import Iterable

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from gramian.errors import DataError, WeightsError
from gramian.selection import SkippedParameter
from gramian.weights import open_weights, orthogonalize_file


def reasons(skipped: Iterable[SkippedParameter]) -> dict[str, str]:
    return {each.name: each.reason for each in skipped}


def trained() -> tuple[nn.Module, torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 4), nn.BatchNorm1d(4), nn.Linear(4, 4))
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-2)
    scheduler = torch.optim.lr_scheduler.StepLR(optimiser, 3)
    model(torch.randn(6, 8)).square().sum().backward()
    optimiser.step()
    scheduler.step()
    return model, optimiser, scheduler


def flat(state: dict) -> dict[str, torch.Tensor]:
    return {
        f"state.{number}.{slot}": each if each.ndim else each.reshape(1)
        for number, slots in state["state"].items()
        for slot, each in slots.items()
    }


def shapes_of_checkpoints() -> dict[str, object]:
    model, optimiser, scheduler = trained()
    weights, state, schedule = model.state_dict(), optimiser.state_dict(), scheduler.state_dict()
    return {
        "plain": {"state_dict": weights, "optimizer": state, "epoch": 3},
        "under another name": {"net": weights, "momenta": state, "plan": schedule},
        "lightning": {
            "state_dict": weights,
            "optimizer_states": [state],
            "lr_schedulers": [schedule],
            "callbacks": {"best": {"best_k": torch.randn(3, 3)}},
            "loops": {"fit": {"seen": torch.randn(2, 2)}},
            "pytorch-lightning_version": "2.4",
        },
        "fairseq": {"model": weights, "last_optimizer_state": state, "extra_state": {}, "optimizer_history": [{}]},
        "deepspeed": {"module": weights, "optimizer_state_dict": {"base_optimizer_state": state, "zero_stage": 0}},
        "slots alone": {"model": weights, "kept": state["state"]},
        "unknown slots": {"model": weights, "kept": {0: {"step": 3, "first": torch.randn(4, 8)}}},
        "flat": {**weights, **flat(state)},
    }


@pytest.mark.parametrize("kind", shapes_of_checkpoints())
def test_the_state_of_training_stays(kind, tmp_path) -> None:
    torch.save(shapes_of_checkpoints()[kind], tmp_path / "in.pt")
    weights = open_weights(tmp_path / "in.pt")
    assert len(weights.entries) == 9
    assert {each.reason for each in weights.skipped} <= {
        "state of an optimiser",
        "state of a scheduler",
        "state of a trainer",
    }
    done, skipped = orthogonalize_file(tmp_path / "in.pt", tmp_path / "out.pt")
    assert [each.name.rpartition(".")[0][-1] for each in done] == ["0", "2"]
    assert set(skipped) >= set(weights.skipped)
    before, after = (torch.load(tmp_path / name, weights_only=True) for name in ("in.pt", "out.pt"))
    names = {each.name for each in done}
    differing = {name for name, old, new in pairs(before, after) if not torch.equal(old, new)}
    assert differing == names


def pairs(first, second, name=""):
    if isinstance(first, torch.Tensor):
        yield name, first, second
    elif isinstance(first, (dict, list)):
        for key in first if isinstance(first, dict) else range(len(first)):
            yield from pairs(first[key], second[key], f"{name}.{key}" if name else str(key))


def test_training_goes_on_from_a_rewritten_checkpoint(tmp_path) -> None:
    model, optimiser, _ = trained()
    torch.save({"state_dict": model.state_dict(), "optimizer": optimiser.state_dict()}, tmp_path / "in.pt")
    orthogonalize_file(tmp_path / "in.pt", tmp_path / "out.pt")
    rewritten = torch.load(tmp_path / "out.pt", weights_only=True)
    model.load_state_dict(rewritten["state_dict"])
    optimiser.load_state_dict(rewritten["optimizer"])
    model(torch.randn(6, 8)).square().sum().backward()
    optimiser.step()
    assert all(bool(torch.isfinite(each).all()) for each in model.parameters())


def test_a_file_of_nothing_but_an_optimiser(tmp_path) -> None:
    torch.save(trained()[1].state_dict(), tmp_path / "optimizer.pt")
    with pytest.raises(WeightsError, match="must hold weights; got state of an optimiser"):
        open_weights(tmp_path / "optimizer.pt")


def test_names_that_are_one_when_dotted(tmp_path) -> None:
    torch.manual_seed(0)
    first, second = torch.randn(3, 5), torch.randn(4, 6)
    torch.save({"a.b": first, "a": {"b": second}}, tmp_path / "in.pt")
    weights = open_weights(tmp_path / "in.pt")
    assert {name: entry.shape for name, entry in weights.entries.items()} == {"a.b": (3, 5), "a.b (2)": (4, 6)}
    orthogonalize_file(tmp_path / "in.pt", tmp_path / "out.pt")
    rewritten = torch.load(tmp_path / "out.pt", weights_only=True)
    for rows in (rewritten["a.b"], rewritten["a"]["b"]):
        torch.testing.assert_close(rows @ rows.T, torch.eye(len(rows)))


def test_odd_tensors_stay(tmp_path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        odd = {
            "meta": torch.empty(3, 4, device="meta"),
            "sparse": torch.eye(4).to_sparse(),
            "rows": torch.eye(4).to_sparse_csr(),
            "expanded": torch.randn(4, 1).expand(4, 5),
            "list": [torch.randn(2, 2)],
        }
        torch.save(
            {"w": torch.randn(3, 5), **odd, "again": {"w": torch.ones(2, 2, dtype=torch.int8)}}, tmp_path / "a.pt"
        )
    done, skipped = orthogonalize_file(tmp_path / "a.pt", tmp_path / "b.pt")
    assert [each.name for each in done] == ["w"]
    assert reasons(skipped) == {
        "meta": "without numbers, on the meta device",
        "sparse": "of layout sparse_coo",
        "rows": "of layout sparse_csr",
        "expanded": "with entries that share their memory",
        "list.0": "in a list, without a name",
        "again.w": "of dtype torch.int8",
    }


def test_tied_and_overlapping_tensors_are_changed_once(tmp_path) -> None:
    torch.manual_seed(0)
    held = torch.randn(4, 8)
    torch.save({"one": held, "two": held, "part": held[:2], "across": held.T}, tmp_path / "a.pt")
    done, skipped = orthogonalize_file(tmp_path / "a.pt", tmp_path / "b.pt")
    assert [each.name for each in done] == ["one"]
    assert reasons(skipped) == dict.fromkeys(("two", "part", "across"), "in the memory of one")
    rewritten = torch.load(tmp_path / "b.pt", weights_only=True)
    torch.testing.assert_close(rewritten["across"].T @ rewritten["two"].T, torch.eye(4))


@pytest.mark.parametrize("kind", ["safetensors", "npz", "pt"])
def test_tensors_without_fractions_stay(kind, tmp_path) -> None:
    held = {"w": torch.randn(3, 5), "i": torch.ones(3, 3, dtype=torch.int32), "b": torch.ones(2, 2, dtype=torch.bool)}
    source, target = tmp_path / f"a.{kind}", tmp_path / f"b.{kind}"
    if kind == "npz":
        np.savez(source, text=np.array([["a", "b"]]), **{name: each.numpy() for name, each in held.items()})
    elif kind == "pt":
        torch.save(held | {"f8": torch.ones(3, 3).to(torch.float8_e4m3fn)}, source)
    else:
        save_file(held | {"f8": torch.ones(3, 3).to(torch.float8_e4m3fn)}, source)
    for select in (None, "*"):
        done, skipped = orthogonalize_file(source, target, select=select, force=True)
        assert [each.name for each in done] == ["w"]
        assert reasons(skipped)["i"] == "of dtype torch.int32"
        assert reasons(skipped)["b"] == "of dtype torch.bool"
        assert len(skipped) == 3
        open_weights(target)


def test_order_and_bytes_of_arrays_stay(tmp_path) -> None:
    array = np.asfortranarray(np.random.default_rng(0).normal(size=(3, 5))).astype(">f8", order="F")
    np.savez(tmp_path / "a.npz", w=array)
    orthogonalize_file(tmp_path / "a.npz", tmp_path / "b.npz")
    rewritten = np.load(tmp_path / "b.npz")["w"]
    assert rewritten.dtype == array.dtype
    assert rewritten.flags.f_contiguous
    np.testing.assert_allclose(rewritten @ rewritten.T, np.eye(3), atol=1e-12)


def test_an_array_that_promises_a_terabyte(tmp_path) -> None:
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive, archive.open("w.npy", "w") as file:
        np.lib.format.write_array_header_1_0(
            file, {"descr": "<f8", "fortran_order": False, "shape": (400_000, 400_000)}
        )
        file.write(b"0" * 64)
    with pytest.raises(WeightsError, match=r"w\.npy in .* must hold the 1280000000000 bytes of its shape"):
        open_weights(tmp_path / "a.npz")


def test_a_tensor_that_is_not_finite_is_named(tmp_path) -> None:
    held = {"good": torch.eye(3), "layer.bad": torch.full((3, 4), torch.nan)}
    save_file(held, tmp_path / "a.safetensors")
    with pytest.raises(DataError, match=r"^layer\.bad in .*a\.safetensors: phi must be finite"):
        orthogonalize_file(tmp_path / "a.safetensors", tmp_path / "b.safetensors")
    assert [path.name for path in tmp_path.iterdir()] == ["a.safetensors"]


def test_what_does_not_converge_is_named_and_written(tmp_path) -> None:
    save_file({"layer.w": torch.ones(4, 8)}, tmp_path / "a.safetensors")
    with pytest.warns(UserWarning, match=r"^layer\.w in .*a\.safetensors"):
        (done,), _ = orthogonalize_file(tmp_path / "a.safetensors", tmp_path / "b.safetensors", max_steps=5)
    assert not done.converged
    assert load_file(tmp_path / "b.safetensors")["layer.w"].shape == (4, 8)


@pytest.mark.parametrize("how", ["zip", "legacy", "pickle", "script"])
def test_pickled_models_are_refused(how, tmp_path) -> None:
    path = tmp_path / "model.pt"
    if how == "script":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.jit.save(torch.jit.script(nn.Linear(3, 3)), path)
    elif how == "pickle":
        path.write_bytes(pickle.dumps(nn.Linear(3, 3)))
    else:
        torch.save(nn.Linear(3, 3), path, _use_new_zipfile_serialization=how == "zip")
    with pytest.raises(
        WeightsError, match=r"must hold only tensors and plain values.*try torch\.save\(model\."
    ) as error:
        open_weights(path)
    assert str(error.value).isprintable()
    assert ("TorchScript" if how == "script" else "torch.nn.modules.linear.Linear") in str(error.value)


def test_a_container_that_holds_itself(tmp_path) -> None:
    inner: dict[str, object] = {"w": torch.eye(3)}
    inner["again"] = inner
    torch.save({"model": inner, "ema": inner}, tmp_path / "a.pt")
    weights = open_weights(tmp_path / "a.pt")
    assert list(weights.entries) == ["model.w"]
    assert reasons(weights.skipped) == {"model.again": "the same as model", "ema": "the same as model"}
