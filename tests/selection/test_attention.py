"""Attention by head: the groups of a layout are the heads that the models' code uses; and what is not understood."""

import importlib.util
import warnings
from pathlib import Path

import pytest
import torch
from torch import nn

from gramian.selection import propose, select_parameters
from gramian.selection.heads import heads_of

pytestmark = pytest.mark.filterwarnings("ignore")  # of transformers, about itself

WORDS, WIDTH, HEADS = 40, 32, 4

USUAL = {
    "vocab_size": WORDS, "hidden_size": WIDTH, "intermediate_size": 48, "num_hidden_layers": 1,
    "num_attention_heads": HEADS, "max_position_embeddings": 16, "pad_token_id": 0, "bos_token_id": 1,
    "eos_token_id": 2,
}  # fmt: skip
GPT = {"vocab_size": WORDS, "n_embd": WIDTH, "n_layer": 1, "n_head": HEADS, "n_positions": 16}

FAMILIES = {
    "Llama": ("LlamaModel", USUAL | {"num_key_value_heads": 2}, "layers.0.self_attn", "q_proj k_proj v_proj", "o_proj"),
    "Gemma2": (
        "Gemma2Model", USUAL | {"num_key_value_heads": 2, "head_dim": 16}, "layers.0.self_attn",
        "q_proj k_proj v_proj", "o_proj",
    ),
    "Phi3": ("Phi3Model", USUAL | {"num_key_value_heads": 2}, "layers.0.self_attn", "qkv_proj", "o_proj"),
    "GPTNeoX": ("GPTNeoXModel", USUAL, "layers.0.attention", "query_key_value", "dense"),
    "Bloom": (
        "BloomModel", {"vocab_size": WORDS, "hidden_size": WIDTH, "n_layer": 1, "n_head": HEADS}, "h.0.self_attention",
        "query_key_value", "dense",
    ),
    "Falcon, one": (
        "FalconModel", USUAL | {"multi_query": True, "new_decoder_architecture": False}, "h.0.self_attention",
        "query_key_value", "dense",
    ),
    "Falcon, two": (
        "FalconModel", USUAL | {"num_kv_heads": 2, "new_decoder_architecture": True}, "h.0.self_attention",
        "query_key_value", "dense",
    ),
    "Falcon, all": (
        "FalconModel", USUAL | {"multi_query": False, "new_decoder_architecture": False}, "h.0.self_attention",
        "query_key_value", "dense",
    ),
    "Mpt": (
        "MptModel", {"vocab_size": WORDS, "d_model": WIDTH, "n_layers": 1, "n_heads": HEADS, "max_seq_len": 16},
        "blocks.0.attn", "Wqkv", "out_proj",
    ),
    "GPT2": ("GPT2Model", GPT, "h.0.attn", "c_attn", "c_proj"),
    "GPTBigCode, one": ("GPTBigCodeModel", GPT, "h.0.attn", "c_attn", "c_proj"),
    "GPTBigCode, all": ("GPTBigCodeModel", GPT | {"multi_query": False}, "h.0.attn", "c_attn", "c_proj"),
    "CodeGen": ("CodeGenModel", GPT | {"rotary_dim": 4}, "h.0.attn", "qkv_proj", "out_proj"),
    "Persimmon": ("PersimmonModel", USUAL | {"qk_layernorm": False}, "layers.0.self_attn", "query_key_value", "dense"),
    "ModernBert": ("ModernBertModel", USUAL, "layers.0.attn", "Wqkv", "Wo"),
    "Deberta": ("DebertaModel", USUAL, "encoder.layer.0.attention", "self.in_proj", "output.dense"),
    "Bert": ("BertModel", USUAL, "encoder.layer.0.attention", "self.query self.key self.value", "output.dense"),
    "DistilBert": (
        "DistilBertModel", {"vocab_size": WORDS, "dim": WIDTH, "hidden_dim": 48, "n_layers": 1, "n_heads": HEADS},
        "transformer.layer.0.attention", "q_lin k_lin v_lin", "out_lin",
    ),
    "T5": (
        "T5EncoderModel",
        {"vocab_size": WORDS, "d_model": WIDTH, "d_kv": 16, "d_ff": 48, "num_layers": 1, "num_heads": HEADS},
        "encoder.block.0.layer.0.SelfAttention", "q k v", "o",
    ),
}  # fmt: skip
"""The class of a model, options of its config, its first attention module, what projects to q, k and v, the output."""


