"""Attachments where models and optimisers change under them, are copied, or cannot be stepped at all."""

import copy
import gc
import io
import math
import pickle
import re
import warnings
import weakref
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.utils import parametrizations, parametrize, prune

import gramian
from gramian import training
from gramian.errors import AttachmentWarning, GramianError, LayoutError, OptionError, ShapeError
from gramian.inspection import Inspection, statistics
from gramian.penalties import L1, Coherence, Cosine, LogDet, Penalty, Spectral, SquaredFrobenius, Weighted
from gramian.rules import Step, proximal
from gramian.selection import propose, select_parameters


def make() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(12, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 3))


def sgd(model: nn.Module, lr: float = 0.1) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=lr)


def give_gradients(model: nn.Module) -> None:
    for each in model.parameters():
        each.grad = torch.zeros_like(each)


def names(attachment: training.Attachment) -> list[str]:
    return [each.name for each in attachment.targets]


def skipped_reasons(inspection: Inspection) -> dict[str, str]:
    return {each.name: each.reason for each in inspection.skipped}


def reasons(attachment: training.Attachment) -> dict[str, str]:
    return {each.name: each.reason for each in attachment.skipped}


def moved(model: nn.Module, optimizer: torch.optim.Optimizer, *, grads: bool = True) -> list[str]:
    """Which parameters a step with gradients of zero moves: the penalty alone."""
    before = {name: each.detach().clone() for name, each in model.named_parameters()}
    if grads:
        give_gradients(model)
    optimizer.step()
    return [name for name, each in model.named_parameters() if not torch.equal(before[name], each)]


class TestAttachedTwice:
    def test_the_later_one_takes_over(self) -> None:
        model, twin = make(), make()
        optimizer, other = sgd(model), sgd(twin)
        first = gramian.attach(optimizer, model, beta=0.3)
        with pytest.warns(
            AttachmentWarning, match=r"acts no longer on 0.weight, 2.weight, 4.weight: this one does, with β"
        ):
            second = gramian.attach(optimizer, model, beta=0.5)
        gramian.attach(other, twin, beta=0.5)
        moved(model, optimizer)
        moved(twin, other)
        for one, two in zip(model.parameters(), twin.parameters(), strict=True):
            assert torch.equal(one, two)
        assert (first.handle, first.targets, first.steps, second.steps) == (None, [], 0, 1)
        assert "removed" in str(first)
        assert "a later attachment acts on it" in reasons(first).values()

    def test_for_the_parameters_that_it_takes(self) -> None:
        model = make()
        optimizer = sgd(model)
        first = gramian.attach(optimizer, model, beta=0.3)
        with pytest.warns(AttachmentWarning, match="acts no longer on 2.weight:"):
            second = gramian.attach(optimizer, model, beta=0.5, select="2.weight")
        assert (names(first), names(second)) == (["0.weight", "4.weight"], ["2.weight"])
        moved(model, optimizer)
        assert (first.steps, second.steps) == (1, 1)

    def test_different_parameters_have_different_strengths(self) -> None:
        model = make()
        optimizer = sgd(model)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            gramian.attach(optimizer, model, beta=0.3, select="0.weight")
            gramian.attach(optimizer, model, beta=0.5, select="2.weight")
            gramian.attach(sgd(model), model, beta=0.5)
        assert moved(model, optimizer) == ["0.weight", "2.weight"]

    def test_after_remove_there_is_nothing_to_take_over(self) -> None:
        model = make()
        optimizer = sgd(model)
        gramian.attach(optimizer, model, beta=0.3).remove()
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            gramian.attach(optimizer, model, beta=0.3)

    def test_an_error_leaves_the_earlier_one(self) -> None:
        model = make()
        optimizer = sgd(model)
        first = gramian.attach(optimizer, model, beta=0.3)
        with pytest.raises(OptionError):
            gramian.attach(optimizer, model, beta=0.3, penalty=Cosine(L1()))
        assert len(first.targets) == 3

    def test_optimisers_and_models_are_not_kept_alive(self) -> None:
        model = make()
        optimizer = sgd(model)
        attachment = gramian.attach(optimizer, model, beta=0.3)
        gone = weakref.ref(optimizer), weakref.ref(model)
        del optimizer, model
        gc.collect()
        assert [each() for each in gone] == [None, None]
        assert attachment.residuals()


