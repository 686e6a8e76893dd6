"""Which parameters of a network are taken, how they are laid out, and what is said of the rest."""

import re

import pytest
import torch
from torch import Tensor, nn

import gramian
from gramian.errors import LayoutError, OptionError
from gramian.selection import propose, select_parameters
from gramian.weights import open_weights


def patterns(model: nn.Module) -> dict[str, str]:
    targets, _ = select_parameters(model)
    return {each.name: each.layout.pattern for each in targets}


class TestThePolicy:
    @pytest.mark.parametrize(
        ("module", "pattern", "shape"),
        [
            (nn.Linear(8, 4), "o i -> i () o", (8, 1, 4)),
            (nn.Linear(4, 8), "o i -> o () i", (8, 1, 4)),
            (nn.Conv1d(6, 4, 3), "(g o) i k -> (i k) g o", (18, 1, 4)),
            (nn.Conv2d(3, 8, 5), "(g o) i h w -> (i h w) g o", (75, 1, 8)),
            (nn.Conv2d(3, 64, 1), "(g o) i h w -> o g (i h w)", (64, 1, 3)),
            (nn.Conv3d(2, 4, 2, groups=2, bias=False), None, None),
            (nn.Conv3d(4, 4, 2, groups=2, bias=False), "(g o) i d h w -> (i d h w) g o", (16, 2, 2)),
            (nn.ConvTranspose1d(6, 4, 3, groups=2), "(g i) o k -> (i k) g o", (9, 2, 2)),
            (nn.ConvTranspose2d(2, 30, 3), "(g i) o h w -> o g (i h w)", (30, 1, 18)),
        ],
        ids=str,
    )
    def test_of_a_layer(self, module, pattern, shape) -> None:
        proposal = propose(module)["weight"]
        if pattern is None:
            assert not proposal.chosen
            assert "depthwise" in proposal.reason
            return
        assert proposal.chosen
        assert proposal.layout.pattern == pattern
        assert proposal.layout.phi_shape(tuple(module.weight.shape)) == shape
        assert shape[2] <= shape[0]

    def test_vectors_of_a_transposed_convolution_contribute_to_one_output(self) -> None:
        # The vectors of a group are what the outputs are made of: for orthonormal ones the output keeps its norm.
        module = nn.ConvTranspose1d(6, 4, 1, groups=2, bias=False)
        (target,), _ = select_parameters(module)
        P = target.layout.to_phi(module.weight)
        x = torch.randn(1, 6, 1)
        y = module(x)
        for g in range(2):
            torch.testing.assert_close(y[0, 2 * g : 2 * g + 2, 0], P[:, g].T @ x[0, 3 * g : 3 * g + 3, 0])

    def test_a_convolution_in_groups(self) -> None:
        module = nn.Conv1d(6, 4, 1, groups=2, bias=False)
        (target,), _ = select_parameters(module)
        P = target.layout.to_phi(module.weight)
        x = torch.randn(1, 6, 1)
        for g in range(2):
            torch.testing.assert_close(module(x)[0, 2 * g : 2 * g + 2, 0], P[:, g].T @ x[0, 3 * g : 3 * g + 3, 0])

    def test_attention_by_heads(self) -> None:
        assert patterns(nn.MultiheadAttention(12, 3)) == {
            "in_proj_weight": "(three h d) i -> i (three h) d",
            "out_proj.weight": "o (h d) -> o h d",
        }
        assert patterns(nn.MultiheadAttention(12, 3, kdim=8, vdim=6)) == {
            "q_proj_weight": "(h d) i -> i h d",
            "k_proj_weight": "(h d) i -> i h d",
            "v_proj_weight": "(h d) i -> i h d",
            "out_proj.weight": "o (h d) -> o h d",
        }

    def test_heads_are_those_that_attention_uses(self) -> None:
        module = nn.MultiheadAttention(12, 3, bias=False, batch_first=True)
        targets = {each.name: each for each in select_parameters(module)[0]}
        P = targets["in_proj_weight"].layout.to_phi(module.in_proj_weight)
        assert P.shape == (12, 9, 4)
        assert torch.equal(P[:, 3 + 1].T, module.in_proj_weight[12 + 4 : 12 + 8])  # the second head of k

    def test_attention_with_fewer_keys_than_queries(self) -> None:
        class LlamaAttention(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.num_heads, self.num_key_value_heads = 4, 2
                self.q_proj, self.k_proj = nn.Linear(16, 16), nn.Linear(16, 8)
                self.v_proj, self.o_proj = nn.Linear(16, 8), nn.Linear(16, 16)

        targets = {each.name: each for each in select_parameters(LlamaAttention())[0]}
        assert {name: each.shape for name, each in targets.items()} == {
            "q_proj.weight": (16, 4, 4),
            "k_proj.weight": (16, 2, 4),
            "v_proj.weight": (16, 2, 4),
            "o_proj.weight": (16, 4, 4),
        }

    def test_fused_queries_keys_and_values(self) -> None:
        class Attention(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.num_heads = 2
                self.qkv, self.proj = nn.Linear(8, 24), nn.Linear(8, 8)

        assert patterns(Attention()) == {
            "qkv.weight": "(three h d) i -> i (three h) d",
            "proj.weight": "o (h d) -> o h d",
        }

    @pytest.mark.parametrize(("kind", "gates"), [(nn.RNN, 1), (nn.GRU, 3), (nn.LSTM, 4)])
    def test_recurrent_layers_by_gate(self, kind, gates) -> None:
        targets = {each.name: each for each in select_parameters(kind(6, 5, num_layers=2, bidirectional=True))[0]}
        assert targets["weight_ih_l0"].shape == (6, gates, 5)
        assert targets["weight_hh_l0"].shape == (5, gates, 5)
        assert targets["weight_hh_l1_reverse"].shape == (5, gates, 5)
        assert "bias_hh_l0" not in targets

    def test_what_is_skipped_has_a_reason(self) -> None:
        class Own(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.matrix = nn.Parameter(torch.randn(4, 4))

        model = nn.Sequential(nn.Embedding(9, 4), nn.Linear(4, 4), nn.LayerNorm(4), Own(), nn.Linear(4, 3))
        model[4].weight.requires_grad_(False)
        _, skipped = select_parameters(model)
        assert {each.name: each.reason for each in skipped} == {
            "0.weight": "an embedding, skipped unless select names it",
            "1.bias": "a bias",
            "2.weight": "a scale of LayerNorm",
            "2.bias": "a bias",
            "3.matrix": "its axes have no known meaning",
            "4.weight": "frozen: requires_grad is False",
            "4.bias": "a bias",
        }

    def test_tied_weights_are_selected_once(self) -> None:
        a, b = nn.Linear(4, 4), nn.Linear(4, 4)
        b.weight = a.weight
        targets, skipped = select_parameters(nn.Sequential(a, b))
        assert [each.name for each in targets] == ["0.weight"]
        assert "the same tensor as 0.weight" in {each.reason for each in skipped}

    def test_tied_to_an_embedding(self) -> None:
        embedding, head = nn.Embedding(9, 4), nn.Linear(4, 9, bias=False)
        head.weight = embedding.weight
        model = nn.Sequential(embedding, nn.Linear(4, 4), head)
        targets, skipped = select_parameters(model)
        assert [each.name for each in targets] == ["1.weight"]
        assert {each.name: each.reason for each in skipped}["2.weight"] == "tied to a skipped parameter"

    def test_a_parametrised_weight(self) -> None:
        model = nn.Sequential(nn.utils.parametrizations.orthogonal(nn.Linear(4, 4)), nn.Linear(4, 4))
        targets, skipped = select_parameters(model)
        assert [each.name for each in targets] == ["1.weight"]
        assert any("re-parametrised" in each.reason for each in skipped)
        with pytest.raises(OptionError, match="must be a plain parameter"):
            select_parameters(model, "0.*original*", "o i -> i () o")


class TestSelecting:
    MODEL = staticmethod(lambda: nn.Sequential(nn.Linear(8, 4), nn.Embedding(9, 4), nn.Linear(4, 2)))

    @pytest.mark.parametrize(
        "select",
        ["2.weight", ["2.*ight"], re.compile(r"2\.w.*"), lambda name, parameter: parameter.shape == (2, 4)],
        ids=["name", "globs", "expression", "predicate"],
    )
    def test_ways(self, select) -> None:
        targets, skipped = select_parameters(self.MODEL(), select)
        assert [each.name for each in targets] == ["2.weight"]
        assert {each.reason for each in skipped} == {"not selected"}

    def test_an_embedding_if_it_is_asked_for(self) -> None:
        (target,), _ = select_parameters(self.MODEL(), "1.weight")
        assert target.shape == (9, 1, 4)

    def test_layouts(self) -> None:
        model = self.MODEL()
        layouts = {"0.weight": gramian.Layout("(m n) i -> i m n", n=2), re.compile(".*weight"): "o i -> i () o"}
        targets, _ = select_parameters(model, ["0.weight", "2.weight"], layouts)
        assert [each.shape for each in targets] == [(8, 2, 2), (4, 1, 2)]
        assert {each.reason for each in targets} == {"laid out as requested"}
        targets, _ = select_parameters(model, "?.weight", "o i -> i () o")
        assert targets[1].reason == "laid out as requested; n > l: it cannot be orthonormal"


class TestErrors:
    def test_nothing_selected(self) -> None:
        with pytest.raises(OptionError, match=r"at least one parameter must be selected; got none of 2 .*a scale of"):
            select_parameters(nn.LayerNorm(4))
        with pytest.raises(OptionError, match="at least one parameter"):
            select_parameters(nn.Linear(4, 4), lambda name, parameter: False)

    def test_no_parameters(self) -> None:
        with pytest.raises(OptionError, match="must have parameters"):
            select_parameters(nn.ReLU())

    @pytest.mark.parametrize("pattern", ["head.*", re.compile("head")], ids=["glob", "expression"])
    def test_a_pattern_that_matches_nothing(self, pattern) -> None:
        with pytest.raises(OptionError, match=r"every pattern in select must match .* got 'head.*'weight', 'bias'"):
            select_parameters(nn.Linear(4, 4), pattern)
        with pytest.raises(OptionError, match="every pattern in layouts must match"):
            select_parameters(nn.Linear(4, 4), layouts={pattern: "o i -> i () o"})

    def test_a_frozen_one(self) -> None:
        model = nn.Linear(4, 4)
        model.weight.requires_grad_(False)
        with pytest.raises(OptionError, match="weight must be trained to be selected"):
            select_parameters(model, "weight")

    def test_no_layout(self) -> None:
        with pytest.raises(LayoutError, match=r"bias of shape \[4\] was selected but has no layout \(a bias\)"):
            select_parameters(nn.Linear(4, 4), "*")

    def test_a_layout_that_does_not_fit(self) -> None:
        with pytest.raises(LayoutError, match="weight: a parameter must have the 4 axes"):
            select_parameters(nn.Linear(4, 4), layouts={"weight": "o i h w -> (i h w) () o"})

    def test_something_else(self) -> None:
        with pytest.raises(
            OptionError, match=r"select must be a glob or a compiled regular .* several of them; got int"
        ):
            select_parameters(nn.Linear(4, 4), [3])


def test_every_tensor_is_told_of() -> None:
    model = nn.Sequential(nn.TransformerEncoderLayer(8, 2, 16), nn.Linear(8, 8))
    targets, skipped = select_parameters(model)
    names = [name for name, _ in model.named_parameters(remove_duplicate=False)]
    assert sorted([*(each.name for each in targets), *(each.name for each in skipped)]) == sorted(names)
    assert all(isinstance(each.parameter, Tensor) for each in targets)


class Model(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(nn.MultiheadAttention(12, 3), nn.Conv2d(4, 6, 3, groups=2), nn.GRU(6, 5), nn.Linear(8, 4))


@pytest.mark.parametrize("column", ["attachment", "attachment in short", "inspection"])
def test_printed_layouts_can_be_pasted_into_layouts(column) -> None:
    """A printed layout, evaluated as Python, gives the same layout again."""
    model = Model()
    targets, _ = select_parameters(model)
    attachment = gramian.attach(torch.optim.SGD(model.parameters(), lr=0.1), model, beta=1.0)
    table = {"attachment": str(attachment), "attachment in short": repr(attachment)}.get(column)
    lines = (repr(gramian.inspect(model)) if table is None else table).splitlines()
    names = {each.name for each in targets}
    layouts = {
        line.split()[0]: eval(re.search(r"Layout\(.*?\d\)|'.*?'", line)[0], {"Layout": gramian.Layout})
        for line in lines
        if line.split()[0] in names
    }
    assert layouts.keys() == names
    pasted, _ = select_parameters(model, list(layouts), layouts)
    assert [(each.name, each.layout, each.shape) for each in pasted] == [
        (each.name, each.layout, each.shape) for each in targets
    ]


def test_representations_contain_no_tensors(tmp_path) -> None:
    model = nn.Sequential(*[nn.Linear(4, 4) for _ in range(30)])
    attachment = gramian.attach(torch.optim.SGD(model.parameters(), lr=0.1), model, beta=2.0)
    text = repr(attachment)
    assert text.startswith("Attachment: β = 2, rule proximal, penalty l1, after every step\nparameter")
    assert text.endswith("… and 10 more\n30 skipped")
    torch.save(model.state_dict(), tmp_path / "a.pt")
    weights = open_weights(tmp_path / "a.pt")
    assert repr(weights) == f"Weights({str(tmp_path / 'a.pt')!r}, pytorch: 60 tensors, 0 skipped)"
    for each in (attachment, gramian.inspect(model), weights, weights.entries, attachment.targets):
        assert "tensor(" not in repr(each)
