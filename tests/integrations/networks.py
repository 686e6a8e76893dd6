"""Small networks, their data, and the largest residual of an attachment."""

import torch
from torch import Tensor, nn

from gramian import training

STEPS = 12


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(12, 8), nn.Tanh(), nn.Linear(8, 3))


def pairs(count: int) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(count, 12, generator=generator), torch.randint(3, (count,), generator=generator)
    return list(zip(x, y, strict=True))


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


def same(model: nn.Module, other: nn.Module) -> bool:
    """Whether all parameters of two models have the same bits."""
    return all(torch.equal(one, two) for one, two in zip(model.parameters(), other.parameters(), strict=True))
