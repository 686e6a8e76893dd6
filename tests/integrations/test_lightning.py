"""Attached in the loops of Lightning: by the callback, by hand, and in Fabric."""

import copy
import doctest
import importlib
import sys
from types import ModuleType

import pytest
import torch
from torch import nn

import gramian
from gramian.errors import MissingExtraError, OptionError
from gramian.training import WarmUp
from tests.integrations.networks import STEPS, largest, network, same

pytestmark = pytest.mark.filterwarnings("ignore")  # of the libraries, about themselves


@pytest.fixture
def runs() -> ModuleType:
    """Import Lightning when the first test runs: it takes seconds."""
    from tests.integrations import in_lightning

    return in_lightning


@pytest.mark.parametrize("where", ["optimizers", "start"])
def test_by_hand(runs, where, tmp_path) -> None:
    module = runs.Classifier(where)
    loop = runs.trainer(tmp_path, max_steps=STEPS, accumulate_grad_batches=2)
    loop.fit(module, runs.batches(2 * STEPS))
    assert module.attachment.steps == STEPS
    assert {target.name for target in module.attachment.targets} == {"network.0.weight", "network.2.weight"}
    assert largest(module.attachment) < 0.05
    loop.save_checkpoint(tmp_path / "whole.ckpt")
    torch.save(module, tmp_path / "module.pt")
    for twin in (copy.deepcopy(module), torch.load(tmp_path / "module.pt", weights_only=False)):
        assert twin.attachment.handle is None
        assert "attached to nothing" in str(twin.attachment)
        assert largest(twin.attachment) == largest(module.attachment)
    again = runs.Classifier.load_from_checkpoint(tmp_path / "whole.ckpt", weights_only=False)
    assert torch.equal(again.network[0].weight, module.network[0].weight)


