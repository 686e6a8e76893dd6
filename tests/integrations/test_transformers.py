"""Attached in the loop of Hugging Face's Trainer: by the callback, and with an optimiser that is passed to it."""

import doctest
import importlib
import json
import sys
from types import ModuleType

import pytest
import torch

import gramian
from gramian.errors import MissingExtraError, OptionError
from gramian.training import WarmUp
from tests.integrations.networks import STEPS, gpt2, language_model, largest, same, sentences

pytestmark = pytest.mark.filterwarnings("ignore")  # of the libraries, about themselves


@pytest.fixture
def runs() -> ModuleType:
    """Import the Trainer when the first test runs: it takes seconds."""
    from tests.integrations import in_transformers

    return in_transformers


def test_an_optimiser_that_is_passed(runs, tmp_path) -> None:
    model = gpt2()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    attachment = gramian.attach(optimizer, model, beta=50.0)
    options = runs.arguments(tmp_path, per_device_train_batch_size=4)
    runs.Trainer(model, options, train_dataset=sentences(), optimizers=(optimizer, None)).train()
    assert attachment.steps == STEPS
    assert largest(attachment) < 0.2
    shapes = {target.name: target.shape for target in attachment.targets}
    assert shapes["transformer.h.0.attn.c_attn.weight"] == (32, 12, 8)
    assert shapes["transformer.h.1.attn.c_proj.weight"] == (32, 4, 8)
    assert not any("wte" in name for name in shapes)


class TestCallback:
    def test_accumulation_mixed_precision_and_the_log(self, runs, tmp_path) -> None:
        callback = runs.OrthogonalityCallback(beta=50.0)
        options = runs.arguments(
            tmp_path, gradient_accumulation_steps=2, bf16=True, logging_strategy="steps", logging_steps=4
        )
        trainer = runs.trained(options, callback)
        attachment = callback.attachment
        assert attachment.steps == STEPS
        assert attachment.handle is None
        assert largest(attachment) < 0.5
        shapes = {target.name: target.shape for target in attachment.targets}
        assert shapes["model.layers.0.self_attn.q_proj.weight"] == (32, 4, 8)
        assert shapes["model.layers.0.self_attn.k_proj.weight"] == (32, 2, 8)
        assert shapes["model.layers.1.self_attn.o_proj.weight"] == (32, 4, 8)
        assert not any("embed" in name for name in shapes)
        rows = [row for row in trainer.state.log_history if "gramian/loss" in row]
        assert [row["step"] for row in rows] == [4, 8, 12]
        assert all("loss" in row for row in rows)
        assert rows[-1]["gramian/residual"] == pytest.approx(largest(attachment))
        assert "gramian/residual/model.layers.0.self_attn.q_proj.weight" in rows[0]

    def test_the_trainer_as_logger_reaches_reporters(self, runs, tmp_path) -> None:
        recorder = runs.Recorder()
        options = runs.arguments(tmp_path, max_steps=4, logging_strategy="steps", logging_steps=2)
        trainer = runs.Trainer(language_model(), options, train_dataset=sentences(), callbacks=[recorder])
        trainer.add_callback(runs.OrthogonalityCallback(beta=50.0, logger=trainer, residuals=False))
        trainer.train()
        logged = [(step, "loss" in logs, "gramian/loss" in logs) for step, logs in recorder.logs]
        assert logged == [(2, True, False), (2, False, True), (4, True, False), (4, False, True), (4, False, False)]
        assert not any("gramian/residual" in logs for _, logs in recorder.logs)

    @pytest.mark.parametrize("restoring", [False, pytest.param(True, marks=pytest.mark.slow)])
    def test_a_resumed_run_has_the_same_bits(self, runs, restoring, tmp_path) -> None:
        options = runs.arguments(
            tmp_path, save_strategy="steps", save_steps=6, restore_callback_states_from_checkpoint=restoring
        )
        beta = WarmUp(50.0, steps=10)
        whole = runs.trained(options, runs.OrthogonalityCallback(beta=beta))
        callback = runs.OrthogonalityCallback(beta=beta)
        folder = tmp_path / "checkpoint-6"
        resumed = runs.trained(options, callback, resume=str(folder))
        assert callback.attachment.steps == STEPS
        assert same(resumed.model, whole.model)
        if not restoring:  # the state is needed; and a checkpoint without it can be resumed
            state = json.loads((folder / "trainer_state.json").read_text())
            assert state["stateful_callbacks"].pop("gramian") == {"args": {}, "attributes": {"steps": 6}}
            (folder / "trainer_state.json").write_text(json.dumps(state))
            callback = runs.OrthogonalityCallback(beta=beta)
            forgetful = runs.trained(options, callback, resume=str(folder))
            assert callback.attachment.steps == 6
            assert not same(forgetful.model, whole.model)

    def test_a_second_training_starts_anew(self, runs, tmp_path) -> None:
        callback = runs.OrthogonalityCallback(beta=1.0)
        trainer = runs.trained(runs.arguments(tmp_path, max_steps=2), callback)
        first = callback.attachment
        trainer.train()
        assert (first.steps, callback.attachment.steps) == (2, 2)
        assert callback.attachment is not first

    def test_options_are_checked_at_once(self, runs) -> None:
        with pytest.raises(OptionError, match=r"options must be those of gramian.attach; got .*'betta'; try help"):
            runs.OrthogonalityCallback(beta=1.0, betta=2.0)

    def test_its_examples(self, runs) -> None:
        from gramian.integrations import transformers as integration

        assert all(hasattr(integration, name) for name in integration.__all__)
        result = doctest.testmod(integration)
        assert result.attempted
        assert not result.failed

    def test_without_transformers(self, runs, monkeypatch) -> None:
        monkeypatch.setitem(sys.modules, "transformers", None)
        monkeypatch.delitem(sys.modules, "gramian.integrations.transformers")
        with pytest.raises(MissingExtraError, match=r"needs transformers, which .*'gramian\[transformers\]'"):
            importlib.import_module("gramian.integrations.transformers")
