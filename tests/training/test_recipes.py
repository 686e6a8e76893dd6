"""Attached in other people's loops: Lightning, Hugging Face's Trainer, PEFT; and a decoder in random chunks."""

import pytest
import torch
from torch import Tensor, nn

import gramian
from gramian import training
from gramian.errors import LayoutError, OptionError

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


def test_lightning(tmp_path) -> None:
    import lightning
    from torch.utils.data import DataLoader

    class Classifier(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.network = nn.Sequential(nn.Linear(12, 8), nn.Tanh(), nn.Linear(8, 3))

        def training_step(self, batch, index) -> Tensor:
            x, y = batch
            return nn.functional.cross_entropy(self.network(x), y)

        def configure_optimizers(self) -> torch.optim.Optimizer:
            optimizer = torch.optim.AdamW(self.parameters(), lr=0.01)
            self.attachment = gramian.attach(optimizer, self, beta=50.0)
            return optimizer

    pairs = [(torch.randn(12), torch.randint(3, ())) for _ in range(8 * STEPS)]
    module = Classifier()
    trainer = lightning.Trainer(
        max_steps=STEPS, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, default_root_dir=tmp_path,
    )  # fmt: skip
    trainer.fit(module, DataLoader(pairs, batch_size=8))
    assert module.attachment.steps == STEPS
    assert {target.name for target in module.attachment.targets} == {"network.0.weight", "network.2.weight"}
    assert largest(module.attachment) < 0.05


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


FACTORS = {"*lora_A*": "r i -> i () r", "*lora_B*": "o r -> o () r"}


def tune(model: nn.Module, beta: float) -> training.Attachment:
    optimizer = torch.optim.AdamW([each for each in model.parameters() if each.requires_grad], lr=0.01)
    attachment = gramian.attach(optimizer, model, beta=beta, select=list(FACTORS), layouts=FACTORS)
    for start in range(0, 4 * STEPS, 4):
        tokens = torch.stack([each["input_ids"] for each in sentences()[start : start + 4]])
        optimizer.zero_grad()
        model(input_ids=tokens, labels=tokens).loss.backward()
        optimizer.step()
    return attachment


def test_lora() -> None:
    from peft import LoraConfig, get_peft_model

    model = get_peft_model(language_model(), LoraConfig(r=4, target_modules=["q_proj", "v_proj"]))
    attachment = tune(model, beta=50.0)
    assert len(attachment.targets) == 8
    assert {target.shape for target in attachment.targets} == {(32, 1, 4), (16, 1, 4)}
    rows = {name: left for name, left in attachment.residuals().items() if "lora_A" in name}
    assert len(rows) == 4
    assert max(rows.values()) < 0.1


def test_adalora_without_its_own_regulariser() -> None:
    from peft import AdaLoraConfig, get_peft_model

    def tuned(own: float, ours: float) -> float:
        config = AdaLoraConfig(
            init_r=4, target_r=2, total_step=4 * STEPS, target_modules=["q_proj", "v_proj"], orth_reg_weight=own
        )
        return largest(tune(get_peft_model(language_model(), config), ours))

    # PEFT wants a weight above zero for its own.
    assert tuned(own=1e-30, ours=50.0) < 0.1 < tuned(own=0.5, ours=0.0)


class TestRandomChunks:
    def test_a_decoder_of_a_sparse_autoencoder(self) -> None:
        torch.manual_seed(0)
        decoder = nn.Linear(512, 32, bias=False)
        nn.init.normal_(decoder.weight, std=32**-0.5)
        decoder.weight.data[:, 1::2] = decoder.weight.data[:, ::2] + 0.05 * torch.randn(32, 256)  # near-copies
        generator = torch.Generator().manual_seed(0)

        def near() -> float:
            unit = nn.functional.normalize(decoder.weight.detach(), dim=0)
            return ((unit.mT @ unit).abs() - torch.eye(512)).amax(dim=0).mean().item()

        before = near()
        for _ in range(60):
            training.step_chunks_(decoder.weight, 16, lr=0.01, beta=2.0, generator=generator)
        assert before > 0.95
        assert near() < 0.85 * before

    @pytest.mark.parametrize("layout", ["(m n) i -> i m n", "o i -> i () o", "o i -> i o ()"])
    def test_it_is_a_step_of_the_vectors_that_were_drawn(self, layout) -> None:
        made = gramian.Layout(layout, n=5) if "(m n)" in layout else gramian.Layout(layout)
        weight = torch.randn(20, 7, dtype=torch.float64)
        expected = weight.clone()
        drawn = torch.randperm(20, generator=torch.Generator().manual_seed(3))[:18]
        phi = expected[drawn].mT.reshape(7, 3, 6).clone()
        loss = gramian.step_(phi, lr=0.1, beta=0.5)
        expected[drawn] = phi.reshape(7, 18).mT
        generator = torch.Generator().manual_seed(3)
        found = training.step_chunks_(weight, 6, lr=0.1, beta=0.5, layout=made, generator=generator)
        assert torch.equal(weight, expected)
        torch.testing.assert_close(found, loss)

    def test_one_chunk_of_all_is_a_step(self) -> None:
        phi = torch.randn(9, 2, 3, dtype=torch.float64)
        twin = phi.flatten(1).clone()
        training.step_chunks_(phi, 6, lr=0.1)
        gramian.step_(twin, lr=0.1)
        torch.testing.assert_close(phi.flatten(1), twin)

    @pytest.mark.parametrize("size", [0, 7])
    def test_a_size_that_does_not_fit(self, size) -> None:
        with pytest.raises(OptionError, match="size must be from 1 to the 6 vectors"):
            training.step_chunks_(torch.randn(9, 2, 3), size, lr=0.1)

    def test_without_a_layout(self) -> None:
        with pytest.raises(LayoutError, match="without a layout"):
            training.step_chunks_(torch.randn(9, 2, 3, 4), 2, lr=0.1)
