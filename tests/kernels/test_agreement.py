"""Every kernel beside float64 and beside the dense kernel: each penalty, rule, dtype, stride and odd size."""

import importlib.util

import pytest
import torch
from torch import Tensor

import gramian
from gramian.errors import OptionError
from gramian.kernels import dispatch
from gramian.penalties import L1, as_penalty
from tests.cases import overcomplete_is_meant

pytestmark = overcomplete_is_meant

needs_triton = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="needs Triton")

KERNELS = (
    "panel",
    "lanes",
    "folded",
    "whole",
    *(pytest.param(name, marks=needs_triton) for name in ("fused", "tiled")),
)

SHAPES = {
    "whole": (
        (40, 1, 300),
        (300, 3, 259),
        (20, 300, 90),
        (33, 131, 3),
        (9, 3, 20),
        (3, 2, 8),
        (1, 2, 1),
        (0, 1, 4),
        (4, 0, 3),
        (4, 2, 0),
    ),
    "panel": (
        (40, 1, 700),
        (700, 1, 513),
        (9, 3, 5),
        (1, 2, 1),
        (3, 2, 8),
        (0, 1, 4),
        (4, 0, 3),
        (4, 2, 0),
        (600, 2, 520),
    ),
    "lanes": (
        (8, 64, 1),
        (70, 65, 2),
        (33, 131, 3),
        (5, 200, 4),
        (100, 64, 8),
        (2, 70, 5),
        (0, 64, 2),
        (4, 0, 3),
        (9, 1, 7),
    ),
    "fused": ((8, 20, 1), (70, 11, 2), (9, 37, 3), (100, 7, 16), (20, 3, 33), (0, 4, 2), (4, 0, 3), (1, 2, 1)),
    "tiled": ((40, 1, 130), (70, 2, 65), (9, 3, 5), (1, 2, 1), (3, 2, 8), (0, 1, 4), (4, 0, 3), (4, 2, 0)),
    "folded": (
        (8, 64, 1),
        (70, 65, 2),
        (33, 131, 3),
        (5, 200, 4),
        (100, 64, 8),
        (2, 70, 5),
        (0, 64, 2),
        (4, 0, 3),
        (9, 1, 7),
    ),
}

CASES = [
    pytest.param(kernel, shape, marks=needs_triton if kernel in ("fused", "tiled") else ())
    for kernel in SHAPES
    for shape in SHAPES[kernel]
]

over_cases = pytest.mark.parametrize(("kernel", "shape"), CASES, ids=str)
over_kernels = pytest.mark.parametrize("kernel", KERNELS)


def draw(shape: tuple[int, int, int], dtype: torch.dtype = torch.float64) -> Tensor:
    return (torch.randn(shape, dtype=torch.float64) / max(1, shape[0]) ** 0.5).to(dtype)


def numbers(kernel: str, phi: Tensor, penalty) -> dict[str, Tensor]:
    """All that a kernel makes, through the public face, with a probe that it was this kernel that made it."""
    with gramian.kernels.use(kernel), gramian.kernels.watch() as used:
        value, grad = gramian.value_and_grad(phi, beta=0.7, penalty=penalty)
        loss = gramian.loss(phi, beta=0.7, penalty=penalty)
        leaf = phi.clone().requires_grad_()
        gramian.loss(leaf, beta=0.7, penalty=penalty).backward()
        stepped = phi.clone()
        before = gramian.step_(stepped, lr=0.05, beta=0.7, penalty=penalty)
        descended = phi.clone()
        gramian.step_(descended, lr=0.001, beta=0.7, penalty=penalty, rule="subgradient")
    assert set(used) == {kernel}
    assert len(used) == 5
    return {
        "value": value, "grad": grad, "loss": loss, "backward": leaf.grad, "stepped": stepped, "before": before,
        "descended": descended,
    }  # fmt: skip


@over_cases
def test_beside_dense(kernel, shape) -> None:
    # Each penalty beside each kernel: tests/laws/test_kernels.py.
    phi = draw(shape)
    expected = numbers("dense", phi, "l1")
    found = numbers(kernel, phi, "l1")
    if kernel in ("panel", "tiled") and shape[2] > shape[0]:
        del found["stepped"]  # its norms are other estimates: tests/rules/test_streamed.py
    for name, each in found.items():
        torch.testing.assert_close(
            each, expected[name], rtol=1e-12, atol=1e-12, msg=lambda m, name=name: f"{name}: {m}"
        )


