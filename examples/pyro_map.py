"""Compare the maximum a posteriori codes of a Pyro model with those of `gramian.coding.fista`.

    pip install 'gramian[coding,bench]'    # Pyro is in the extra bench
    python examples/pyro_map.py

The model is x = Σ_i Φ_i a_i + ε with ε ~ N(0, I) and a group Laplace prior for each a_i. Pyro maximises the posterior
density with an AutoDelta guide and Adam, whose learning rate decays to 10⁻⁹. `fista` minimises the same energy until
its duality gap is 10⁻¹² of it or at the level of rounding errors. The active atoms are linearly independent, so the
minimum is unique: the script fails if two codes or two energies differ by more than 10⁻⁶. It takes about a minute.
"""

import time

import torch
from torch import Tensor

from gramian.coding import energy, fista, group_norms
from gramian.distributions import GroupLaplace, SpikeSlab, UniformFrames
from gramian.errors import needs_extra

with needs_extra("examples/pyro_map.py", "bench"):
    import pyro
    from pyro.distributions import Normal
    from pyro.distributions.torch_distribution import TorchDistributionMixin
    from pyro.infer import SVI, Trace_ELBO
    from pyro.infer.autoguide import AutoDelta
    from pyro.optim import ExponentialLR

LENGTH, GROUPS, SIZE, SAMPLES, LAM = 32, 24, 4, 10, 3.0
STEPS, FIRST, LAST, TOLERANCE = 4000, 0.1, 1e-9, 1e-6


class PyroGroupLaplace(GroupLaplace, TorchDistributionMixin):
    """The group Laplace distribution with the methods that `pyro.sample` calls."""


def map_by_pyro(x: Tensor, phi: Tensor) -> Tensor:
    """Maximise the posterior density of the codes of all samples, from 0."""

    def model() -> None:
        prior = PyroGroupLaplace(x.new_tensor(LAM), SIZE)
        with pyro.plate("samples", len(x), dim=-2), pyro.plate("groups", GROUPS, dim=-1):
            codes = pyro.sample("codes", prior)
        mean = torch.einsum("lmn,bmn->bl", phi, codes)
        pyro.sample("x", Normal(mean, x.new_ones(())).to_event(2), obs=x)

    pyro.clear_param_store()
    guide = AutoDelta(model, init_loc_fn=lambda site: x.new_zeros(site["fn"].shape()))
    # Adam divides by the root of its second moment. With the default 0.999 the moment is an average over 1000 steps, in
    # which the learning rate falls by two orders of magnitude, so that steps become too short to converge.
    options = {"lr": FIRST, "betas": (0.9, 0.95), "eps": 1e-30}
    optimizer = ExponentialLR(
        {"optimizer": torch.optim.Adam, "optim_args": options, "gamma": (LAST / FIRST) ** (1 / STEPS)}
    )
    inference = SVI(model, guide, optimizer, loss=Trace_ELBO())
    for _ in range(STEPS):
        inference.step()
        optimizer.step()  # the schedule of the learning rate
    return guide.median()["codes"]


def main() -> None:
    torch.manual_seed(0)
    phi = UniformFrames(LENGTH, SIZE, dtype=torch.float64).sample((GROUPS,)).movedim(0, 1)
    true_codes = SpikeSlab(torch.tensor(0.1, dtype=torch.float64), 4.0, SIZE).sample((SAMPLES, GROUPS))
    x = torch.einsum("lmn,bmn->bl", phi, true_codes)
    x += torch.randn(x.shape, dtype=x.dtype)

    start = time.perf_counter()
    result = fista(x, phi, lam=LAM, max_iter=100_000, tol=1e-12)
    middle = time.perf_counter()
    codes = map_by_pyro(x, phi)
    end = time.perf_counter()

    active = 100 * (group_norms(result.codes) > 0).double().mean().item()
    by_codes = (codes - result.codes).abs().max().item()
    energies = [energy(x, phi, each, LAM).total for each in (codes, result.codes)]
    by_energy = (energies[0] - energies[1]).abs().max().item()
    print(f"{SAMPLES} samples of length {LENGTH}, {GROUPS} groups of {SIZE}, λ = {LAM:g}: {active:.0f} % active groups")
    print(f"fista: {middle - start:.2f} s, gap at most {result.gap.max().item():.0e}")
    print(f"Pyro: {end - middle:.1f} s, {STEPS} steps of Adam")
    print(f"largest difference of codes {by_codes:.1e}, of energies {by_energy:.1e}")
    if max(by_codes, by_energy) > TOLERANCE:
        raise SystemExit(f"the differences must be at most {TOLERANCE:g}")


if __name__ == "__main__":
    main()