def build(name: str, options: dict) -> nn.Module:
    import transformers

    family = name.removesuffix("EncoderModel").removesuffix("Model")
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = getattr(transformers, name)(getattr(transformers, f"{family}Config")(**options)).eval()
    for parameter in model.parameters():
        if parameter.ndim == 2:
            nn.init.normal_(parameter, std=0.3)  # attention that is not nearly uniform
    return model


class Attention:
    """The outputs of the heads of one attention module, before their projection."""

    def __init__(self, family: str) -> None:
        name, options, path, inward, output = FAMILIES[family]
        self.model = build(name, options)
        self.tokens = torch.randint(3, WORDS, (1, 6))
        selected = {target.name: target for target in select_parameters(self.model)[0]}
        self.inward = [selected[f"{path}.{each}.weight"] for each in inward.split()]
        self.output = selected[f"{path}.{output}.weight"]
        self.size = self.output.shape[2]
        self.model.get_submodule(f"{path}.{output}").register_forward_pre_hook(self._keep)

    def _keep(self, module: nn.Module, arguments: tuple) -> None:
        self.heads = arguments[0].unflatten(-1, (-1, self.size))

    @torch.no_grad()
    def __call__(self, *scales: tuple[int, int, float]) -> torch.Tensor:
        """Return [token, head, size] with some groups scaled: (weight, group, factor)."""
        for weight, group, scale in scales:
            target = self.inward[weight]
            phi = target.layout.to_phi(target.parameter).clone()
            phi[:, group] *= scale
            target.parameter.copy_(target.layout.from_phi(phi, tuple(target.parameter.shape)))
        self.model(self.tokens)
        for weight, group, scale in scales:
            target = self.inward[weight]
            phi = target.layout.to_phi(target.parameter).clone()
            phi[:, group] /= scale
            target.parameter.copy_(target.layout.from_phi(phi, tuple(target.parameter.shape)))
        return self.heads[0]


@pytest.mark.parametrize("family", FAMILIES)
def test_groups_are_the_heads_of_the_model(family) -> None:
    """Each head has one group of q, one of k and one of v, which act on it as wholes.

    Twice a group of v is twice the output of its heads. Twice a group of q and half its group of k is no change; a
    group that held rows of both, or only some of a head, would change the output.
    """
    attention = Attention(family)
    before = attention()
    groups = [(w, g) for w, target in enumerate(attention.inward) for g in range(target.shape[1])]
    doubled = {group: attention((*group, 2.0)) for group in groups}
    acts = {}
    for group, after in doubled.items():
        changed = [h for h in range(HEADS) if not torch.allclose(after[:, h], before[:, h], rtol=1e-3, atol=1e-6)]
        assert changed
        values = all(torch.allclose(after[:, h], 2 * before[:, h], rtol=1e-3, atol=1e-5) for h in changed)
        acts[group] = changed, values
    for head in range(HEADS):
        acting = [group for group, (changed, _) in acts.items() if head in changed]
        assert len(acting) == 3
        (a, b), (_,) = [[group for group in acting if acts[group][1] == values] for values in (False, True)]
        again = attention((*a, 2.0), (*b, 0.5))
        torch.testing.assert_close(again[:, head], before[:, head], rtol=1e-3, atol=1e-5)
    assert attention.output.shape == (WIDTH, HEADS, attention.size)


def test_a_layout_by_wrong_blocks_is_noticed() -> None:
    attention = Attention("GPTNeoX")
    target = attention.inward[0]
    wrong = target.layout.__class__("(d three h) i -> i (h three) d", three=3, h=HEADS)
    attention.inward = [target.__class__(target.name, target.parameter, wrong, target.shape, "")]
    before, after = attention(), attention((0, 0, 2.0))
    assert not any(torch.allclose(after[:, h], before[:, h], rtol=1e-3, atol=1e-6) for h in range(HEADS))


class CausalSelfAttention(nn.Module):
    def __init__(self, outputs: int = 24, **attributes: int) -> None:
        super().__init__()
        self.c_attn, self.c_proj, self.gate = nn.Linear(8, outputs), nn.Linear(8, 8), nn.Linear(8, 3)
        for name, value in attributes.items():
            setattr(self, name, value)


def reasons(module: nn.Module) -> dict[str, tuple[str, str]]:
    return {
        name.removesuffix(".weight"): (str(proposal.layout), proposal.reason)
        for name, proposal in propose(module).items()
        if proposal.chosen
    }


def test_an_assumed_length_of_heads() -> None:
    assert reasons(CausalSelfAttention(n_head=2)) == {
        "c_attn": (
            "(h d) i -> i h d; h=6", "rows of each head of q, k and v of CausalSelfAttention; length of a head assumed"
        ),
        "c_proj": ("o (h d) -> o h d; h=2", "columns of each head of CausalSelfAttention; length of a head assumed"),
        "gate": ("o i -> i () o", "rows of Linear; heads of CausalSelfAttention not understood"),
    }  # fmt: skip


