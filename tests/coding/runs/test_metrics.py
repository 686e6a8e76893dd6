"""Metrics in a file: every row checked."""

import json

import pytest
import torch
from safetensors.torch import save_file

from gramian.activations.run import FeatureRun, FeatureSettings
from gramian.coding.runs.metrics import MEASURED, metrics_text, read_metrics
from gramian.errors import RunError
from gramian.images.run import LearningRun, RunSettings
from tests.crops import save_crops

ROW = dict.fromkeys(MEASURED, 0.5) | {"step": 0}


def test_the_names_are_those_that_a_run_measures(tmp_path) -> None:
    settings = RunSettings(groups=4, size=2, patch=4, batch=4, images=str(save_crops(tmp_path / "pictures", count=2)))
    assert tuple(LearningRun(settings).evaluate(seconds=0.0)) == LearningRun.measured
    save_file({"x": torch.randn(100, 6)}, tmp_path / "x.safetensors")
    store = str(tmp_path / "x.safetensors")
    features = FeatureRun(FeatureSettings(store=store, groups=4, size=2, active=1, batch=8))
    assert tuple(features.evaluate(seconds=0.0)) == FeatureRun.measured
    assert {*MEASURED} <= {*LearningRun.measured} & {*FeatureRun.measured}


def test_there_and_back(tmp_path) -> None:
    rows = [ROW, ROW | {"step": 7, "snr": 1e300, "added by hand": 3}]
    (tmp_path / "metrics.jsonl").write_text(metrics_text(rows) + "\n")
    assert read_metrics(tmp_path / "metrics.jsonl") == rows


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("no JSON", "must be a line of JSON; it cannot be read: .*; try to remove this row"),
        ("[" * 50_000, "must be a line of JSON; it cannot be read"),
        ("1" * 5000, "must be a line of JSON; it cannot be read"),
        ("[1, 2]", "must be a JSON object on one short line"),
        (json.dumps(ROW | {"a": "b" * 70_000}), "must be a JSON object on one short line"),
        (json.dumps({"step": 3}), "must hold seconds, lr, .*; got none; try to remove this row"),
        (json.dumps({key: value for key, value in ROW.items() if key != "step"}), "must hold step; got none"),
        (json.dumps(ROW | {"step": 3, "snr": float("nan")}), "must hold finite numbers; got another value of 'snr'"),
        (json.dumps(ROW | {"step": 3, "snr": float("inf")}), "must hold finite numbers; got another value of 'snr'"),
        (json.dumps(ROW | {"step": 3, "snr": 1 << 2000}), "must hold finite numbers; got another value of 'snr'"),
        (json.dumps(ROW | {"step": 3, "snr": "1"}), "must hold finite numbers; got another value of 'snr'"),
        (json.dumps(ROW | {"step": 3, "snr": True}), "must hold finite numbers; got another value of 'snr'"),
        (json.dumps(ROW | {"step": 3, "snr": None}), "must hold finite numbers; got another value of 'snr'"),
        (json.dumps(ROW | {"step": 3.5}), "must be a whole number larger than 0; got"),
        (json.dumps(ROW), "must be a whole number larger than 0; got"),
    ],
)
def test_rows_that_will_not_do(tmp_path, line, message) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text(json.dumps(ROW) + "\n" + line + "\n")
    with pytest.raises(RunError, match=message) as caught:
        read_metrics(path)
    assert f"row 2 of {path}" in str(caught.value)
    assert len(str(caught.value)) < 400


def test_files_that_will_not_do(tmp_path) -> None:
    path = tmp_path / "metrics.jsonl"
    with pytest.raises(RunError, match=r"there must be metrics at .*; got no such file"):
        read_metrics(path)
    path.write_bytes(json.dumps(ROW).encode() + b"\n\xff\xfe\n")
    with pytest.raises(RunError, match=r"row 2 of .* must be a line of JSON"):
        read_metrics(path)
    with path.open("wb") as file:
        file.truncate(1 << 40)  # a terabyte without a line's end
    with pytest.raises(RunError, match=r"row 1 of .* must be a JSON object on one short line"):
        read_metrics(path)
    path.unlink()
    path.mkdir()
    with pytest.raises(RunError, match="could not be read: Is a directory"):
        read_metrics(path)
