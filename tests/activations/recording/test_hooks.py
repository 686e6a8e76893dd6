"""Hooks record what modules return, and leave nothing behind."""

from collections import OrderedDict

import pytest
import torch
from torch import nn

from gramian.activations.recording.hooks import evaluating, first_tensor, matching_modules, recorded_outputs
from gramian.errors import DataError, OptionError


def hooks(model: nn.Module) -> int:
    return sum(len(module._forward_hooks) for module in model.modules())


def test_globs(encoder) -> None:
    assert list(matching_modules(encoder, "block")) == ["block"]
    assert list(matching_modules(encoder, "*linear")) == ["block.linear"]
    assert list(matching_modules(encoder, ["head", "embedding"])) == ["embedding", "head"]
    with pytest.raises(OptionError, match=r"layer must match a module of Encoder; got 'layer.*', which matches none"):
        matching_modules(encoder, ["head", "layer.*"])
    with pytest.raises(OptionError, match="layer must be a glob of module names, or several; got none"):
        matching_modules(encoder, [])


def test_hooks_are_removed_after_an_exception(encoder) -> None:
    ids = torch.tensor([[1, 2]])

    def fail() -> None:
        with recorded_outputs(matching_modules(encoder, "*")) as outputs:
            encoder(ids)
            assert outputs["block"][0].shape == (1, 2, 6)
            assert not outputs["block"][0].requires_grad
            assert hooks(encoder) == len(list(encoder.modules())) - 1
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert hooks(encoder) == 0


def test_every_module_gets_its_mode_back(encoder) -> None:
    encoder.train()
    encoder.block.eval()
    modes = [module.training for module in encoder.modules()]

    def interrupt() -> None:
        with evaluating(encoder):
            assert not any(module.training for module in encoder.modules())
            assert not torch.is_grad_enabled()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupt()
    assert [module.training for module in encoder.modules()] == modes
    assert torch.is_grad_enabled()


def test_the_first_tensor_of_an_output() -> None:
    x, module = torch.ones(2), nn.Identity()
    for output in (x, (x, 1), [None, x], OrderedDict(a=None, b=x)):
        assert first_tensor(output, name="a", module=module) is x
    for output in (None, ("a", 3), {}):
        with pytest.raises(
            DataError, match=r"'a' must return a tensor, or a tuple or mapping with one; got .*Identity"
        ):
            first_tensor(output, name="a", module=module)