@pytest.mark.parametrize(
    "attributes",
    [{}, {"n_head": 0}, {"n_head": True}, {"n_head": 2, "head_dim": 3}, {"n_head": 2, "num_kv_heads": 1}],
    ids=str,
)
def test_heads_that_are_not_understood(attributes) -> None:
    layout, reason = reasons(CausalSelfAttention(outputs=32, **attributes))["c_attn"]
    assert layout == "o i -> o () i"
    assert reason == "columns of Linear; heads of CausalSelfAttention not understood"


def test_heads_with_more_rows_than_columns() -> None:
    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.num_heads, self.head_dim = 2, 6
            self.q_proj, self.o_proj = nn.Linear(4, 12), nn.Linear(12, 4)

    assert reasons(Attention()) == {
        "q_proj": ("(h d) i -> d h i; h=2", "columns of each head of Attention"),
        "o_proj": ("o (h d) -> d h o; h=2", "rows of each head of Attention"),
    }
    assert {target.shape for target in select_parameters(Attention())[0]} == {(6, 2, 4)}


def test_attention_by_its_name_in_the_model() -> None:
    class Delta(nn.Module):
        def __init__(self, **attributes: int) -> None:
            super().__init__()
            self.in_proj_qkvz, self.out_proj = nn.Linear(8, 40), nn.Linear(8, 8)
            self.config = type("Config", (), {"num_attention_heads": 2, "head_dim": 4})()
            for name, value in attributes.items():
                setattr(self, name, value)

    assert reasons(nn.ModuleDict({"attn": Delta(), "other": Delta(num_heads=4)})) == {
        "attn.in_proj_qkvz": ("o i -> o () i", "columns of Linear; heads of Delta not understood"),
        "attn.out_proj": ("o i -> i () o", "rows of Linear; heads of Delta not understood"),
        "other.in_proj_qkvz": ("o i -> o () i", "columns of Linear"),
        "other.out_proj": ("o i -> i () o", "rows of Linear"),
    }
    assert reasons(nn.ModuleDict({"attn": Delta(num_heads=4)}))["attn.out_proj"] == (
        "o (h d) -> o h d; h=4", "columns of each head of Delta; length of a head assumed"
    )  # fmt: skip


def test_attributes_of_a_module_come_before_its_config() -> None:
    module = CausalSelfAttention(n_head=2)
    module.config = type("Config", (), {"num_attention_heads": 4, "num_key_value_heads": 1, "head_dim": 4})()
    heads = heads_of(module)
    assert (heads.queries, heads.keys, heads.size) == (2, (1, 2), 4)
    assert heads_of(nn.Linear(2, 2)) is None


def test_latent_attention() -> None:
    class LatentAttention(nn.Module):
        def __init__(self, value: int) -> None:
            super().__init__()
            self.num_heads, self.qk_nope_head_dim, self.qk_head_dim, self.v_head_dim = 2, 4, 6, value
            self.q_a_proj, self.q_b_proj = nn.Linear(16, 8), nn.Linear(8, 12)
            self.kv_b_proj, self.o_proj = nn.Linear(8, 2 * (4 + value)), nn.Linear(2 * value, 16)

    assert reasons(LatentAttention(4)) == {
        "q_a_proj": ("o i -> i () o", "rows of Linear"),
        "q_b_proj": ("(h d) i -> i h d; h=2", "rows of each head of LatentAttention"),
        "kv_b_proj": ("(h d) i -> i h d; h=4", "rows of each head of k and v of LatentAttention"),
        "o_proj": ("o (h d) -> o h d; h=2", "columns of each head of LatentAttention"),
    }
    layout, reason = reasons(LatentAttention(6))["kv_b_proj"]
    assert layout == "o i -> o () i"
    assert reason == "columns of Linear; heads of LatentAttention not understood"


SCRIPT = Path(__file__).parents[2] / "examples" / "models_table.py"


@pytest.mark.slow
def test_the_table_of_models_is_current(monkeypatch) -> None:
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    spec = importlib.util.spec_from_file_location("models_table", SCRIPT)
    models_table = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(models_table)
    text = (models_table.FOLDER / models_table.NAME).read_text(encoding="utf-8")
    if f"with {models_table.versions()}." not in text:
        pytest.skip(f"written with other libraries than {models_table.versions()}")
    assert models_table.table() == text, "run `python examples/models_table.py`"
