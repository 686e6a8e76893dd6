"""Steps of random chunks: a decoder, and the vectors that are drawn."""

import pytest
import torch
from torch import nn

import gramian
from gramian import training
from gramian.errors import LayoutError, OptionError


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
