"""Attached where PEFT trains small factors beside frozen weights."""

import pytest
import torch
from torch import nn

import gramian
from gramian import training
from tests.integrations.networks import STEPS, language_model, largest, sentences

pytestmark = pytest.mark.filterwarnings("ignore")  # of the libraries, about themselves


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
