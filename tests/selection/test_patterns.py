"""Patterns: globs, regular expressions, types, modules and functions, to select and to exclude."""

import re

import pytest
import torch
from torch import nn

import gramian
from gramian.errors import OptionError
from gramian.selection import select_parameters
from gramian.selection.patterns import as_selector


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(20, 8)
        self.encoder = nn.Sequential(nn.Linear(8, 8), nn.LayerNorm(8), nn.Sequential(nn.Linear(8, 4)))
        self.stem = nn.Conv1d(8, 4, 3)
        self.head = nn.Linear(4, 2)


def selected(model: nn.Module, select=None, **options) -> list[str]:
    return [target.name for target in select_parameters(model, select, **options)[0]]


def reasons(model: nn.Module, **options) -> dict[str, str]:
    return {each.name: each.reason for each in select_parameters(model, **options)[1]}


class TestSelecting:
    def test_a_type(self) -> None:
        assert selected(Network(), nn.Conv1d) == ["stem.weight"]
        assert selected(Network(), nn.Linear) == ["encoder.0.weight", "encoder.2.0.weight", "head.weight"]

    def test_a_module_selects_what_the_default_selects_within_it(self) -> None:
        model = Network()
        assert selected(model, model.encoder) == ["encoder.0.weight", "encoder.2.0.weight"]
        assert selected(model, model) == selected(model)
        assert selected(model, nn.Module) == selected(model)

    def test_a_module_without_default_weights_selects_all_with_a_layout(self) -> None:
        model = Network()
        assert selected(model, nn.Embedding) == selected(model, model.embed) == ["embed.weight"]

    def test_a_module_with_unknown_axes_needs_a_layout(self) -> None:
        class Frames(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.rows = nn.Parameter(torch.randn(5, 2, 8))
                self.offset = nn.Parameter(torch.zeros(8))

        model = nn.Sequential(Frames())
        assert selected(model, Frames, layouts="m n l -> l m n") == ["0.rows"]

    def test_several_kinds_at_once(self) -> None:
        model = Network()
        some = [model.head, nn.Conv1d, "encoder.0.*ight", re.compile(r"encoder\.2\..*weight"), lambda name, _: False]
        assert selected(model, some) == ["encoder.0.weight", "encoder.2.0.weight", "stem.weight", "head.weight"]
        assert selected(model, iter(some)) == selected(model, some)

    def test_a_compiled_module_is_the_module_within(self) -> None:
        model = Network()
        assert selected(model, torch.compile(model.encoder, backend="eager")) == selected(model, model.encoder)
        wrapped = nn.DataParallel(torch.compile(model, backend="eager"))
        assert selected(wrapped, model.encoder) == selected(model, model.encoder)

    def test_a_regular_expression_matches_whole_names(self) -> None:
        assert selected(Network(), re.compile(r".*\.0\.weight")) == ["encoder.0.weight", "encoder.2.0.weight"]
        with pytest.raises(OptionError, match=r"must match the whole name: try re\.compile\('\.\*encoder\.\*'\)"):
            select_parameters(Network(), re.compile("encoder"))


class TestExcluding:
    def test_from_the_default(self) -> None:
        model = Network()
        rest = ["encoder.0.weight", "encoder.2.0.weight", "stem.weight"]
        for exclude in ("head*", ["head.weight"], model.head, re.compile("head.*"), lambda name, _: "head" in name):
            assert selected(model, exclude=exclude) == rest
        assert reasons(model, exclude=model.head) == {
            "embed.weight": "an embedding, skipped unless select names it",
            "encoder.0.bias": "a bias",
            "encoder.1.weight": "a scale of LayerNorm",
            "encoder.1.bias": "a bias",
            "encoder.2.0.bias": "a bias",
            "stem.bias": "a bias",
            "head.weight": "excluded",
            "head.bias": "excluded",
        }

    def test_from_a_selection(self) -> None:
        assert selected(Network(), "*.weight", exclude=[nn.Embedding, nn.LayerNorm, nn.Conv1d]) == [
            "encoder.0.weight",
            "encoder.2.0.weight",
            "head.weight",
        ]

    def test_a_tied_weight_under_all_of_its_names(self) -> None:
        model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4))
        model[1].weight = model[0].weight
        assert selected(model, exclude="1.weight") == ["2.weight"]
        assert reasons(model, exclude="1.weight")["0.weight"] == "tied to an excluded parameter"

    def test_what_matches_nothing(self) -> None:
        with pytest.raises(OptionError, match=r"every pattern in exclude must match a parameter; got 'haed\*'"):
            select_parameters(Network(), exclude="haed*")
        with pytest.raises(OptionError, match=r"in exclude must match .* got Conv3d, of which this model has none"):
            select_parameters(Network(), exclude=nn.Conv3d)
        with pytest.raises(OptionError, match="got a module of type Linear, which has no parameters in this model"):
            select_parameters(Network(), exclude=nn.Linear(4, 4))

    def test_everything(self) -> None:
        with pytest.raises(OptionError, match=r"at least one parameter must be selected; got none of 11"):
            select_parameters(Network(), exclude=nn.Module)


class TestValuesByPattern:
    def test_layouts_by_type_and_by_module(self) -> None:
        model = Network()
        halves = gramian.Layout("(m n) i -> i m n", n=2)
        targets, _ = select_parameters(model, nn.Linear, {model.head: "o i -> i () o", nn.Linear: halves})
        assert {target.name: target.shape for target in targets} == {
            "encoder.0.weight": (8, 4, 2),
            "encoder.2.0.weight": (8, 2, 2),
            "head.weight": (4, 1, 2),
        }

    def test_the_first_pattern_that_matches_is_used(self) -> None:
        layouts = {"encoder.0.*": "o i -> o () i", "*": "o i -> i () o"}
        targets, _ = select_parameters(Network(), "encoder.*.weight", layouts, exclude=nn.LayerNorm)
        assert [target.layout.pattern for target in targets] == ["o i -> o () i", "o i -> i () o"]


def test_tensors_by_name_have_no_modules() -> None:
    with pytest.raises(OptionError, match="got Linear, but there are only tensors with names here"):
        gramian.inspect(dict(Network().named_parameters()), select=nn.Linear)


def test_a_selection_that_is_none() -> None:
    assert as_selector(None) is None
    assert as_selector(()) == ()
    with pytest.raises(OptionError, match=r"exclude must be a glob .*; got float; try exclude="):
        as_selector(3.5, name="exclude")
