"""Networks of timm and torchvision with weights from a file; the libraries are imitated where they are missing."""

import sys
import types

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from gramian.activations.recording.architectures import load_architecture
from gramian.errors import DataError, MissingExtraError, OptionError, WeightsError


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 8, stride=8)
        self.norm = nn.BatchNorm2d(4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(self.conv(x))


def make(name: str, **_) -> nn.Module:
    if name != "tiny":
        raise RuntimeError(f"Unknown model ({name})")
    return Network()


def transform(picture) -> torch.Tensor:
    return torch.from_numpy(np.array(picture.resize((32, 32)))).permute(2, 0, 1) / 255


@pytest.fixture(params=["timm", "torchvision"])
def library(request, monkeypatch) -> str:
    if request.param == "timm":
        timm, data = types.ModuleType("timm"), types.ModuleType("timm.data")
        timm.create_model, timm.data = make, data
        data.resolve_model_data_config = lambda model: {"size": 32}
        data.create_transform = lambda size, is_training: transform
        modules = {"timm": timm, "timm.data": data}
    else:
        torchvision, models = types.ModuleType("torchvision"), types.ModuleType("torchvision.models")
        torchvision.models, models.get_model = models, make
        default = types.SimpleNamespace(transforms=lambda: transform)
        models.get_model_weights = lambda name: types.SimpleNamespace(DEFAULT=default)
        modules = {"torchvision": torchvision, "torchvision.models": models}
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    return request.param


@pytest.mark.parametrize("form", ["safetensors", "pth", "nested", "module"])
def test_weights_of_a_file(library, tmp_path, form) -> None:
    weights = Network().state_dict()
    path = tmp_path / ("w.safetensors" if form == "safetensors" else "w.pth")
    if form == "safetensors":
        save_file(weights, path)
    elif form == "pth":
        torch.save(weights, path)
    elif form == "nested":
        torch.save({"state_dict": weights, "epoch": 3}, path)
    else:
        torch.save({"state_dict": {f"module.{name}": x for name, x in weights.items()}}, path)
    network = load_architecture(f"{library}:tiny", path)
    for name, x in network.model.state_dict().items():
        assert torch.equal(x, weights[name]) or name.endswith("num_batches_tracked")
    inputs = network.transform([np.zeros((40, 50, 3), np.uint8), np.full((20, 20, 3), 255, np.uint8)])
    assert inputs.shape == (2, 3, 32, 32)
    assert network.grid(inputs) is None


def test_what_does_not_fit(library, tmp_path) -> None:
    path = tmp_path / "w.pth"
    with pytest.raises(OptionError, match=rf"--arch must name a network of {library}; got 'large': RuntimeError: Unk"):
        load_architecture(f"{library}:large", path)
    with pytest.raises(WeightsError, match=r"w\.pth, which does not exist"):
        load_architecture(f"{library}:tiny", path)
    torch.save({"other": torch.ones(3, 3)}, path)
    with pytest.raises(DataError, match=r"must hold the weights of .*:tiny; 6 of 6 are missing: conv.bias"):
        load_architecture(f"{library}:tiny", path)
    torch.save({**Network().state_dict(), "conv.bias": torch.ones(5)}, path)
    with pytest.raises(DataError, match=r"must hold weights of the shapes of .*:tiny; got"):
        load_architecture(f"{library}:tiny", path)


def test_pickled_code_is_not_executed(library, tmp_path) -> None:
    torch.save(Network(), tmp_path / "w.pth")
    with pytest.raises(WeightsError, match=r"w\.pth"):
        load_architecture(f"{library}:tiny", tmp_path / "w.pth")


def test_names_and_missing_packages(tmp_path, monkeypatch) -> None:
    for arch in ("resnet18", "timm:", "keras:resnet"):
        with pytest.raises(OptionError, match="--arch must be timm:NAME or torchvision:NAME; got"):
            load_architecture(arch, tmp_path / "w.pth")
    for library in ("timm", "torchvision"):
        monkeypatch.setitem(sys.modules, library, None)
        with pytest.raises(MissingExtraError, match=rf"--arch {library} needs {library}.*'gramian\[activations\]'"):
            load_architecture(f"{library}:tiny", tmp_path / "w.pth")