class TestTheModelChanges:
    def test_a_tensor_that_nobody_uses_is_not_stepped(self) -> None:
        model = make()
        optimizer = sgd(model)
        attachment = gramian.attach(optimizer, model, beta=0.3)
        old = model[0].weight
        model[0].weight = nn.Parameter(old.detach() + 1)
        before = old.detach().clone()
        old.grad = torch.zeros_like(old)
        with pytest.warns(
            AttachmentWarning, match=r"0.weight: another tensor has this name .* optimizer does not have"
        ):
            assert moved(model, optimizer) == ["2.weight", "4.weight"]
        assert torch.equal(old, before)
        assert moved(model, optimizer) == ["2.weight", "4.weight"]  # said once
        optimizer.add_param_group({"params": [model[0].weight]})
        assert moved(model, optimizer) == ["0.weight", "2.weight", "4.weight"]
        assert attachment.targets[0].parameter is model[0].weight

    def test_one_that_the_optimiser_has_is_followed(self) -> None:
        model = make()
        optimizer = sgd(model)
        attachment = gramian.attach(optimizer, model, beta=0.3)
        model[0].weight = optimizer.param_groups[0]["params"][0] = nn.Parameter(torch.randn(8, 12))
        assert moved(model, optimizer) == ["0.weight", "2.weight", "4.weight"]
        model[0] = nn.Linear(12, 6)  # of another shape
        optimizer.param_groups[0]["params"][0] = model[0].weight
        assert "0.weight" in moved(model, optimizer)
        assert attachment.targets[0].shape == (12, 1, 6)

    def test_a_checkpoint_that_is_assigned(self) -> None:
        model = make()
        optimizer = sgd(model)
        gramian.attach(optimizer, model, beta=0.3)
        model.load_state_dict({name: each.clone() for name, each in model.state_dict().items()}, assign=True)
        with pytest.warns(AttachmentWarning, match=r"0.weight: another .*; 2.weight: another .*; 4.weight: another "):
            moved(model, optimizer)

    def test_one_that_is_gone_and_comes_back(self) -> None:
        model = make()
        optimizer = sgd(model)
        attachment = gramian.attach(optimizer, model, beta=0.3)
        layer, model[0] = model[0], nn.Identity()
        give_gradients(layer)
        with pytest.warns(AttachmentWarning, match="0.weight: the model has no parameter of this name any more, so"):
            optimizer.step()
        assert names(attachment) == ["2.weight", "4.weight"]
        assert "no parameter of this name" in reasons(attachment)["0.weight"]
        model[0] = layer
        assert "0.weight" in moved(model, optimizer)
        assert "0.weight" not in reasons(attachment)

    @pytest.mark.parametrize("change", [parametrizations.orthogonal, lambda m: prune.l1_unstructured(m, "weight", 0.5)])
    def test_one_that_is_parametrised_afterwards(self, change) -> None:
        model = make()
        optimizer = sgd(model)
        gramian.attach(optimizer, model, beta=0.3)
        change(model[0])
        with pytest.warns(AttachmentWarning, match="0.weight: the model has no parameter of this name"):
            assert moved(model, optimizer) == ["2.weight", "4.weight"]

    def test_one_that_cannot_be_stepped(self) -> None:
        model = make()
        optimizer = sgd(model)
        gramian.attach(optimizer, model, beta=0.3, rule="polyak")
        model[0].weight = nn.Parameter(torch.randn(8, 12, device="meta"))
        model[2].weight = nn.Parameter(torch.randn(9, 5))
        with pytest.warns(
            AttachmentWarning, match=r"0.weight: on the meta device.*; 2.weight: 2.weight: the polyak rule"
        ):
            optimizer.step()

    def test_a_model_that_is_gone_leaves_its_parameters(self) -> None:
        model = make()
        optimizer = sgd(model)
        gramian.attach(optimizer, nn.ModuleList([model[0]]), beta=0.3)
        gc.collect()
        assert moved(model, optimizer) == ["0.weight"]

    def test_moved_and_converted_it_is_the_same(self) -> None:
        model = make()
        optimizer = sgd(model)
        gramian.attach(optimizer, model, beta=0.3)
        model.double()
        assert moved(model, optimizer) == ["0.weight", "2.weight", "4.weight"]

    @pytest.mark.parametrize("stale", [torch.zeros, torch.ones])
    def test_a_parameter_frozen_later_is_not_updated(self, stale) -> None:
        model = make()
        optimizer = torch.optim.SGD([{"params": model.parameters()}], lr=0.0)
        gramian.attach(optimizer, model, beta=math.inf)
        with torch.no_grad():
            model[0].weight.mul_(2)
        model[0].weight.requires_grad_(False).grad = stale(8, 12)
        before = model[0].weight.clone()
        optimizer.step()
        assert torch.equal(model[0].weight, before)
        model[0].weight.requires_grad_(True)
        assert "0.weight" in moved(model, optimizer)


