"""Compare inference with SPAMS, scikit-learn and celer: samples a second, at the same energy.

    pip install spams-bin celer
    python benchmarks/encoding.py

writes benchmarks/results/encoding.md; it takes about 15 minutes on an otherwise idle machine. `--quick` measures two
small dictionaries and writes nothing. Packages that are not installed are left out.
"""

import argparse
import importlib.util
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np
import torch
from peers import spams
from record import machine, table, write
from sklearn.decomposition import sparse_encode
from torch import Tensor

from gramian.coding import energy
from gramian.coding.inference import coordinate_descent, fista
from gramian.coding.inference.coordinate_descent import fallback_reason
from gramian.images.run import LearningRun, RunSettings
from gramian.typing import Phi

DICTIONARIES = ((256, 1, 300), (1024, 1, 300), (4096, 1, 60), (64, 4, 300), (256, 4, 100))
"""Groups, their size, and steps of learning."""
LAMBDAS = (0.5, 2.0, 5.0)
SAMPLES, THREADS, ROUNDS, SECONDS = 2048, 2, 15, 8.0
"""At most this number of rounds, fewer for a method that has taken this number of seconds."""
TOL, EXCESS = 1e-4, 1e-3
"""Our tolerance, and the mean relative excess of energy up to which a method counts as solved."""


@dataclass(frozen=True)
class Method:
    """A method, the number of samples on which it is timed, and what it is for."""

    name: str
    encode: Callable[[Tensor, Phi, float], Callable[[], Any]]
    codes: Callable[[Any], Tensor | np.ndarray]
    samples: int
    single: bool = True
    groups: bool = True
    package: str | None = None


def ours(infer: Callable[..., Any]) -> Callable[[Tensor, Phi, float], Callable[[], Any]]:
    return lambda x, phi, lam: lambda: infer(x, phi, lam=lam, tol=TOL, max_iter=5000)


def spams_lasso(*, cholesky: bool) -> Callable[[Tensor, Phi, float], Callable[[], Any]]:
    def prepare(x: Tensor, phi: Phi, lam: float) -> Callable[[], Any]:
        lasso, X, D = spams().lasso, np.asfortranarray(x.mT.numpy()), np.asfortranarray(phi.flatten(1).numpy())
        return lambda: lasso(X, D=D, lambda1=lam, mode=2, cholesky=cholesky, numThreads=THREADS)

    return prepare


def spams_fista(x: Tensor, phi: Phi, lam: float) -> Callable[[], Any]:
    X, D = np.asfortranarray(x.mT.numpy()), np.asfortranarray(phi.flatten(1).numpy())
    start = np.zeros((D.shape[1], X.shape[1]), dtype=np.float32, order="F")
    options: dict[str, Any] = {"regul": "l1"} if phi.shape[2] == 1 else {"regul": "group-lasso-l2"}
    if phi.shape[2] > 1:
        options["size_group"] = phi.shape[2]
    fista_flat = spams().fistaFlat
    return lambda: fista_flat(
        X, D, start, loss="square", lambda1=lam, max_it=500, tol=1e-4, numThreads=THREADS, **options
    )


def scikit_learn(algorithm: str) -> Callable[[Tensor, Phi, float], Callable[[], Any]]:
    def prepare(x: Tensor, phi: Phi, lam: float) -> Callable[[], Any]:
        X, D = x.numpy(), np.ascontiguousarray(phi.flatten(1).mT.numpy())
        encode: Any = sparse_encode  # its type stub declares alpha as an integer
        return lambda: encode(X, D, algorithm=algorithm, alpha=lam, n_jobs=THREADS, max_iter=2000)

    return prepare


def celer(x: Tensor, phi: Phi, lam: float) -> Callable[[], Any]:
    import celer as library

    length, _, n = phi.shape
    X, D = x.double().numpy(), np.asfortranarray(phi.flatten(1).double().numpy())
    options: dict[str, Any] = {"alpha": lam / length, "fit_intercept": False, "tol": 1e-5}
    model = library.Lasso(**options) if n == 1 else library.GroupLasso(groups=n, **options)
    return lambda: np.stack([model.fit(D, row).coef_ for row in X])


def transposed(codes: Any) -> np.ndarray:
    """Return the codes of SPAMS, a sparse or dense matrix of one column for each sample, by rows."""
    return np.ascontiguousarray((codes.toarray() if hasattr(codes, "toarray") else codes).T)


METHODS = (
    Method("gramian, coordinate_descent", ours(coordinate_descent), lambda result: result.codes, SAMPLES),
    Method("gramian, fista", ours(fista), lambda result: result.codes, 256),
    Method("SPAMS, lasso", spams_lasso(cholesky=False), transposed, SAMPLES, groups=False, package="spams"),
    Method("SPAMS, lasso, cholesky", spams_lasso(cholesky=True), transposed, SAMPLES, groups=False, package="spams"),
    Method("SPAMS, fistaFlat", spams_fista, transposed, 256, package="spams"),
    Method("scikit-learn, lasso_lars", scikit_learn("lasso_lars"), np.asarray, 64, groups=False),
    Method("scikit-learn, lasso_cd", scikit_learn("lasso_cd"), np.asarray, 64, groups=False),
    Method("celer", celer, np.asarray, 16, package="celer"),
)


