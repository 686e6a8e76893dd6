"""Many groups need memory for their frames and for the codes of a sample, not for dense codes."""

import subprocess
import sys

import pytest

SCRIPT = """
import resource, torch
from gramian.coding import BlockSparseAutoencoder

torch.set_num_threads(1)

def peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

model = BlockSparseAutoencoder(16, n_groups=50_000, group_size=4, active=4, select="batch_topk")
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
x = torch.randn(512, 16)
model(x[:2]).loss.backward()
optimizer.step()
model.eval().encode(x[:2]).csr()  # imports what it needs
model.train()
before = peak()
model(x).loss.backward()
optimizer.step()
codes = model.eval().encode(x)
matrix = codes.csr()
assert matrix.shape == (512, 200_000)
assert 0 < matrix.nnz <= 512 * 16 * 4
dense = 512 * 200_000 * 4
print((peak() - before) / dense)
"""


@pytest.mark.slow
def test_fifty_thousand_groups() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    # Dense pre-codes and codes would be 2, and their gradient as much; the gradient of the parameters exists before.
    assert float(done.stdout) < 0.8