class TestTheOptimiserChanges:
    def test_a_layer_that_is_unfrozen_later_is_picked_up(self) -> None:
        model = make()
        model[0].requires_grad_(False)
        optimizer = torch.optim.SGD([each for each in model.parameters() if each.requires_grad], lr=0.1)
        attachment = gramian.attach(optimizer, model, beta=0.3)
        assert reasons(attachment)["0.weight"] == "frozen: requires_grad is False"
        model[0].requires_grad_(True)
        optimizer.add_param_group({"params": model[0].parameters()})
        assert moved(model, optimizer) == ["0.weight", "2.weight", "4.weight"]
        assert "0.weight" not in reasons(attachment)
        assert "0.weight" in str(attachment)

    def test_so_is_a_new_layer_if_it_is_selected(self) -> None:
        model = make()
        optimizer = sgd(model)
        attachment = gramian.attach(optimizer, model, beta=0.3, select=(each for each in ["0.*ight", "2.*ight"]))
        model.append(nn.Linear(3, 3))
        model[2] = nn.Linear(8, 4)
        optimizer.add_param_group({"params": [*model[5].parameters(), *model[2].parameters()]})
        assert moved(model, optimizer) == ["0.weight", "2.weight"]
        assert names(attachment) == ["0.weight", "2.weight"]

    def test_one_that_another_attachment_has_is_not(self) -> None:
        model = make()
        optimizer = sgd(model)
        first = gramian.attach(optimizer, model, beta=0.3, select=re.compile(r"[024]\.weight"))
        with pytest.warns(AttachmentWarning):
            second = gramian.attach(optimizer, model, beta=0.3, select="2.weight")
        optimizer.add_param_group({"params": [nn.Parameter(torch.zeros(1))]})
        moved(model, optimizer)
        assert (names(first), names(second)) == (["0.weight", "4.weight"], ["2.weight"])

    def test_one_that_cannot_be_stepped_is_told_of(self) -> None:
        model = make()
        optimizer = sgd(model)
        layouts = {"0.weight": "o i -> i () o", "2.weight": "o i -> i () o", "4.weight": "o i -> i () o"}
        gramian.attach(optimizer, model, beta=0.3, rule="polyak", layouts=layouts)
        model.add_module("4", nn.Linear(2, 5))
        optimizer.param_groups[0]["params"][4] = model[4].weight
        with pytest.warns(AttachmentWarning, match="the polyak rule needs groups of n <= l"):
            assert "4.weight" not in moved(model, optimizer)


class Keeper(nn.Module):
    """A module that keeps its optimiser's attachment, as LightningModules do."""

    def __init__(self) -> None:
        super().__init__()
        self.network = make()
        self.optimizer = sgd(self.network)
        self.attachment = gramian.attach(self.optimizer, self, beta=0.3)


def saved(module: nn.Module) -> nn.Module:
    buffer = io.BytesIO()
    torch.save(module, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=False)


