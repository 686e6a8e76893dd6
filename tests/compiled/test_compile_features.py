"""The module of block-sparse features compiles with no break in the graph, and trains as the plain one does."""

import copy

import pytest
import torch

from gramian.coding import BlockSparseAutoencoder
from gramian.coding.encoders import products

pytestmark = pytest.mark.filterwarnings(
    # All from inside torch, while it traces.
    r"ignore:<class 'torch\.autograd\.function\.Function'> should not be instantiated:DeprecationWarning",
    "ignore:`torch.jit.script` is deprecated:DeprecationWarning",
    "ignore:`torch.jit.script_method` is deprecated:DeprecationWarning",
)
slow = pytest.mark.slow


@pytest.mark.parametrize(
    ("encoder", "select", "chunked"),
    [
        ("linear", "topk", False),
        pytest.param("linear", "batch_topk", True, marks=slow),
        pytest.param("tied", "threshold", False, marks=slow),
        pytest.param("linear", "soft", False, marks=slow),
        pytest.param("tied", "fdr", False, marks=slow),
    ],
)
def test_training_and_use(monkeypatch, encoder, select, chunked) -> None:
    if chunked:
        monkeypatch.setattr(products, "LARGEST", 64 * 3 * 4)  # both the products and the gathered rows in parts
    torch._dynamo.reset()
    plain = BlockSparseAutoencoder(16, n_groups=10, group_size=3, active=2, encoder=encoder, select=select)
    model = copy.deepcopy(plain)
    fast = torch.compile(model, backend="aot_eager", fullgraph=True)
    results = []
    for each, module in ((plain, plain), (fast, model)):
        optimizer = torch.optim.Adam(module.parameters(), lr=1e-2)
        module.keep_orthonormal(optimizer)
        for step in range(4):
            x = torch.randn(64, 16, generator=torch.Generator().manual_seed(step))
            optimizer.zero_grad()
            each(x).loss.backward()
            optimizer.step()
        each.eval()
        with torch.no_grad():
            results.append(each(x))
    torch.testing.assert_close(results[1].loss, results[0].loss, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(results[1].codes.dense(), results[0].codes.dense(), rtol=1e-3, atol=1e-4)
    for one, two in zip(plain.state_dict().values(), model.state_dict().values(), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-3, atol=1e-4)
