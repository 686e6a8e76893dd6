"""What `gramian.attach` selects in common networks, how and why, from tiny models built from their configs.

No weights are downloaded. One row stands for all layers with the same name but for numbers. Writes the table into
docs/measured; it takes about ten seconds, and its last line says with which versions of the libraries.
"""

import argparse
import re
import warnings
from collections import Counter
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

from evidence import FOLDER
from torch import nn

from gramian.files import replace_file
from gramian.selection import SelectedParameter, SkippedParameter, select_parameters

__all__ = ["MODELS", "NAME", "build", "table", "versions"]

NAME = "models_table.md"

LIBRARIES = ("torch", "transformers", "peft")

WIDTH, LAYERS, HEADS, WORDS = 32, 2, 4, 96


def build(family: str, head: str, **options: Any) -> nn.Module:
    """Build a model of transformers, `family` + `head`, from its config."""
    import transformers

    transformers.logging.set_verbosity_error()
    config = getattr(transformers, f"{family}Config")(**options)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return getattr(transformers, f"{family}{head}")(config)


def decoder(family: str, head: str = "ForCausalLM", **options: Any) -> nn.Module:
    """Build a language model with the usual names of options."""
    usual = {
        "vocab_size": WORDS, "hidden_size": WIDTH, "intermediate_size": 48, "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS, "max_position_embeddings": 16, "pad_token_id": 0, "bos_token_id": 1,
        "eos_token_id": 2,
    }  # fmt: skip
    return build(family, head, **usual | options)


def llama() -> nn.Module:
    """Build a LLaMA in which two heads of q share one of k and v."""
    return decoder("Llama", num_key_value_heads=2)


def adapted(config: str, **options: Any) -> nn.Module:
    """Adapt a LLaMA by PEFT."""
    import peft

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return peft.get_peft_model(llama(), getattr(peft, config)(**options))  # pyright: ignore[reportArgumentType]


def t5() -> nn.Module:
    return build(
        "T5", "ForConditionalGeneration", vocab_size=WORDS, d_model=WIDTH, d_kv=8, d_ff=48, num_layers=LAYERS,
        num_heads=HEADS,
    )  # fmt: skip


def whisper() -> nn.Module:
    return build(
        "Whisper", "ForConditionalGeneration", vocab_size=WORDS, d_model=WIDTH, encoder_layers=LAYERS,
        decoder_layers=LAYERS, encoder_attention_heads=HEADS, decoder_attention_heads=HEADS, encoder_ffn_dim=48,
        decoder_ffn_dim=48, num_mel_bins=8, max_source_positions=16, max_target_positions=16, pad_token_id=0,
        bos_token_id=1, eos_token_id=2, decoder_start_token_id=1,
    )  # fmt: skip


def deepseek() -> nn.Module:
    return decoder(
        "DeepseekV3", q_lora_rank=16, kv_lora_rank=16, qk_nope_head_dim=8, qk_rope_head_dim=4, v_head_dim=8,
        n_routed_experts=4, num_experts_per_tok=2, n_group=1, topk_group=1, moe_intermediate_size=16,
        num_key_value_heads=HEADS, first_k_dense_replace=1,
    )  # fmt: skip


MODELS: dict[str, Callable[[], nn.Module]] = {
    "ResNet": lambda: build(
        "ResNet", "ForImageClassification", embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1],
        layer_type="bottleneck", num_labels=10,
    ),
    "ConvNeXt": lambda: build(
        "ConvNext", "ForImageClassification", hidden_sizes=[8, 16], depths=[1, 1], num_stages=2, num_labels=10
    ),
    "ViT": lambda: build(
        "ViT", "ForImageClassification", image_size=32, patch_size=8, hidden_size=WIDTH, num_hidden_layers=LAYERS,
        num_attention_heads=HEADS, intermediate_size=48, num_labels=10,
    ),
    "Swin": lambda: build(
        "Swin", "ForImageClassification", image_size=32, patch_size=4, embed_dim=16, depths=[1, 1], num_heads=[2, 4],
        window_size=4, num_labels=10,
    ),
    "LLaMA, GQA": llama,
    "Phi-3, GQA": lambda: decoder("Phi3", num_key_value_heads=2),
    "Gemma 2, heads longer than hidden / heads": lambda: decoder("Gemma2", num_key_value_heads=2, head_dim=16),
    "Qwen3-Next, queries with gates": lambda: decoder(
        "Qwen3Next", num_key_value_heads=2, head_dim=8, linear_num_value_heads=2, linear_num_key_heads=2,
        linear_key_head_dim=8, linear_value_head_dim=8, num_experts=4, moe_intermediate_size=16,
        shared_expert_intermediate_size=16, layer_types=["linear_attention", "full_attention"],
    ),
    "Mixtral": lambda: decoder("Mixtral", num_key_value_heads=2, num_local_experts=4),
    "GPT-OSS": lambda: decoder("GptOss", num_key_value_heads=2, head_dim=8, num_local_experts=4),
    "DeepSeek-V3": deepseek,
    "GPT-NeoX": lambda: decoder("GPTNeoX"),
    "BLOOM": lambda: build("Bloom", "ForCausalLM", vocab_size=WORDS, hidden_size=WIDTH, n_layer=LAYERS, n_head=HEADS),
    "Falcon, one head of k and v": lambda: decoder("Falcon", multi_query=True, new_decoder_architecture=False),
    "Falcon, new": lambda: decoder("Falcon", num_kv_heads=2, new_decoder_architecture=True),
    "Falcon, as many heads of k and v": lambda: decoder("Falcon", multi_query=False, new_decoder_architecture=False),
    "MPT": lambda: build("Mpt", "ForCausalLM", vocab_size=WORDS, d_model=WIDTH, n_layers=LAYERS, n_heads=HEADS),
    "GPT-2": lambda: build("GPT2", "LMHeadModel", vocab_size=WORDS, n_embd=WIDTH, n_layer=LAYERS, n_head=HEADS),
    "GPT-BigCode, one head of k and v": lambda: build(
        "GPTBigCode", "ForCausalLM", vocab_size=WORDS, n_embd=WIDTH, n_layer=LAYERS, n_head=HEADS, n_positions=16
    ),
    "BERT": lambda: decoder("Bert", "ForMaskedLM"),
    "DistilBERT": lambda: build(
        "DistilBert", "ForSequenceClassification", vocab_size=WORDS, dim=WIDTH, hidden_dim=48, n_layers=LAYERS,
        n_heads=HEADS,
    ),
    "DeBERTa": lambda: decoder(
        "Deberta", "ForSequenceClassification", relative_attention=True, pos_att_type=["c2p", "p2c"],
    ),
    "T5": t5,
    "Whisper": whisper,
    "LSTM": lambda: nn.LSTM(WIDTH, 24, num_layers=2, bidirectional=True, proj_size=16),
    "torch.nn.TransformerEncoder": lambda: nn.TransformerEncoder(
        nn.TransformerEncoderLayer(WIDTH, HEADS, 48), LAYERS, enable_nested_tensor=False
    ),
    "LoRA on LLaMA": lambda: adapted(
        "LoraConfig", r=4, target_modules=["q_proj", "v_proj", "down_proj", "embed_tokens"],
        modules_to_save=["lm_head"],
    ),
    "AdaLoRA on LLaMA": lambda: adapted(
        "AdaLoraConfig", init_r=4, target_r=2, total_step=10, target_modules=["q_proj", "v_proj"]
    ),
}  # fmt: skip
"""Names and how to build a tiny one of each."""