class TestCopies:
    @pytest.mark.parametrize("copied", [copy.deepcopy, saved, lambda module: pickle.loads(pickle.dumps(module))])
    def test_of_a_module_that_keeps_its_attachment(self, copied) -> None:
        keeper = Keeper()
        moved(keeper, keeper.optimizer)
        twin = copied(keeper)
        attachment = twin.attachment
        assert attachment.handle is None
        assert "β = 0.3, a copy that is attached to nothing (attach again): 3 parameters" in str(attachment)
        assert attachment.targets[0].parameter is twin.network[0].weight
        assert attachment.residuals() == keeper.attachment.residuals()
        assert moved(twin, twin.optimizer) == []
        attachment.remove()
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            anew = gramian.attach(twin.optimizer, twin, beta=0.3)
        assert moved(twin, twin.optimizer) == names(anew) == [f"network.{i}.weight" for i in (0, 2, 4)]
        assert keeper.attachment.handle is not None
        assert keeper.attachment.steps == 1

    def test_of_one_that_was_removed(self) -> None:
        keeper = Keeper()
        keeper.attachment.remove()
        assert "removed" in str(copy.deepcopy(keeper.attachment))


def two_groups_at_once(phi: Tensor, *, lr: float, beta: float, penalty: Penalty) -> Step:
    if phi.shape[1] != 2:
        raise OptionError("this rule needs two groups")
    return proximal(phi, lr=lr, beta=beta, penalty=penalty)


class Unfinished(L1):
    def prox_residual(self, X: Tensor, tau: Tensor) -> Tensor:
        raise NotImplementedError("later")


class TestWhatCannotGoTogether:
    @pytest.mark.parametrize(
        ("options", "match"),
        [
            ({"penalty": Cosine(L1())}, "0.weight: the cosine form has no closed prox"),
            ({"penalty": 2 * Cosine(L1())}, "0.weight: the cosine form has no closed prox"),
            ({"penalty": Spectral() + L1()}, "0.weight: a sum of penalties has no closed prox unless"),
            ({"penalty": LogDet(diagonal=False)}, r"0.weight: LogDet\(diagonal=False\) has no closed prox"),
            (
                {"penalty": Weighted(L1(), torch.ones(4, 4))},
                r"0.weight: weights of shape \[4, 4\] must be for the groups",
            ),
            ({"rule": "polyak", "layouts": "o i -> o () i"}, "0.weight: the polyak rule needs groups of n <= l"),
            ({"rule": two_groups_at_once}, "0.weight: this rule needs two groups"),
            ({"beta": math.inf, "layouts": "o i -> o () i"}, "0.weight: a hard constraint needs groups of n <= l"),
            ({"beta": math.inf, "rule": "subgradient"}, "needs the proximal rule"),
            ({"beta": math.inf, "penalty": Cosine(L1())}, "no closed prox"),
        ],
    )
    def test_is_refused_before_anything_is_changed(self, options, match) -> None:
        model = make()
        optimizer = sgd(model)
        before = copy.deepcopy(model.state_dict())
        with pytest.raises(GramianError, match=match):
            gramian.attach(optimizer, model, **{"beta": 1.0, "select": ["0.weight", "2.weight"], **options})
        assert not optimizer._optimizer_step_post_hooks
        assert all(torch.equal(before[name], each) for name, each in model.state_dict().items())

    def test_an_error_of_a_penalty_of_yours_comes_at_once(self) -> None:
        model = make()
        with pytest.raises(NotImplementedError, match="later"):
            gramian.attach(sgd(model), model, beta=1.0, penalty=0.5 * Unfinished())

    def test_built_in_rules_and_penalties_need_no_trial_step(self, monkeypatch) -> None:
        model = make()
        monkeypatch.setattr(training.compatibility, "step_", None)
        gramian.attach(sgd(model), model, beta=1.0, penalty=2 * L1() + SquaredFrobenius())
        gramian.attach(sgd(model), model, beta=1.0, rule="polyak", penalty=Cosine(L1()))

    def test_a_custom_rule_is_tried_on_the_sizes_of_the_parameter(self) -> None:
        model = make()
        halves = gramian.Layout("(m n) i -> i m n", m=2)
        state = torch.get_rng_state()
        gramian.attach(sgd(model), model, beta=1.0, select="0.weight", layouts=halves, rule=two_groups_at_once)
        assert torch.equal(torch.get_rng_state(), state)


