"""The default policy beyond single layers: output heads, adapters, fused feed-forward layers, experts."""

import pytest
import torch
from torch import nn

import gramian
from gramian.selection import propose, propose_by_shape, select_parameters
from tests.selection.test_attention import USUAL, build

HEAD = "an output head over a vocabulary, skipped unless select names it"


def skipped(model: nn.Module) -> dict[str, str]:
    return {each.name: each.reason for each in select_parameters(model)[1] if "bias" not in each.name}


def selected(model: nn.Module, *select: str) -> dict[str, str]:
    targets, _ = select_parameters(model, select or None)
    return {target.name: str(target.layout) for target in targets}


class LanguageModel(nn.Module):
    def __init__(self, head: str, *, tied: bool = False) -> None:
        super().__init__()
        self.embedding, self.body = nn.Embedding(40, 8), nn.Linear(8, 8)
        setattr(self, head, nn.Linear(8, 40, bias=False))
        if tied:
            getattr(self, head).weight = self.embedding.weight


class WithGetter(LanguageModel):
    def __init__(self, head: str = "decoder") -> None:
        super().__init__(head)
        self.wanted = head

    def get_output_embeddings(self) -> object:
        return getattr(self, self.wanted)


class TestOutputHeads:
    @pytest.mark.parametrize("tied", [False, True])
    def test_by_name(self, tied) -> None:
        for head in ("lm_head", "embed_out"):
            reasons = skipped(LanguageModel(head, tied=tied))
            assert reasons[f"{head}.weight"] == HEAD
            assert reasons["embedding.weight"] == "an embedding, skipped unless select names it"

    def test_as_the_model_tells(self) -> None:
        assert skipped(WithGetter())["decoder.weight"] == HEAD
        assert skipped(nn.Sequential(nn.Linear(4, 4), WithGetter()))["1.decoder.weight"] == HEAD

    def test_several(self) -> None:
        model = nn.Module()
        model.lm_heads = nn.ModuleList([nn.Linear(4, 9), nn.Linear(4, 9)])
        model.body = nn.Linear(4, 4)
        assert skipped(model) == dict.fromkeys(["lm_heads.0.weight", "lm_heads.1.weight"], HEAD)

    def test_a_model_that_cannot_tell(self) -> None:
        class Broken(WithGetter):
            def get_output_embeddings(self) -> object:
                raise NotImplementedError

        model = WithGetter()
        model.wanted = "wanted"
        assert list(selected(Broken())) == list(selected(model)) == ["body.weight", "decoder.weight"]

    @pytest.mark.parametrize("head", ["fc", "classifier", "score", "head"])
    def test_of_classifiers_are_ordinary_layers(self, head) -> None:
        assert list(selected(LanguageModel(head))) == ["body.weight", f"{head}.weight"]

    def test_if_asked_for(self) -> None:
        assert selected(LanguageModel("lm_head"), "lm_head*") == {"lm_head.weight": "o i -> o () i"}

    def test_in_a_file(self) -> None:
        for name in ("lm_head.weight", "embed_out.weight"):
            proposal = propose_by_shape(name, (40, 8))
            assert not proposal.chosen
            assert proposal.reason == f"by its name {HEAD}"


class LoRALinear(nn.Linear):
    """As in libraries other than PEFT."""

    def __init__(self, inputs: int, outputs: int, rank: int) -> None:
        super().__init__(inputs, outputs)
        self.weight.requires_grad_(False)
        self.lora_a, self.lora_b = nn.Linear(inputs, rank, bias=False), nn.Linear(rank, outputs, bias=False)


ZERO = "B of LoRA, zero at the start: its columns must not be pushed to unit length; skipped unless select names it"


class TestLora:
    def test_a_is_selected_and_b_is_not(self) -> None:
        model = nn.Sequential(LoRALinear(8, 6, 3))
        assert selected(model) == {"0.lora_a.weight": "r i -> i () r"}
        assert skipped(model) == {"0.weight": "frozen: requires_grad is False", "0.lora_b.weight": ZERO}
        assert selected(model, "*lora_?*") == {"0.lora_a.weight": "r i -> i () r", "0.lora_b.weight": "o r -> o () r"}

    def test_lengths_stay_free(self) -> None:
        model = nn.Sequential(LoRALinear(8, 6, 3))
        nn.init.zeros_(model[0].lora_b.weight)
        proposals = propose(model)
        assert proposals["0.lora_a.weight"].angles_only
        assert proposals["0.lora_b.weight"].angles_only
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        gramian.attach(optimizer, model, beta=1.0, select="*lora*")
        lengths = model[0].lora_a.weight.detach().norm(dim=1)
        for _ in range(200):
            for parameter in model.parameters():
                parameter.grad = torch.zeros_like(parameter)
            optimizer.step()
        A = model[0].lora_a.weight.detach()
        torch.testing.assert_close(A @ A.T, torch.diag(lengths**2), rtol=0.5, atol=1e-3)
        assert not model[0].lora_b.weight.any()

    @pytest.mark.parametrize(("inputs", "rank", "layout"), [(8, 8, "r i -> i () r"), (4, 6, "r i -> r () i")])
    def test_a_large_rank(self, inputs, rank, layout) -> None:
        assert selected(LoRALinear(inputs, 8, rank)) == {"lora_a.weight": layout}


def adapted(base: nn.Module, kind: str = "LoraConfig", **options) -> nn.Module:
    peft = pytest.importorskip("peft")
    return peft.get_peft_model(nn.Sequential(base, nn.Linear(8, 8)), getattr(peft, kind)(**options))