def versions() -> str:
    """Return the versions of the libraries that define the models."""
    return ", ".join(f"{library} {version(library).partition('+')[0]}" for library in LIBRARIES)


def table() -> str:
    """Return the Markdown text: for each model a table of its weights, and the number of the rest."""
    parts = [_of_model(name, make()) for name, make in MODELS.items()]
    return "\n".join([*parts, f"Written by `python examples/models_table.py` with {versions()}.\n"])


def _of_model(name: str, model: nn.Module) -> str:
    selected, skipped = select_parameters(model)
    order = {name: number for number, name in enumerate(dict(model.named_parameters(remove_duplicate=False)))}
    weights, rest = list[SelectedParameter | SkippedParameter](selected), Counter[str]()
    for each in skipped:
        frozen = each.reason.startswith("frozen")
        if each.shape is None or len(each.shape) < 2 or frozen or "bias" in each.reason:
            rest[each.reason] += 1
        else:
            weights.append(each)
    rows: Counter[tuple[str, ...]] = Counter()
    for each in sorted(weights, key=lambda each: order[each.name]):
        rows[_row(each)] += 1
    lines = [f"**{name}** (`{type(_unwrapped(model)).__name__}`)", ""]
    lines += ["| weights | shape | l × m × n | layout | why |", "|---|---|---|---|---|"]
    for names, count, cells in _alike(rows):
        lines.append(f"| `{names}`{f' × {count}' if count > 1 else ''} | {' | '.join(cells)} |")
    if rest:
        lines += ["", f"Also skipped: {', '.join(f'{count} × {reason}' for reason, count in rest.most_common())}."]
    return "\n".join([*lines, ""])


def _row(each: SelectedParameter | SkippedParameter) -> tuple[str, ...]:
    """Return the name with * for numbers, and the other cells."""
    name = re.sub(r"(?<=\.)\d+(?=\.|$)|(?<=_l)\d+", "*", each.name)
    if isinstance(each, SkippedParameter):
        return name, str(list(each.shape or ())), "skipped", "", each.reason
    shape = str(list(each.parameter.shape))
    return name, shape, " × ".join(map(str, each.shape)), f"`{each.layout}`", each.reason


def _alike(rows: Counter[tuple[str, ...]]) -> list[tuple[str, int, tuple[str, ...]]]:
    """Join neighbouring rows that differ in one part of the name only, as in `self_attn.{q_proj,k_proj}.weight`."""
    joined: list[tuple[list[str], int, tuple[str, ...]]] = []
    for (name, *cells), count in rows.items():
        parts = name.split(".")
        if joined and joined[-1][1:] == (count, tuple(cells)) and len(joined[-1][0]) == len(parts):
            earlier = joined[-1][0]
            different = [number for number, part in enumerate(parts) if earlier[number] != part]
            if len(different) == 1:
                earlier[different[0]] = f"{earlier[different[0]]},{parts[different[0]]}"
                continue
        joined.append((parts, count, tuple(cells)))
    return [
        (".".join(f"{{{part}}}" if "," in part else part for part in parts), count, cells)
        for parts, count, cells in joined
    ]


def _unwrapped(model: nn.Module) -> nn.Module:
    """Return the model that PEFT adapted."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model  # pyright: ignore[reportReturnType, reportCallIssue]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=FOLDER, help="folder for the table")
    path = parser.parse_args().out / NAME
    replace_file(path, table().encode())
    print(f"written to {path}")
