"""Attached in other people's loops: Lightning, Accelerate, Hugging Face's Trainer, PEFT."""

import copy
import math

import pytest
import torch
from torch import Tensor, nn

import gramian
from gramian import training

pytestmark = pytest.mark.filterwarnings("ignore")  # of the libraries, about themselves

STEPS = 12


def sentences() -> list[dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(40, (4 * STEPS, 16), generator=generator)
    return [{"input_ids": each, "labels": each} for each in tokens]


def language_model() -> nn.Module:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=40, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=16,
    )  # fmt: skip
    return LlamaForCausalLM(config)


def gpt2() -> nn.Module:
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    return GPT2LMHeadModel(GPT2Config(vocab_size=40, n_positions=16, n_embd=32, n_layer=2, n_head=4))


def largest(attachment: training.Attachment) -> float:
    return max(attachment.residuals().values())


def pairs(count: int) -> list[tuple[Tensor, Tensor]]:
    return [(torch.randn(12), torch.randint(3, ())) for _ in range(count)]


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(12, 8), nn.Tanh(), nn.Linear(8, 3))


try:
    import lightning
except ImportError:
    lightning = None

if lightning is not None:

    class Classifier(lightning.LightningModule):
        """At the top of a module, for it is pickled."""

        def __init__(self, where: str = "optimizers") -> None:
            super().__init__()
            self.network, self.where = network(), where

        def training_step(self, batch, index) -> Tensor:
            x, y = batch
            return nn.functional.cross_entropy(self.network(x), y)

        def configure_optimizers(self) -> torch.optim.Optimizer:
            optimizer = torch.optim.AdamW(self.parameters(), lr=0.01)
            if self.where == "optimizers":
                self.attachment = gramian.attach(optimizer, self, beta=50.0)
            return optimizer

        def on_fit_start(self) -> None:
            if self.where == "start":
                self.attachment = gramian.attach(self.optimizers(), self, beta=50.0)


@pytest.mark.parametrize("where", ["optimizers", "start"])
def test_lightning(where, tmp_path) -> None:
    from torch.utils.data import DataLoader

    module = Classifier(where)
    trainer = lightning.Trainer(
        max_steps=STEPS, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, default_root_dir=tmp_path, accumulate_grad_batches=2,
    )  # fmt: skip
    trainer.fit(module, DataLoader(pairs(16 * STEPS), batch_size=8))
    assert module.attachment.steps == STEPS
    assert {target.name for target in module.attachment.targets} == {"network.0.weight", "network.2.weight"}
    assert largest(module.attachment) < 0.05
    trainer.save_checkpoint(tmp_path / "whole.ckpt")
    torch.save(module, tmp_path / "module.pt")
    for twin in (copy.deepcopy(module), torch.load(tmp_path / "module.pt", weights_only=False)):
        assert twin.attachment.handle is None
        assert "attached to nothing" in str(twin.attachment)
        assert largest(twin.attachment) == largest(module.attachment)
    again = Classifier.load_from_checkpoint(tmp_path / "whole.ckpt", weights_only=False)
    assert torch.equal(again.network[0].weight, module.network[0].weight)


def test_fabric() -> None:
    model = network()
    fabric = lightning.Fabric(accelerator="cpu", devices=1)
    wrapped, optimizer = fabric.setup(model, torch.optim.SGD(model.parameters(), lr=0.01))
    attachment = gramian.attach(optimizer, wrapped, beta=50.0)
    for _ in range(STEPS):
        optimizer.zero_grad()
        fabric.backward(wrapped(torch.randn(8, 12)).square().mean())
        optimizer.step()
    assert attachment.steps == STEPS
    assert len(attachment.targets) == 2


def accelerated(model: nn.Module, **options):
    from accelerate import Accelerator

    accelerator = Accelerator(cpu=True, **options)
    return accelerator, *accelerator.prepare(model, torch.optim.SGD(model.parameters(), lr=0.01))


def test_accelerate_with_accumulation() -> None:
    accelerator, model, optimizer = accelerated(network(), gradient_accumulation_steps=3)
    attachment = gramian.attach(optimizer, model, beta=5.0)
    assert [target.name for target in attachment.targets] == ["0.weight", "2.weight"]
    for _ in range(STEPS):
        with accelerator.accumulate(model):
            accelerator.backward(model(torch.randn(8, 12)).square().mean())
            optimizer.step()
            optimizer.zero_grad()
    assert attachment.steps == STEPS // 3


def test_accelerate_skips_steps_that_overflow() -> None:
    _, model, optimizer = accelerated(network())
    optimizer.scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    optimizer.__setstate__(optimizer.__getstate__())  # it patches the step of an optimiser that has a scaler
    attachment = gramian.attach(optimizer, model, beta=5.0)
    for step in range(6):
        optimizer.zero_grad()
        optimizer.scaler.scale(model(torch.randn(8, 12)).square().mean()).backward()
        if step in (2, 3):
            model[0].weight.grad[0, 0] = math.inf
        optimizer.step()
        assert optimizer.step_was_skipped == (step in (2, 3))
    assert attachment.steps == 4


