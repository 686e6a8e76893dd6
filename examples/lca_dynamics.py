"""Print the group amplitudes of the subspace LCA over its iterations, for one sample of two true groups.

python examples/lca_dynamics.py
"""

import torch

import gramian
from gramian.coding import energy, group_norms, lca

GROUPS, LAM = 6, 0.4


def main() -> None:
    """Print the energy and the amplitude of each group."""
    torch.manual_seed(0)
    phi = gramian.orthogonalize(torch.randn(8, GROUPS, 2)).phi
    codes = torch.zeros(1, GROUPS, 2)
    codes[0, 1], codes[0, 4] = torch.tensor([2.0, 1.0]), torch.tensor([-1.0, 1.5])
    x = torch.einsum("lmn,bmn->bl", phi, codes)
    print("iteration  energy  " + "  ".join(f"group {group}" for group in range(GROUPS)))
    for iterations in (0, 1, 2, 3, 5, 8, 13, 21, 34, 55, 89, 144):
        # Each call starts at zero, because codes do not contain the state of LCA, the membrane potentials.
        result = lca(x, phi, lam=LAM, max_iter=iterations, tol=None).codes
        amplitudes = "  ".join(f"{amplitude:7.3f}" for amplitude in group_norms(result)[0].tolist())
        print(f"{iterations:9d}  {energy(x, phi, result, LAM).total.item():6.3f}  {amplitudes}")


if __name__ == "__main__":
    main()
