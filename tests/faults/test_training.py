"""Attachments that are made twice, copied, hard, on several devices, or of what cannot be stepped at all."""

import copy
import gc
import io
import math
import pickle
import warnings
import weakref
from functools import partial

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.utils import parametrizations, parametrize, prune

import gramian
from gramian import training
from gramian.errors import AttachmentWarning, GramianError, OptionError
from gramian.inspection import Inspection, statistics
from gramian.penalties import L1, Coherence, Cosine, Weighted
from gramian.rules import proximal
from gramian.selection import propose
from tests.training.networks import give_gradients, make, moved, names, reasons, sgd


def skipped_reasons(inspection: Inspection) -> dict[str, str]:
    return {each.name: each.reason for each in inspection.skipped}


class TestAttachedTwice:
    def test_the_later_one_takes_over(self) -> None:
        model, twin = make(), make()
        optimizer, other = sgd(model), sgd(twin)
        first = gramian.attach(optimizer, model, beta=0.3)
        with pytest.warns(
            AttachmentWarning, match=r"no longer acts on 0.weight, 2.weight, 4.weight: this one does, with β"
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
        with pytest.warns(AttachmentWarning, match="no longer acts on 2.weight:"):
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

    def test_pairs_that_may_be_anything_are_left_alone(self) -> None:
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

    def test_a_selection_of_another_kind(self) -> None:
        model = make()
        for select in (3, torch.float32):
            with pytest.raises(OptionError, match="select must be a glob or a compiled regular expression of names"):
                gramian.attach(sgd(model), model, beta=1.0, select=select)
            with pytest.raises(OptionError, match="select must be a glob or a compiled regular expression of names"):
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
        with torch.device("meta"):  # after set_default_device(None), get_default_device of torch 2.6 fails
            found = gramian.inspect(model)
            assert math.isnan(statistics(torch.full((4, 1, 2), math.nan, device="cpu")).mean)
        assert found.rows == expected.rows

    @pytest.mark.parametrize("beta", [0.3, math.inf])
    def test_training_where_the_default_device_is_another(self, beta) -> None:
        model = make()
        optimizer = sgd(model)
        give_gradients(model)
        with torch.device("meta"):
            attachment = gramian.attach(optimizer, model, beta=beta, penalty=L1(diagonal=False))
            gramian.attach(sgd(model), model, beta=1.0, penalty=Coherence(), rule=partial(proximal))
            optimizer.step()
        assert attachment.steps == 1

    def test_a_model_over_two_devices(self, monkeypatch) -> None:
        # Fake tensors have shapes and devices, and refuse to meet as those of real devices do; nothing is computed.
        def loss_of(tensors: list[Tensor], **_) -> Tensor:
            return torch.stack([each.sum() for each in tensors]).sum()

        monkeypatch.setattr(training.attaching.steps.foreach, "step_", loss_of)
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


def test_a_strength_in_quotes() -> None:
    model = make()
    with pytest.raises(GramianError, match="beta must be"):
        gramian.attach(sgd(model), model, beta="0.1")