class TestTheHardConstraint:
    @pytest.mark.parametrize("penalty", [L1(diagonal=False), Coherence(), 3 * L1(diagonal=False)], ids=repr)
    @pytest.mark.parametrize("scale", [0.01, 1.88, 30.0])
    def test_lengths_are_left_free_where_the_penalty_leaves_them(self, penalty, scale) -> None:
        model = make()
        with torch.no_grad():
            for i in (0, 2, 4):
                model[i].weight.mul_(scale * torch.rand(len(model[i].weight), 1).add(0.1))
        lengths = model[4].weight.norm(dim=1)
        optimizer = sgd(model, 0.0)
        attachment = gramian.attach(optimizer, model, beta=math.inf, penalty=penalty)
        torch.testing.assert_close(model[4].weight.norm(dim=1), lengths)
        for each in attachment.targets:
            P = each.layout.to_phi(each.parameter.detach())[:, 0]
            cosines = nn.functional.normalize(P, dim=0)
            assert (cosines.mT @ cosines - torch.eye(P.shape[1])).abs().max() < 1e-5
        give_gradients(model)
        optimizer.step()
        torch.testing.assert_close(model[4].weight.norm(dim=1), lengths)

    @pytest.mark.parametrize("penalty", ["squared_frobenius", "spectral", "huber"])
    def test_any_other_penalty_ends_at_rounding(self, penalty) -> None:
        model = make()
        attachment = gramian.attach(sgd(model), model, beta=math.inf, penalty=penalty)
        assert max(attachment.residuals().values()) < 2e-6

    def test_pairs_of_weight_zero_are_not_changed(self) -> None:
        model = make()
        W = torch.ones(3, 3)
        W[0, 1] = W[1, 0] = 0
        attachment = gramian.attach(sgd(model), model, beta=math.inf, select="4.weight", penalty=Weighted(L1(), W))
        X = gramian.residual(model[4].weight, layout="o i -> i () o")[0].abs()
        assert X[0, 1] > 1e-3
        assert (X * W).max() < 2e-6
        assert attachment.handle is not None

    def test_the_rule_may_be_given_as_a_function(self) -> None:
        model = make()
        attachment = gramian.attach(sgd(model), model, beta=math.inf, rule=proximal)
        assert max(attachment.residuals().values()) < 2e-6

    def test_the_loss_is_that_before(self) -> None:
        model = make()
        optimizer = sgd(model, 0.0)
        attachment = gramian.attach(optimizer, model, beta=math.inf)
        with torch.no_grad():
            model[0].weight.mul_(2**0.5)
        give_gradients(model)
        optimizer.step()
        assert attachment.loss.item() == pytest.approx(8.0, abs=1e-4)  # eight squared lengths of 2