def learned(groups: int, size: int, steps: int) -> tuple[Tensor, Phi]:
    """Learn a dictionary of the shipped images, and draw patches of held-out images."""
    run = LearningRun(RunSettings(groups=groups, size=size, steps=steps))
    while not run.finished:
        run.advance()
    return run.held_out_patches(SAMPLES), run.phi.contiguous()


def compare(x: Tensor, phi: Phi, lam: float) -> list[list[str]]:
    """Check the energies of all methods on one problem, then time them in turn."""
    single = phi.shape[2] == 1
    best = coordinate_descent(x.double(), phi.double(), lam=lam, tol=1e-7, max_iter=5000)
    least = energy(x.double(), phi.double(), best.codes, lam).total
    works: dict[str, Callable[[], Any]] = {}
    excess: dict[str, float] = {}
    counts: dict[str, int] = {}
    for method in METHODS:
        missing = method.package is not None and importlib.util.find_spec(method.package) is None
        if missing or not (method.single if single else method.groups):
            continue
        part = x[: method.samples].contiguous()
        work = method.encode(part, phi, lam)
        result = work()
        codes = torch.as_tensor(method.codes(result)).double().view(len(part), *phi.shape[1:])
        total = energy(part.double(), phi.double(), codes, lam).total
        excess[method.name] = float(((total - least[: len(part)]) / least[: len(part)]).mean())
        if method.name.startswith("gramian"):
            assert result.converged, f"{method.name} did not converge at λ = {lam:g}"
            assert excess[method.name] <= TOL, f"{method.name} is {excess[method.name]:.1e} above the least energy"
        works[method.name], counts[method.name] = work, len(part)
    durations: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(ROUNDS):
        for name, work in works.items():
            if sum(durations[name]) * counts[name] > SECONDS:
                continue
            time.sleep(0.05)  # threads of the method before may spin for a while
            start = time.perf_counter()
            work()
            durations[name].append((time.perf_counter() - start) / counts[name])
    base = median(durations["gramian, coordinate_descent"])
    active = float((best.codes.norm(dim=2) > 0).sum(dim=1).double().mean())
    return [
        [
            f"{phi.shape[1]} × {phi.shape[2]}", f"{lam:g}", f"{active:.0f}", name,
            f"{1 / median(durations[name]):,.0f}", f"{median(durations[name]) / base:.2f}",
            f"{excess[name]:.1e}" + (" (not solved)" if excess[name] > EXCESS else ""),
        ]
        for name in works
    ]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="two small dictionaries, λ = 2; nothing is written")
    parser.add_argument("--only", help="one dictionary, such as 64x4; nothing is written")
    parser.add_argument("--busy", action="store_true", help="say in the result that other programs were running")
    options = parser.parse_args()
    torch.set_num_threads(THREADS)
    warnings.simplefilter("ignore")  # scikit-learn and celer warn where they stop early; the energies say so
    header = [
        "groups", "λ", "active", "method", "samples a second", "time, in that of coordinate_descent", "excess energy",
    ]  # fmt: skip
    dictionaries = ((256, 1, 20), (64, 4, 20)) if options.quick else DICTIONARIES
    if options.only:
        dictionaries = [each for each in dictionaries if f"{each[0]}x{each[1]}" == options.only]
    rows: list[list[str]] = []
    for groups, size, steps in dictionaries:
        x, phi = learned(groups, size, steps)
        assert fallback_reason(x, phi) is None, fallback_reason(x, phi)
        for lam in (2.0,) if options.quick else LAMBDAS:
            new = compare(x, phi, lam)
            rows += new
            print(table(header, new), flush=True)
    if options.quick or options.only:
        return
    busy = " Preliminary: other programs were running.\n" if options.busy else "\n"
    text = (
        "### Codes of patches\n\n" + table(header, rows) +
        f"\nPatches of 16 × 16 of held-out images, whitened; dictionaries learned from the shipped images; {THREADS} "
        "threads for every method; medians of interleaved rounds. A time above 1 means that coordinate_descent is "
        "faster, below 1 that it is slower. Samples a method is timed on: "
        + ", ".join(f"{method.name} {method.samples}" for method in METHODS) +
        f". Methods of gramian stop at a certified relative gap of {TOL:g}, with the time of the certificate; SPAMS' "
        "lasso is exact. Excess energy: mean over samples, relative to codes in float64 with a certified gap of 1e-7. "
        "The OpenBLAS of SPAMS' wheel uses AVX2: with AVX-512 it is slower and crashes at 4096 atoms. "
        "SPAMS and celer have float32 and float64 samples in their memory order, prepared before.\n\n"
        f"Measured by `python benchmarks/encoding.py` on {machine()}.{busy}"
    )  # fmt: skip
    write("encoding.md", text)


if __name__ == "__main__":
    main()