@pytest.mark.filterwarnings("ignore")  # of PEFT, about itself
class TestPeft:
    def test_a_linear_layer(self) -> None:
        model = adapted(nn.Linear(8, 6), r=2, target_modules=["0"])
        name = "base_model.model.0.lora_{}.default.weight"
        assert selected(model) == {name.format("A"): "r i -> i () r"}
        assert skipped(model)[name.format("B")] == ZERO
        assert skipped(model)["base_model.model.0.base_layer.weight"] == "frozen: requires_grad is False"
        assert propose(model)[name.format("A")].reason == "rows of A of LoRA; angles only"
        assert list(selected(model, "*lora_A*")) == [name.format("A")]

    def test_a_convolution(self) -> None:
        model = adapted(nn.Conv2d(3, 6, 3), r=2, target_modules=["0"])
        assert selected(model, "*lora_A*", "*lora_B*") == {
            "base_model.model.0.lora_A.default.weight": "r i h w -> (i h w) () r",
            "base_model.model.0.lora_B.default.weight": "o r h w -> (o h w) () r",
        }

    def test_an_embedding_starts_with_zero_a(self) -> None:
        model = adapted(nn.Embedding(12, 8), r=2, target_modules=["0"])
        layer = model.base_model.model[0]
        assert not layer.lora_embedding_A["default"].any()
        assert selected(model) == {"base_model.model.0.lora_embedding_B.default": "o r -> o () r"}
        assert skipped(model)["base_model.model.0.lora_embedding_A.default"].startswith("A of LoRA, zero at the start")

    def test_the_decomposition_of_adalora(self) -> None:
        model = adapted(nn.Linear(8, 6), "AdaLoraConfig", init_r=3, target_r=2, total_step=9, target_modules=["0"])
        assert selected(model) == {
            "base_model.model.0.lora_A.default": "r i -> i () r",
            "base_model.model.0.lora_B.default": "o r -> o () r",
        }
        assert skipped(model)["base_model.model.0.lora_E.default"] == "singular values of AdaLoRA"

    def test_a_layer_that_is_trained_whole(self) -> None:
        model = adapted(nn.Linear(8, 6), r=2, target_modules=["0"], modules_to_save=["1"])
        assert "base_model.model.1.modules_to_save.default.weight" in selected(model)


class Experts(nn.Module):
    def __init__(self, *, across: bool, concatenated: bool) -> None:
        super().__init__()
        self.is_transposed, self.is_concatenated = across, concatenated
        self.gate_up_proj = nn.Parameter(torch.randn(3, 8, 10).mT.contiguous() if across else torch.randn(3, 10, 8))
        self.down_proj = nn.Parameter(torch.randn(3, 5, 8) if across else torch.randn(3, 8, 5))


class TestFeedForward:
    def test_experts(self) -> None:
        assert selected(Experts(across=False, concatenated=True)) == {
            "gate_up_proj": "e (two o) i -> i (e two) o; two=2",
            "down_proj": "e o i -> o e i",
        }

    @pytest.mark.filterwarnings("ignore")  # of transformers, about itself
    @pytest.mark.parametrize("family", ["Mixtral", "GptOss"])
    @torch.no_grad()
    def test_groups_are_the_experts_of_the_model(self, family) -> None:
        """Without its gate, or without its projection down, an expert puts out zero, and the others what they did."""
        options = USUAL | {"num_key_value_heads": 2, "num_local_experts": 3, "head_dim": 8}
        experts = build(f"{family}Model", options).layers[0].mlp.experts
        for name, parameter in experts.named_parameters():
            nn.init.zeros_(parameter) if "bias" in name else nn.init.normal_(parameter)
        x, weights = torch.randn(5, USUAL["hidden_size"]), torch.ones(5, 1)
        targets = {target.name: target for target in select_parameters(experts)[0]}
        assert {name: target.shape[1] for name, target in targets.items()} == {"gate_up_proj": 6, "down_proj": 3}
        before = [experts(x, torch.full((5, 1), expert), weights) for expert in range(3)]
        for name, group in (("gate_up_proj", 2), ("down_proj", 1)):
            parameter, layout = targets[name].parameter, targets[name].layout
            kept, phi = parameter.clone(), layout.to_phi(parameter).clone()
            phi[:, group] = 0
            parameter.copy_(layout.from_phi(phi, tuple(parameter.shape)))
            after = [experts(x, torch.full((5, 1), expert), weights) for expert in range(3)]
            parameter.copy_(kept)
            assert before[1].abs().max() > 1
            assert not after[1].any()
            assert torch.equal(after[0], before[0])
            assert torch.equal(after[2], before[2])

    @pytest.mark.filterwarnings("ignore")
    def test_lora_of_experts(self) -> None:
        peft = pytest.importorskip("peft")
        model = build("MixtralModel", USUAL | {"num_key_value_heads": 2, "num_local_experts": 3})
        config = peft.LoraConfig(r=2, target_modules=[], target_parameters=["mlp.experts.down_proj"])
        layouts = selected(peft.get_peft_model(model, config), "*lora_?*")
        assert set(layouts.values()) == {"(e r) i -> i e r; e=3", "o (r e) -> o e r; e=3"}

    def test_gate_and_up_in_one_layer(self) -> None:
        model = nn.ModuleDict({"gate_up_proj": nn.Linear(8, 12), "down_proj": nn.Linear(6, 8)})
        assert selected(model)["gate_up_proj.weight"] == "(two o) i -> i two o; two=2"


def test_a_scale_of_a_norm_of_another_library() -> None:
    class LlamaRMSNorm(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(4))

    assert skipped(nn.Sequential(nn.Linear(4, 4), LlamaRMSNorm()))["1.weight"] == "a scale of LlamaRMSNorm"