class TestWhatCannotBeStepped:
    def test_a_lazy_layer(self) -> None:
        model = nn.Sequential(nn.LazyLinear(4), nn.Linear(4, 4), nn.LazyBatchNorm1d())
        with pytest.raises(OptionError, match=r"0.weight must have a shape; .* of LazyLinear .*; try one batch"):
            gramian.attach(sgd(model), model, beta=1.0)
        with pytest.raises(OptionError, match=r"0.weight must have a shape"):
            gramian.inspect(model)
        attachment = gramian.attach(sgd(model), model, beta=1.0, select="1.weight")
        assert reasons(attachment)["0.weight"] == "not selected"
        assert [row.name for row in gramian.inspect(model, select="1.weight").rows] == ["1.weight"]
        model(torch.randn(3, 5))
        assert names(gramian.attach(sgd(model), model, beta=1.0)) == ["0.weight", "1.weight"]

    @pytest.mark.parametrize(
        ("change", "reason"),
        [
            (lambda weight: weight.to("meta"), "on the meta device, without values"),
            (lambda weight: weight.to_sparse(), "sparse: of layout torch.sparse_coo"),
            (lambda weight: weight.to(torch.complex64), "of dtype torch.complex64"),
            (lambda weight: weight[:0], "it is empty"),
        ],
        ids=["meta", "sparse", "complex", "empty"],
    )
    def test_a_parameter_without_values(self, change, reason) -> None:
        model = make()
        model[0].weight = nn.Parameter(change(model[0].weight.detach()))
        attachment = gramian.attach(sgd(model), model, beta=1.0)
        assert names(attachment) == ["2.weight", "4.weight"]
        assert reasons(attachment)["0.weight"] == reason
        found = gramian.inspect(model)
        assert skipped_reasons(found)["0.weight"] == reason
        assert len(found.rows) == 2
        with pytest.raises(
            OptionError, match=f"0.weight must be a dense .* ({reason})".replace("(", r"\(").replace(")", r"\)")
        ):
            gramian.attach(sgd(model), model, beta=1.0, select="0.weight", layouts="o i -> i () o")
        assert skipped_reasons(gramian.inspect(model, select="0.weight", layouts="o i -> i () o")) == {
            **dict.fromkeys(["0.bias", "2.weight", "2.bias", "4.weight", "4.bias"], "not selected"),
            "0.weight": reason,
        }

    def test_a_model_without_values(self) -> None:
        with torch.device("meta"):
            model = make()
        with pytest.raises(OptionError, match=r"none of 6 \(0.weight: on the meta device, without values"):
            gramian.attach(sgd(model), model, beta=1.0)
        lines = str(gramian.inspect(model)).splitlines()
        assert lines[0] == "nothing was measured:"
        assert lines[-3].split("  ") == ["0.weight", "on the meta device, without values"]

    def test_a_selection_of_another_kind(self, unchecked) -> None:
        model = make()
        for select in (3, torch.float32):
            with pytest.raises(OptionError, match="select must be a glob of names"):
                gramian.attach(sgd(model), model, beta=1.0, select=select)
            with pytest.raises(OptionError, match="select must be a glob of names"):
                gramian.inspect(model, select=select)
        for layouts in (3, ["o i -> i () o"]):
            with pytest.raises(OptionError, match="layouts must be one layout"):
                gramian.attach(sgd(model), model, beta=1.0, layouts=layouts)
        with pytest.raises(OptionError, match="must be tensors by name; got int under 'a'"):
            gramian.inspect({"a": 3})

    def test_parameters_that_fully_sharded_data_parallel_has_flattened(self) -> None:
        class Flat(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self._fsdp_wrapped_module = nn.Sequential(nn.Linear(4, 4), nn.Conv1d(2, 2, 2))
                for layer in self._fsdp_wrapped_module:
                    layer.weight = nn.Parameter(layer.weight.detach().flatten())

        model = Flat()
        for look in (lambda: gramian.attach(sgd(model), model, beta=1.0), lambda: gramian.inspect(model)):
            with pytest.raises(OptionError, match=r"0.weight: flattened by FullyShardedDataParallel; shard by torch"):
                look()
        with pytest.raises(OptionError, match=r"0.weight must be a plain parameter; flattened"):
            gramian.attach(sgd(model), model, beta=1.0, select="0.weight", layouts="o i -> i () o")

    @pytest.mark.filterwarnings("ignore::FutureWarning")
    def test_every_kind_of_parametrisation_is_known_and_nothing_else_is_taken_for_one(self) -> None:
        class Twice(nn.Module):
            def forward(self, X: Tensor) -> Tensor:
                return 2 * X

        class Named(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.original_scale = self.weight_vectors = nn.Parameter(torch.randn(4, 6))

        layers = [nn.Linear(6, 4) for _ in range(6)]
        prune.random_unstructured(layers[0], "weight", 0.5)
        nn.utils.weight_norm(layers[1])
        parametrizations.weight_norm(layers[2])
        nn.utils.spectral_norm(layers[3])
        parametrize.register_parametrization(layers[4], "weight", Twice())
        model = nn.Sequential(*layers, Named())
        for name, proposal in propose(model).items():
            number = int(name.split(".")[0])
            assert proposal.barred == (number < 5 and "bias" not in name), name
        attachment = gramian.attach(sgd(model), model, beta=1.0)
        assert names(attachment) == ["5.weight"]
        gramian.attach(sgd(model), model, beta=1.0, select="6.weight_vectors", layouts="o i -> i () o")


class TestDevices:
    def test_an_inspection_where_the_default_device_is_another(self) -> None:
        model = make()
        expected = gramian.inspect(model)
        torch.set_default_device("meta")
        try:
            found = gramian.inspect(model)
            assert math.isnan(statistics(torch.full((4, 1, 2), math.nan, device="cpu")).mean)
        finally:
            torch.set_default_device(None)
        assert found.rows == expected.rows

    @pytest.mark.parametrize("beta", [0.3, math.inf])
    def test_training_where_the_default_device_is_another(self, beta) -> None:
        model = make()
        optimizer = sgd(model)
        give_gradients(model)
        torch.set_default_device("meta")
        try:
            attachment = gramian.attach(optimizer, model, beta=beta, penalty=L1(diagonal=False))
            gramian.attach(sgd(model), model, beta=1.0, penalty=Coherence(), rule=partial(proximal))
            optimizer.step()
        finally:
            torch.set_default_device(None)
        assert attachment.steps == 1

    def test_a_model_over_two_devices(self, monkeypatch) -> None:
        # Fake tensors have shapes and devices, and refuse to meet as those of real devices do; nothing is computed.
        def loss_of(tensors: list[Tensor], **_) -> Tensor:
            return torch.stack([each.sum() for each in tensors]).sum()

        monkeypatch.setattr(training.steps.foreach, "step_", loss_of)
        monkeypatch.setattr(training.coupled.objective, "loss", lambda tensor, **_: tensor.detach().sum())
        with FakeTensorMode():
            layers = [nn.Linear(8, 4, bias=False, device="meta") for _ in range(4)]
            for layer, device in zip(layers, ("cpu", "cuda:1", "cpu", "cuda:1"), strict=True):
                layer.weight = nn.Parameter(torch.empty(4, 8, device=device))
            model = nn.Sequential(*layers)
            groups = [{"params": model[:2].parameters()}, {"params": model[2:].parameters()}]
            optimizer = torch.optim.SGD(groups, lr=0.1, foreach=False)
            attachment = gramian.attach(optimizer, model, beta=0.3)
            give_gradients(model)
            optimizer.step()
            assert attachment.steps == 1
            # The sum is where it need not be waited for.
            for loss in (attachment.loss, training.loss(attachment.targets, beta=0.3)):
                assert loss.device == torch.device("cuda:1")

    @pytest.mark.gpu
    @pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
    def test_a_model_on_the_cpu_and_a_gpu(self) -> None:
        model, twin = make(), make()
        model[2].cuda()
        optimizer, other = (torch.optim.SGD(each.parameters(), lr=0.1, foreach=False) for each in (model, twin))
        attachment = gramian.attach(optimizer, model, beta=0.3)
        expected = gramian.attach(other, twin, beta=0.3)
        moved(model, optimizer)
        moved(twin, other)
        torch.testing.assert_close(attachment.loss.cpu(), expected.loss)
        for one, two in zip(model.parameters(), twin.parameters(), strict=True):
            torch.testing.assert_close(one.cpu(), two)


class TestWrappers:
    @pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch, when it first compiles
    def test_names_are_those_of_the_model_within(self) -> None:
        model = nn.ModuleDict({"body": nn.DataParallel(torch.compile(make())), "module": nn.Linear(4, 4)})
        optimizer = sgd(model)
        attachment = gramian.attach(optimizer, model, beta=0.3)
        clean = [*(f"body.{i}.weight" for i in (0, 2, 4)), "module.weight"]
        assert names(attachment) == clean
        assert [row.name for row in gramian.inspect(model).rows] == clean
        raw = "body.module._orig_mod.2.weight"
        for select in ("body.2.weight", raw, re.compile(r"^body\.2\.w"), lambda name, _: name == "body.2.weight"):
            targets, _ = select_parameters(model, select)
            assert [each.name for each in targets if "weight" in each.name] == ["body.2.weight"]
        assert [row.name for row in gramian.inspect(model, select=raw).rows] == ["body.2.weight"]
        assert moved(model, optimizer) == [*(f"body.module._orig_mod.{i}.weight" for i in (0, 2, 4)), "module.weight"]
        model["body"].module._orig_mod[2].weight = nn.Parameter(torch.zeros(8, 8))
        with pytest.warns(AttachmentWarning, match="^body.2.weight: another"):
            moved(model, optimizer)

    def test_a_checkpointed_module(self) -> None:
        from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper

        model = nn.Sequential(checkpoint_wrapper(nn.MultiheadAttention(12, 3)))
        targets, _ = select_parameters(model)
        assert [each.name for each in targets] == ["0.in_proj_weight", "0.out_proj.weight"]
        assert targets[0].shape == (12, 9, 4)

    def test_an_optimiser_within_another(self) -> None:
        class Thin:
            def __init__(self, optimizer) -> None:
                self.optimizer, self.param_groups = optimizer, optimizer.param_groups

            def step(self) -> None:
                self.optimizer.step()

        class EveryOther(torch.optim.Optimizer):
            """One with a step, and with hooks, of its own."""

            def __init__(self, optimizer) -> None:
                super().__init__(optimizer.param_groups, {})
                self.optimizer = optimizer

            def step(self, closure=None) -> None:
                self.optimizer.step()
                self.optimizer.step()

        for wrapper, steps in ((Thin, 1), (lambda each: Thin(Thin(each)), 1), (EveryOther, 1)):
            model = make()
            optimizer = wrapper(sgd(model))
            attachment = gramian.attach(optimizer, model, beta=0.3)
            moved(model, optimizer)
            assert attachment.steps == steps

    def test_attached_twice_through_a_wrapper(self) -> None:
        model = make()
        optimizer = sgd(model)
        gramian.attach(optimizer, model, beta=0.3)
        wrapped = SimpleNamespace(optimizer=optimizer, param_groups=optimizer.param_groups, step=optimizer.step)
        with pytest.warns(AttachmentWarning, match="acts no longer on"):
            gramian.attach(wrapped, model, beta=0.3)

    def test_objects_that_are_not_optimisers(self, unchecked) -> None:
        model = make()
        schedule = torch.optim.lr_scheduler.ConstantLR(sgd(model))
        with pytest.raises(
            OptionError, match=r"must be a torch.optim.Optimizer; got ConstantLR, which is none and holds"
        ):
            gramian.attach(schedule, model, beta=0.3)

        class Half(torch.optim.Optimizer):
            def __init__(self, parameters) -> None:
                self.param_groups = [{"params": list(parameters), "lr": 0.1}]

        with pytest.raises(OptionError, match="must have the step hooks"):
            gramian.attach(Half(model.parameters()), model, beta=0.3)


def test_a_layout_that_fits_no_longer_is_told_of() -> None:
    model = make()
    optimizer = sgd(model)
    gramian.attach(optimizer, model, beta=0.3, select="0.weight", layouts=gramian.Layout("(m n) i -> i m n", n=4))
    model[0].weight = nn.Parameter(torch.randn(7, 12))
    with pytest.warns(AttachmentWarning, match="0.weight: axis 0 of size 7 must be a multiple of 4"):
        moved(model, optimizer)
    with pytest.raises(LayoutError, match="axis 0 of size 7"):
        gramian.attach(sgd(model), model, beta=1.0, select="0.weight", layouts=gramian.Layout("(m n) i -> i m n", n=4))


def test_a_weight_for_every_group_must_be_there() -> None:
    model = make()
    weights = torch.ones(2, 8, 8)
    with pytest.raises(ShapeError, match=r"2.weight: the penalty must have parameters|2.weight: weights"):
        gramian.attach(sgd(model), model, beta=0.3, select="2.weight", penalty=Weighted(L1(), weights))


def test_a_strength_in_quotes(unchecked) -> None:
    model = make()
    with pytest.raises(GramianError, match="beta must be"):
        gramian.attach(sgd(model), model, beta="0.1")
