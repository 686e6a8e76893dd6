"""Agreement with other packages that define a penalty, and the factors by which they differ."""

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

import gramian
from gramian.penalties import L1, Coherence, Cosine, Frobenius, Penalty, Spectral, SquaredFrobenius

ROWS = "o i -> i () o"


def matrix() -> Tensor:
    return 0.3 * torch.randn(6, 9, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize("mode", ["rows", "columns"])
def test_keras(mode, monkeypatch) -> None:
    """OrthogonalRegularizer is the cosine form of l1, divided by n(n − 1)."""
    monkeypatch.setenv("KERAS_BACKEND", "torch")
    import keras

    weight = (matrix() if mode == "rows" else matrix().mT.contiguous()).requires_grad_()
    value = keras.regularizers.OrthogonalRegularizer(factor=0.7, mode=mode)(weight)
    (grad,) = torch.autograd.grad(value, weight)
    beta = 0.7 / (6 * 5)
    ours, our_grad = gramian.value_and_grad(
        weight.detach(), beta=beta, penalty=Cosine(L1()), layout=ROWS if mode == "rows" else "i o -> i () o"
    )
    torch.testing.assert_close(ours, value.detach())
    torch.testing.assert_close(our_grad, grad, rtol=1e-6, atol=1e-9)


@pytest.mark.filterwarnings("ignore::FutureWarning")  # of transformers, about itself
def test_adalora_of_peft() -> None:
    """PEFT adds the mean of ‖AAᵀ − I‖_F and ‖BᵀB − I‖_F over all factors."""
    from peft import AdaLoraConfig, get_peft_model
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(vocab_size=20, hidden_size=16, intermediate_size=24, num_hidden_layers=1,
                         num_attention_heads=2, num_key_value_heads=2)  # fmt: skip
    model = get_peft_model(
        LlamaForCausalLM(config), AdaLoraConfig(init_r=4, target_r=2, total_step=9, target_modules=["q_proj"])
    )
    tokens = torch.randint(20, (2, 5))
    losses = []
    for weight in (1.0, 2.0):  # PEFT 0.14 refuses 0
        model.peft_config["default"].orth_reg_weight = weight
        with torch.no_grad():
            losses.append(model.base_model(input_ids=tokens, labels=tokens).loss)
    factors = [
        gramian.loss(each.detach(), penalty="frobenius", layout=ROWS if "lora_A" in name else "o r -> o () r")
        for name, each in model.named_parameters()
        if "lora_A" in name or "lora_B" in name
    ]
    torch.testing.assert_close(losses[1] - losses[0], torch.stack(factors).mean())


def test_soft_orthogonality_and_biggan() -> None:
    """‖WWᵀ − I‖²_F, and ‖WWᵀ ∘ (1 − I)‖²_F."""
    W, eye = matrix(), torch.eye(6, dtype=torch.float64)
    for penalty, expected in (
        (SquaredFrobenius(), (W @ W.mT - eye).square().sum()),
        (SquaredFrobenius(diagonal=False), (W @ W.mT * (1 - eye)).square().sum()),
        (Frobenius(), (W @ W.mT - eye).square().sum().sqrt()),
    ):
        torch.testing.assert_close(gramian.loss(W, penalty=penalty, layout=ROWS), expected)


def test_srip_is_the_limit_of_power_iteration() -> None:
    """SRIP takes two steps of power iteration on WWᵀ − I, from below."""
    X = matrix() @ matrix().mT - torch.eye(6, dtype=torch.float64)
    exact = gramian.loss(matrix(), penalty=Spectral(), layout=ROWS)
    v = torch.randn(6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    estimates = []
    for _ in range(2000):
        v = X @ normalize(v, dim=0)
        estimates.append(torch.linalg.vector_norm(v))
    assert estimates[1] <= exact
    torch.testing.assert_close(estimates[-1], exact)


def test_mutual_coherence() -> None:
    """The largest |cosine| of two vectors."""
    unit = normalize(matrix(), dim=1)
    cosines = (unit @ unit.mT).fill_diagonal_(0).abs()
    torch.testing.assert_close(gramian.loss(matrix(), penalty=Cosine(Coherence()), layout=ROWS), cosines.max())
    torch.testing.assert_close(gramian.loss(unit, penalty=Coherence(), layout=ROWS), cosines.max())


class Nearest(Penalty):
    """Σ_j max_{k≠j} X_jk²: the nearest other vector of each vector."""

    diagonal = False

    def value(self, X: Tensor) -> Tensor:
        return self.penalized(X).square().amax(dim=-1).sum(dim=-1)

    def subgradient(self, X: Tensor) -> Tensor:
        off = self.penalized(X)
        slopes = torch.zeros_like(off).scatter(-1, off.abs().argmax(dim=-1, keepdim=True), 1.0) * 2 * off
        return (slopes + slopes.mT) / 2


def test_ortsae_in_chunks() -> None:
    """The mean over the features of a chunk of their largest squared cosine; the mean over chunks."""
    decoder = torch.randn(12, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64).requires_grad_()
    chunks = normalize(decoder, dim=1).unflatten(0, (3, 4))
    cosines = chunks @ chunks.mT - torch.eye(4, dtype=torch.float64)
    theirs = cosines.square().amax(dim=-1).mean()
    (grad,) = torch.autograd.grad(theirs, decoder)
    layout = gramian.Layout("(m n) l -> l m n", n=4)
    value, ours = gramian.value_and_grad(decoder.detach(), beta=1 / 12, penalty=Cosine(Nearest()), layout=layout)
    torch.testing.assert_close(value, theirs.detach())
    torch.testing.assert_close(ours, grad)
