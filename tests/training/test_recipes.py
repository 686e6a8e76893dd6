"""Attached where PEFT trains small factors beside frozen weights."""

import pytest
import torch
from torch import nn

import gramian
from gramian import training
from tests.integrations.networks import STEPS, language_model, largest, sentences

pytestmark = pytest.mark.filterwarnings("ignore")  # of the libraries, about themselves

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