def test_hugging_face_trainer_from_a_callback(tmp_path) -> None:
    from transformers import Trainer, TrainerCallback, TrainingArguments

    class Attach(TrainerCallback):
        def on_train_begin(self, args, state, control, model=None, optimizer=None, **_) -> None:
            self.attachment = gramian.attach(optimizer, model, beta=50.0)

    callback = Attach()
    arguments = TrainingArguments(
        str(tmp_path), max_steps=STEPS, per_device_train_batch_size=2, gradient_accumulation_steps=2, use_cpu=True,
        report_to=[], save_strategy="no", disable_tqdm=True, learning_rate=0.02,
    )  # fmt: skip
    Trainer(language_model(), arguments, train_dataset=sentences(), callbacks=[callback]).train()
    assert callback.attachment.steps == STEPS
    assert largest(callback.attachment) < 0.5


@pytest.mark.parametrize("make", [language_model, gpt2])
def test_hugging_face_trainer(make, tmp_path) -> None:
    from transformers import Trainer, TrainingArguments

    model = make()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    attachment = gramian.attach(optimizer, model, beta=50.0)
    arguments = TrainingArguments(
        str(tmp_path), max_steps=STEPS, per_device_train_batch_size=4, use_cpu=True, report_to=[], save_strategy="no",
        disable_tqdm=True,
    )  # fmt: skip
    Trainer(model, arguments, train_dataset=sentences(), optimizers=(optimizer, None)).train()
    assert attachment.steps == STEPS
    assert largest(attachment) < 0.2
    shapes = {target.name: target.shape for target in attachment.targets}
    if make is gpt2:
        assert shapes["transformer.h.0.attn.c_attn.weight"] == (32, 12, 8)
        assert shapes["transformer.h.1.attn.c_proj.weight"] == (32, 4, 8)
    else:
        assert shapes["model.layers.0.self_attn.q_proj.weight"] == (32, 4, 8)
        assert shapes["model.layers.0.self_attn.k_proj.weight"] == (32, 2, 8)
        assert shapes["model.layers.1.self_attn.o_proj.weight"] == (32, 4, 8)
    assert not any("embed" in name or "wte" in name for name in shapes)


def tune(model: nn.Module, beta: float, **options) -> training.Attachment:
    optimizer = torch.optim.AdamW([each for each in model.parameters() if each.requires_grad], lr=0.01)
    attachment = gramian.attach(optimizer, model, beta=beta, **options)
    for start in range(0, 4 * STEPS, 4):
        tokens = torch.stack([each["input_ids"] for each in sentences()[start : start + 4]])
        optimizer.zero_grad()
        model(input_ids=tokens, labels=tokens).loss.backward()
        optimizer.step()
    return attachment


def test_lora() -> None:
    from peft import LoraConfig, get_peft_model

    def largest_cosine(beta: float) -> float:
        torch.manual_seed(0)
        model = get_peft_model(language_model(), LoraConfig(r=4, target_modules=["q_proj", "v_proj"]))
        attachment = tune(model, beta)
        assert len(attachment.targets) == 4
        cosines = []
        for target in attachment.targets:
            assert "lora_A" in target.name
            assert target.shape == (32, 1, 4)
            rows = nn.functional.normalize(target.parameter.detach())
            cosines.append((rows @ rows.T - torch.eye(4)).abs().max().item())
            assert 0.2 < target.parameter.norm(dim=1).max() < 0.9  # lengths are free
            B = model.get_parameter(target.name.replace("lora_A", "lora_B"))
            assert 0 < B.norm(dim=0).max() < 0.5
        return max(cosines)

    assert largest_cosine(50.0) < 0.1 < largest_cosine(0.0)


def test_lora_with_both_factors_selected_keeps_lengths_free() -> None:
    from peft import LoraConfig, get_peft_model

    model = get_peft_model(language_model(), LoraConfig(r=4, target_modules=["q_proj", "v_proj"]))
    attachment = tune(model, beta=50.0, select="*lora_?*")
    assert {target.shape for target in attachment.targets} == {(32, 1, 4), (16, 1, 4)}
    assert all(target.parameter.norm(dim=0).max() < 0.5 for target in attachment.targets if "lora_B" in target.name)


def test_adalora_without_its_own_regulariser() -> None:
    from peft import AdaLoraConfig, get_peft_model

    def tuned(own: float, ours: float) -> float:
        config = AdaLoraConfig(
            init_r=4, target_r=2, total_step=4 * STEPS, target_modules=["q_proj", "v_proj"], orth_reg_weight=own
        )
        attachment = tune(get_peft_model(language_model(), config), ours, penalty="l1")
        assert len(attachment.targets) == 8
        return largest(attachment)

    # PEFT wants a weight above zero for its own.
    assert tuned(own=1e-30, ours=50.0) < 0.1 < tuned(own=0.5, ours=0.0)