@pytest.mark.parametrize(
    ("kernel", "shape"),
    [
        ("panel", (400, 2, 300)),
        ("lanes", (90, 130, 4)),
        ("folded", (90, 130, 4)),
        ("whole", (300, 3, 260)),
        pytest.param("fused", (90, 13, 4), marks=needs_triton),
        pytest.param("tiled", (90, 1, 80), marks=needs_triton),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_at_most_twice_the_error_of_dense(kernel, shape, dtype) -> None:
    # A smooth penalty: at a kink the rounding of X decides a sign, and two right answers differ by 2.
    phi = draw(shape, dtype)
    exact = numbers("dense", phi.double(), "squared_frobenius")
    plain, found = (numbers(name, phi, "squared_frobenius") for name in ("dense", kernel))
    for name, right in exact.items():
        assert found[name].dtype == plain[name].dtype
        floor = torch.finfo(plain[name].dtype).eps * right.abs().max()
        error, reference = ((made[name].double() - right).abs().max() for made in (found, plain))
        assert error <= 2 * reference + floor, name


@over_kernels
def test_strides(kernel) -> None:
    shape = {
        "panel": (300, 2, 200),
        "lanes": (40, 70, 3),
        "folded": (40, 70, 3),
        "whole": (40, 7, 30),
        "fused": (40, 7, 5),
        "tiled": (40, 1, 66),
    }[kernel]
    phi = draw(shape)
    expected = numbers(kernel, phi, "l1")
    wide = torch.zeros(shape[0], shape[1] + 3, shape[2], dtype=torch.float64)
    wide[:, 2:-1] = phi
    views = [wide[:, 2:-1], torch.stack([phi, phi])[1], phi.flip(0).contiguous().flip(0)]
    if kernel != "folded":
        views += [phi.permute(2, 1, 0).contiguous().permute(2, 1, 0), torch.stack([phi, phi], dim=-1)[..., 1]]
        views += [phi.permute(1, 0, 2).contiguous().permute(1, 0, 2)]
    for view in views:
        assert torch.equal(view, phi)
        found = numbers(kernel, view, "l1")
        for name, right in expected.items():
            torch.testing.assert_close(found[name], right, rtol=1e-12, atol=1e-12)


@over_kernels
@pytest.mark.filterwarnings("ignore:invalid value encountered in")  # by NumPy, in Triton's interpreter
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_bad_number_stays_in_its_group(kernel, bad) -> None:
    m = 7 if kernel in ("fused", "tiled") else 70  # device code is interpreted, one program after the other
    phi = draw((20, m, 3))
    good = numbers(kernel, phi, "l1")
    phi[4, 5, 1] = bad
    found = numbers(kernel, phi, "l1")
    others = torch.arange(m) != 5
    assert not found["value"].isfinite()
    for name in ("grad", "backward", "stepped", "descended"):
        assert torch.isnan(found[name][:, 5]).all(), name
        torch.testing.assert_close(found[name][:, others], good[name][:, others], rtol=1e-12, atol=1e-12)


@over_kernels
def test_the_same_bits_again(kernel) -> None:
    phi = draw(
        {
            "panel": (500, 1, 900),
            "lanes": (64, 500, 4),
            "folded": (64, 500, 4),
            "whole": (200, 5, 300),
            "fused": (64, 9, 4),
            "tiled": (90, 1, 80),
        }[kernel],
        torch.float32,
    )
    first, second = (numbers(kernel, phi, "l1") for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)


@over_kernels
def test_a_large_float32_product_is_right(kernel) -> None:
    phi = draw(
        {
            "panel": (1024, 1, 1024),
            "lanes": (5000, 64, 4),
            "folded": (5000, 64, 4),
            "whole": (5000, 2, 300),
            "fused": (1500, 3, 4),
            "tiled": (500, 1, 66),
        }[kernel],
        torch.float32,
    )
    exact = numbers("dense", phi.double(), "huber")
    found = numbers(kernel, phi, "huber")
    for name, right in exact.items():
        assert (found[name].double() - right).abs().max() < 1e-5 * right.abs().max(), name


def test_panel_takes_entry_wise_penalties_only() -> None:
    class Frobenius(gramian.Penalty):
        def value(self, X: Tensor) -> Tensor:
            return torch.linalg.matrix_norm(X)

        def dual(self, X: Tensor) -> Tensor:
            return X / self.value(X)[..., None, None]

        def shrink(self, X: Tensor, tau: Tensor) -> Tensor:
            return X

    phi = draw((20, 70, 4))
    with gramian.kernels.use("panel"), pytest.raises(OptionError, match="the panel kernel was forced, but cannot take"):
        gramian.loss(phi, penalty=Frobenius())
    expected = numbers("dense", phi, Frobenius())
    for kernel in ("lanes", "folded"):
        for name, found in numbers(kernel, phi, Frobenius()).items():
            torch.testing.assert_close(found, expected[name], rtol=1e-12, atol=1e-12)


class TestTheChoice:
    @pytest.mark.parametrize(
        ("shape", "strides", "penalty", "chosen"),
        [
            ((512, 1, 2048), None, "l1", "panel"),
            ((2048, 2, 1024), None, "huber", "panel"),
            ((2048, 4, 512), None, "huber", "whole"),
            ((64, 4096, 4), None, "l1", "lanes"),
            ((64, 4096, 2), (2, 128, 1), "l1", "lanes"),  # [m, l, n]
            ((64, 4096, 4), (4, 256, 1), "l1", "whole"),
            ((64, 4096, 4), (1, 256, 64), "l1", "whole"),  # [m, n, l]
            ((256, 16, 64), None, "l1", "whole"),
            ((8, 1, 3), None, "l1", "whole"),
        ],
    )
    def test_explain_tells_what_is_done(self, shape, strides, penalty, chosen) -> None:
        told = gramian.kernels.explain(shape, strides=strides, penalty=penalty)
        assert told.chosen == chosen
        assert set(told.reasons) == {kernel.name for kernel in dispatch.LADDER}
        assert told.reasons[chosen] == "taken"
        assert told.flops == 3 * shape[0] * shape[1] * shape[2] ** 2
        assert chosen in str(told)
        phi = torch.empty_strided(shape, strides or torch.empty(shape, device="meta").stride()).normal_()
        with gramian.kernels.watch() as used:
            gramian.loss(phi, penalty=penalty)
        assert used == [chosen]

    def test_without_numba(self, monkeypatch) -> None:
        monkeypatch.setattr("gramian.kernels.lanes._INSTALLED", False)
        told = gramian.kernels.explain((64, 4096, 4))
        assert told.chosen == "folded"
        assert "pip install 'gramian[fast]'" in told.reasons["lanes"]

    def test_device_code(self, monkeypatch) -> None:
        there = gramian.kernels.explain((256, 192, 4), device="cuda")
        assert there.chosen == "fused"
        assert gramian.kernels.explain((512, 1, 2048), torch.bfloat16, "cuda").chosen == "tiled"
        assert gramian.kernels.explain((512, 1, 100), torch.bfloat16, "cuda").chosen == "dense"
        wide = gramian.kernels.explain((256, 192, 4), torch.float64, "cuda")
        assert wide.reasons["fused"] == "float64 is left to the device's own library"
        assert gramian.kernels.explain((256, 192, 4)).reasons["fused"] == "its interpreter is for tests"
        monkeypatch.delenv("TRITON_INTERPRET")
        assert "CUDA" in gramian.kernels.explain((256, 192, 4)).reasons["fused"]
        monkeypatch.setattr("gramian.kernels.device._INSTALLED", False)
        assert "comes with torch" in gramian.kernels.explain((256, 192, 4), torch.float16, "cuda").reasons["tiled"]

    def test_on_another_device(self) -> None:
        told = gramian.kernels.explain((256, 16, 64), device="mps")
        assert told.chosen == "dense"
        assert "CPU" in told.reasons["lanes"]

    def test_forced(self) -> None:
        phi = torch.randn(8, 2, 3)
        with gramian.kernels.use("panel"):
            assert gramian.kernels.explain(phi.shape).reasons["panel"] == "forced"
            with gramian.kernels.watch() as used, gramian.kernels.use("dense"):
                gramian.loss(phi)
            assert used == ["dense"]
            with gramian.kernels.watch() as used:
                gramian.loss(phi)
            assert used == ["panel"]
        assert gramian.kernels.explain(phi.shape).chosen == "whole"

    def test_transforms_go_to_dense_even_when_another_is_forced(self) -> None:
        phi = torch.randn(3, 6, 2, 4)
        with gramian.kernels.use("lanes"), gramian.kernels.watch() as used:
            batched = torch.func.vmap(torch.func.grad(gramian.loss))(phi)
        assert set(used) == {"dense"}
        torch.testing.assert_close(batched[1], gramian.value_and_grad(phi[1])[1])

    def test_errors(self) -> None:
        with pytest.raises(OptionError, match=r"the kernel must be one of 'tiled', .*; got 'triangle'"):
            gramian.kernels.use("triangle").__enter__()
        with pytest.raises(OptionError, match=r"shape and strides must be three sizes \(l, m, n\); got \(3, 4\)"):
            gramian.kernels.explain((3, 4))
        with gramian.kernels.use("lanes"), pytest.raises(OptionError, match="made for n from 1 to 8; n is 9"):
            gramian.loss(torch.randn(20, 2, 9))


def test_memory_of_panel_does_not_grow_with_n_squared() -> None:
    sizes: list[int] = []
    original = torch.Tensor.new_empty

    def spy(self: Tensor, *size, **options) -> Tensor:
        made = original(self, *size, **options)
        sizes.append(made.numel())
        return made

    phi = draw((16, 1, 8192), torch.float32)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.Tensor, "new_empty", spy)
        gramian.kernels.choose(phi, as_penalty(L1())).value_and_grad(phi, L1(), 1.0)
    assert sizes
    assert max(sizes) <= 1 << 23


class TestExactSymmetry:
    """X_jk and X_kj are one number, bit for bit: penalties that look for the largest entry rely on it."""

    @over_kernels
    @pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
    def test_of_the_residual(self, kernel, dtype) -> None:
        with gramian.kernels.use(kernel):
            few = 1 if kernel in ("fused", "tiled") else 10  # device code is interpreted
            for shape in (
                (33, 5 * few, 5),
                (7, 4 * few, 3),
                (64, 3 * few, 8),
                (40, 3, 20),
                (300, 3, 259),
                (700, 1, 513),
            ):
                phi = draw(shape, dtype)
                try:
                    chosen = gramian.kernels.choose(phi, L1())
                except OptionError:
                    continue
                if kernel in ("fused", "tiled") and shape[2] > 64:
                    continue
                X = chosen.residual(phi)
                assert torch.equal(X, X.mT), shape

    @over_kernels
    @pytest.mark.parametrize("n", [5, 8, 90])
    def test_of_the_dual(self, kernel, n) -> None:
        if n == 90 and kernel in ("lanes", "folded", "fused"):
            return
        # Orthonormal vectors on top: X off the diagonal is noise, and the identity below shows G itself.
        top = (
            torch.linalg.qr(draw((20, 2 if kernel in ("fused", "tiled") else 90, n)).permute(1, 0, 2))[0]
            if n < 20
            else draw((20, 1, n)).permute(1, 0, 2)
        )
        low = torch.eye(n, dtype=torch.float64).expand(len(top), n, n)
        phi = torch.cat([top, low], dim=1).permute(1, 0, 2).contiguous()
        with gramian.kernels.use(kernel):
            G = gramian.value_and_grad(phi)[1][-n:].permute(1, 0, 2)
        assert torch.equal(G, G.mT)
        assert (G != 0).any()

    @over_kernels
    @pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
    def test_so_the_gradient_of_coherence_is_that_of_its_pair(self, kernel, dtype) -> None:
        if kernel in ("panel", "tiled"):
            return  # they take penalties of single entries
        m = 20 if kernel == "fused" else 200
        phi = draw((33, m, 5), dtype)
        with gramian.kernels.use(kernel):
            grad = gramian.value_and_grad(phi, penalty="coherence")[1]
        for i in range(m):
            P = phi[:, i].double()
            X = (P.mT @ P).fill_diagonal_(0)
            place = X.triu().abs().argmax().item()
            j, k = place // 5, place % 5
            expected = torch.zeros_like(P)
            expected[:, j], expected[:, k] = X[j, k].sign() * P[:, k], X[j, k].sign() * P[:, j]
            torch.testing.assert_close(grad[:, i].double(), expected, rtol=1e-6, atol=1e-6)

    def test_by_autograd_and_vmap(self) -> None:
        phi = draw((33, 60, 5))
        expected = gramian.value_and_grad(phi, penalty="coherence")[1]

        def plain(phi: Tensor) -> Tensor:
            return gramian.kernels.dense.value(phi, as_penalty("coherence")).sum()

        torch.testing.assert_close(torch.func.grad(plain)(phi), expected)
        batched = torch.func.vmap(torch.func.grad(lambda p: gramian.loss(p, penalty="coherence")))(phi[None])
        torch.testing.assert_close(batched[0], expected)
        X = torch.func.vmap(gramian.residual)(phi[None])[0]
        assert torch.equal(X, X.mT)

    def test_a_matrix_that_is_symmetric_to_rounding_only(self) -> None:
        X = torch.tensor([[0.0, 0.5, 0.1], [0.5, 0.0, 0.2], [0.1, 0.2, 0.0]], dtype=torch.float64)
        expected = as_penalty("coherence").dual(X)
        X[0, 1] += 1e-16
        for penalty in ("coherence", "spectral", "frobenius"):
            G = as_penalty(penalty).dual(X)
            torch.testing.assert_close(G, G.mT, rtol=0, atol=1e-15)
        torch.testing.assert_close(as_penalty("coherence").dual(X), expected)
        tied = torch.tensor([[0.0, 0.5, -0.5], [0.5, 0.0, 0.2], [-0.5, 0.2, 0.0]])
        assert as_penalty("coherence").dual(tied)[0].tolist() == [0, 0.25, -0.25]