class TestCallback:
    def test_accumulation_and_loggers(self, runs, tmp_path) -> None:
        module, recorder = runs.Classifier(), runs.Recorder()
        callback = runs.OrthogonalityCallback(beta=50.0, exclude="*.2.*")
        loop = runs.trainer(
            tmp_path, max_steps=STEPS, accumulate_grad_batches=2, callbacks=[callback], logger=recorder,
            log_every_n_steps=5,
        )  # fmt: skip
        loop.fit(module, runs.batches(2 * STEPS))
        (attachment,) = callback.attachments
        assert attachment.steps == STEPS
        assert attachment.handle is None
        assert [target.name for target in attachment.targets] == ["network.0.weight"]
        assert largest(attachment) < 0.05
        rows = [(step, metrics) for step, metrics in recorder.rows if "gramian/loss" in metrics]
        assert [step for step, _ in rows] == [5, 10]
        assert set(rows[0][1]) == {"gramian/loss", "gramian/residual", "gramian/residual/network.0.weight"}
        assert 0 < rows[1][1]["gramian/residual"] < rows[0][1]["gramian/residual"]

    @pytest.mark.parametrize("beta", [WarmUp(50.0, steps=10), float("inf")], ids=["warm-up", "hard"])
    def test_a_resumed_run_has_the_same_bits(self, runs, beta, tmp_path) -> None:
        def fit(epochs: int, checkpoint=None) -> tuple[runs.Classifier, runs.OrthogonalityCallback]:
            module, callback = runs.Classifier(), runs.OrthogonalityCallback(beta=beta)
            loop = runs.trainer(tmp_path, max_epochs=epochs, callbacks=[callback])
            loop.fit(module, runs.batches(4), ckpt_path=checkpoint)
            loop.save_checkpoint(tmp_path / f"{epochs}.ckpt")
            return module, callback

        (whole, _), (part, _) = fit(2), fit(1)
        resumed, callback = fit(2, tmp_path / "1.ckpt")
        assert callback.attachments[0].steps == 8
        assert same(resumed, whole)
        assert not same(part, whole)
        checkpoint = torch.load(tmp_path / "2.ckpt", weights_only=False)
        assert checkpoint["callbacks"]["OrthogonalityCallback"] == {"attachments": [{"steps": 8}]}
        if isinstance(beta, WarmUp):  # the state is needed
            forgetful = torch.load(tmp_path / "1.ckpt", weights_only=False)
            forgetful["callbacks"]["OrthogonalityCallback"]["attachments"][0]["steps"] = 0
            torch.save(forgetful, tmp_path / "0.ckpt")
            assert not same(fit(2, tmp_path / "0.ckpt")[0], whole)

    def test_two_optimisers_by_hand_and_one_without_weights(self, runs, tmp_path) -> None:
        module, recorder = runs.Adversaries(), runs.Recorder()
        callback = runs.OrthogonalityCallback(
            beta={"generator.*": 5.0, "critic.*": 50.0}, exclude="*.2.*", residuals=False
        )
        loop = runs.trainer(tmp_path, max_epochs=1, callbacks=[callback], logger=recorder, log_every_n_steps=4)
        loop.fit(module, runs.batches())
        names = [[target.name for target in attachment.targets] for attachment in callback.attachments]
        assert names == [["generator.0.weight"], ["critic.0.weight"]]
        assert [attachment.steps for attachment in callback.attachments] == [STEPS, STEPS]
        rows = [metrics for _, metrics in recorder.rows if "gramian/loss" in metrics]
        assert len(rows) == STEPS // 4
        assert rows[-1] == {"gramian/loss": pytest.approx(sum(each.loss.item() for each in callback.attachments))}
        loop.save_checkpoint(tmp_path / "two.ckpt")
        with pytest.raises(OptionError, match="a state for each of the 1 attachments; got 2; try the optimizers with"):
            runs.trainer(
                tmp_path, max_epochs=2, callbacks=[runs.OrthogonalityCallback(beta=1.0, select="critic.*weight")]
            ).fit(module, runs.batches(), ckpt_path=tmp_path / "two.ckpt")

    def test_a_parameter_in_no_optimiser(self, runs, tmp_path) -> None:
        module = runs.Adversaries()
        module.critic.append(nn.Linear(3, 2))
        module.configure_optimizers = lambda: [
            torch.optim.SGD(net.parameters(), lr=0.1) for net in (module.generator, module.critic[:3])
        ]
        with pytest.raises(OptionError, match=r"must be in the optimizer; got critic\.3\.weight, which"):
            runs.trainer(tmp_path, max_steps=2, callbacks=[runs.OrthogonalityCallback(beta=1.0)]).fit(
                module, runs.batches(2)
            )

    def test_mixed_precision_and_steps_that_overflow(self, runs, tmp_path) -> None:
        for plugin, updates in (
            (runs.MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=4.0)), STEPS - 2),
            (runs.MixedPrecision("bf16-mixed", "cpu"), STEPS),
        ):
            module = runs.Overflowing() if updates < STEPS else runs.Classifier()
            callback = runs.OrthogonalityCallback(beta=50.0)
            runs.trainer(tmp_path, max_epochs=1, callbacks=[callback], plugins=[plugin]).fit(module, runs.batches())
            assert callback.attachments[0].steps == updates
            assert largest(callback.attachments[0]) < 0.1

    def test_a_second_fit_starts_anew_and_an_exception_removes_the_hook(self, runs, tmp_path) -> None:
        class Failing(runs.Classifier):
            def on_train_batch_end(self, *_) -> None:
                if self.trainer.global_step == 2:
                    raise RuntimeError("stopped")

        callback = runs.OrthogonalityCallback(beta=1.0)
        with pytest.raises(RuntimeError, match="stopped"):
            runs.trainer(tmp_path, max_epochs=1, callbacks=[callback]).fit(Failing(), runs.batches(4))
        (first,) = callback.attachments
        assert (first.handle, first.steps) == (None, 2)
        runs.trainer(tmp_path, max_epochs=1, callbacks=[callback]).fit(runs.Classifier(), runs.batches(4))
        assert callback.attachments[0].steps == 4
        assert first.steps == 2

    def test_options_are_checked_at_once(self, runs) -> None:
        with pytest.raises(OptionError, match=r"options must be those of gramian.attach; got .*'betta'; try help"):
            runs.OrthogonalityCallback(beta=1.0, betta=2.0)
        with pytest.raises(OptionError, match=r"missing a required .*'beta'"):
            runs.OrthogonalityCallback()

    def test_its_examples(self, runs) -> None:
        from gramian.integrations import lightning as integration

        assert all(hasattr(integration, name) for name in integration.__all__)
        result = doctest.testmod(integration)
        assert result.attempted
        assert not result.failed

    def test_without_lightning(self, runs, monkeypatch) -> None:
        monkeypatch.setitem(sys.modules, "lightning.pytorch", None)
        monkeypatch.delitem(sys.modules, "gramian.integrations.lightning")
        with pytest.raises(MissingExtraError, match=r"needs lightning, which must be .*'gramian\[lightning\]'"):
            importlib.import_module("gramian.integrations.lightning")

    @pytest.mark.slow
    def test_in_the_trainer_of_the_older_package(self, runs, tmp_path) -> None:
        older = pytest.importorskip("pytorch_lightning")

        class Module(older.LightningModule):
            def __init__(self) -> None:
                super().__init__()
                self.network = network()

            def training_step(self, batch, index) -> torch.Tensor:
                return nn.functional.cross_entropy(self.network(batch[0]), batch[1])

            def configure_optimizers(self) -> torch.optim.Optimizer:
                return torch.optim.AdamW(self.parameters(), lr=0.01)

        callback = runs.OrthogonalityCallback(beta=50.0)
        loop = older.Trainer(
            max_epochs=1, callbacks=[callback], accelerator="cpu", logger=False, enable_checkpointing=False,
            enable_progress_bar=False, enable_model_summary=False, default_root_dir=tmp_path,
        )  # fmt: skip
        loop.fit(Module(), runs.batches())
        assert callback.attachments[0].steps == STEPS


class TestFabric:
    def test_setup_checkpoint_and_log(self, runs, tmp_path) -> None:
        def train(model, optimizer, steps: range) -> None:
            for step in steps:
                optimizer.zero_grad()
                x = torch.randn(8, 12, generator=torch.Generator().manual_seed(step))
                fabric.backward(model(x).square().mean())
                optimizer.step()

        def prepared():
            model = network()
            model, optimizer = fabric.setup(model, torch.optim.Adam(model.parameters(), lr=0.01))
            return model, optimizer, gramian.attach(optimizer, model, beta=WarmUp(50.0, steps=10))

        recorder = runs.Recorder()
        fabric = runs.lightning.Fabric(accelerator="cpu", devices=1, loggers=recorder)
        model, optimizer, attachment = prepared()
        train(model, optimizer, range(6))
        assert [target.name for target in attachment.targets] == ["0.weight", "2.weight"]
        assert attachment.log(fabric) == recorder.rows[0][1]
        assert recorder.rows[0][0] == 6
        state = {"model": model, "optimizer": optimizer, "attachment": attachment.state_dict()}
        fabric.save(tmp_path / "state.ckpt", state)
        train(model, optimizer, range(6, STEPS))
        again, its_optimizer, its_attachment = prepared()
        rest = fabric.load(tmp_path / "state.ckpt", {"model": again, "optimizer": its_optimizer})
        its_attachment.load_state_dict(rest["attachment"])
        assert its_attachment.steps == 6
        train(again, its_optimizer, range(6, STEPS))
        assert same(again, model)
