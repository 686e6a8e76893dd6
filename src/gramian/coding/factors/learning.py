"""Learning by variational EM: start, annealing of the noise with moves, and full batches whose bound never falls."""

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from gramian.coding.factors.inference import Candidates, bound, infer, sweep
from gramian.coding.factors.maximization import maximize
from gramian.coding.factors.moments import Moments, moments
from gramian.coding.factors.moves import accept_moves, merges, splits
from gramian.coding.factors.options import FactorOptions
from gramian.coding.factors.parameters import FactorParameters
from gramian.coding.factors.start import autoencoder_frames, random_frames

__all__ = ["anneal", "begin", "improve", "move", "online_step"]

_CHUNK = 2048
"""Number of samples of one step of inference, which bounds its memory."""

_FIRST_NOISE = 0.1
"""The least σ² at the start of annealing, relative to the variance of the samples."""

_RARE = 0.2
"""Groups that the start selects less often than this fraction of the mean are dropped; splits reuse their slots."""

_MOVES_END = 0.7
"""The fraction of the annealing iterations after which no more moves are proposed."""


def _expectation(x: Tensor, parameters: FactorParameters, options: FactorOptions) -> Moments:
    total: Moments | None = None
    for part in parameters.centred(x).split(_CHUNK):
        here = moments(part, parameters, infer(part, parameters, options.candidates, options.sweeps))
        if total is None:
            total = here
        else:
            total.add_(here)
    assert total is not None  # noqa: S101 (x is not empty)
    return total


def begin(x: Tensor, options: FactorOptions, generator: torch.Generator) -> FactorParameters:
    """Compute the first parameters from standardised samples."""
    l, m, n = x.shape[1], options.n_groups, options.group_size  # noqa: E741
    phi = random_frames(l, m, n, generator).to(x)
    share = x.new_full((m,), options.active / m)
    if options.start == "autoencoder" and options.start_steps:
        phi, share = autoencoder_frames(
            x,
            phi,
            active=min(options.active, m),
            steps=options.start_steps,
            batch_size=min(512, len(x)),
            lr=3e-3,
            generator=generator,
        )
    keep = (share >= _RARE * min(options.active, m) / m) | (share == share.max())
    share = share[keep].clamp(1e-4, 0.9)
    variances = x.new_full((len(share), n), 2 * l / (options.active * n))
    return FactorParameters(phi[:, keep].contiguous(), share, variances, _FIRST_NOISE)


def move(x: Tensor, parameters: FactorParameters, options: FactorOptions) -> tuple[FactorParameters, int]:
    """Propose merges and then splits, and apply those that raise the bound; return also their number."""
    k, sweeps, count = options.candidates, options.sweeps, 0
    x = parameters.centred(x[: 4 * _CHUNK])
    candidates = infer(x, parameters, k, sweeps)
    for propose in (merges, lambda p, c: splits(p, c, options.n_groups - len(p.pi))):
        parameters, accepted = accept_moves(
            x, parameters, candidates, propose(parameters, candidates), k=k, sweeps=sweeps
        )
        if accepted:
            candidates = infer(x, parameters, k, sweeps)
            count += len(accepted)
    return parameters, count


def anneal(
    x: Tensor,
    parameters: FactorParameters,
    options: FactorOptions,
    generator: torch.Generator,
    report: Callable[[int, FactorParameters, int], None] | None = None,
) -> FactorParameters:
    """Lower the least σ² geometrically; each iteration is an EM step on a batch, every second one with moves."""
    steps, size = options.anneal_steps, min(options.batch_size, len(x))
    rate = (options.min_noise / _FIRST_NOISE) ** (1 / max(1, steps - 1))
    order = torch.empty(0, dtype=torch.long)
    for step in range(steps):
        if len(order) < size:
            order = torch.cat([order, torch.randperm(len(x), generator=generator, device="cpu")])
        batch, order = x[order[:size].to(x.device)], order[size:]
        floor = max(_FIRST_NOISE * rate**step, options.min_noise)
        totals = _expectation(batch, parameters, options)
        parameters, _ = maximize(
            parameters, totals, collapsed=True, floor=floor, frames=step > 0, center=options.center
        )
        parameters = _without_idle(parameters, totals)
        moved, settled = 0, floor < 0.05 * parameters.noise
        if step % 2 and (settled or step <= _MOVES_END * steps):
            parameters, moved = move(batch, parameters, options)
        if report:
            report(step, parameters, moved)
        if settled and step % 2 and not moved:
            break
    return parameters


def _without_idle(parameters: FactorParameters, totals: Moments) -> FactorParameters:
    """Leave out groups that are on in fewer samples than they have directions, and groups without directions."""
    n = parameters.phi.shape[2]
    keep = (totals.on >= n) & (parameters.variances > 0).any(dim=1)
    keep |= totals.on == totals.on.max()
    if bool(keep.all()):
        return parameters
    return replace(
        parameters, phi=parameters.phi[:, keep], pi=parameters.pi[keep], variances=parameters.variances[keep]
    )


def improve(x: Tensor, parameters: FactorParameters, options: FactorOptions) -> tuple[FactorParameters, list[float]]:
    """Run EM on all samples; the posterior of each sample is the better one of a fresh search and the last.

    Returns:
        The parameters, and the mean bound before each maximisation and at the end; it never falls.
    """
    parts = x.split(_CHUNK)
    kept: list[Candidates | None] = [None] * len(parts)
    history: list[float] = []
    for iteration in range(options.max_iter + 1):
        last = iteration == options.max_iter
        total, value = None, 0.0
        for index, raw in enumerate(parts):
            part = parameters.centred(raw)
            candidates = infer(part, parameters, options.candidates, options.sweeps)
            here = bound(part, parameters, candidates)
            before = kept[index]
            if before is not None:
                warm = sweep(part, parameters, before, options.sweeps)
                there = bound(part, parameters, warm)
                candidates = _better(candidates, warm, there > here, len(parameters.pi))
                here = torch.maximum(here, there)
            value += float(here.double().sum())
            kept[index] = candidates
            if not last:
                totals = moments(part, parameters, candidates)
                if total is None:
                    total = totals
                else:
                    total.add_(totals)
        history.append(value / len(x))
        if total is None or (len(history) > 1 and history[-1] - history[-2] < options.tol):
            break
        parameters, rotations = maximize(
            parameters, total, collapsed=False, floor=options.min_noise, center=options.center
        )
        kept = [candidates and candidates.rotate(rotations) for candidates in kept]
    return parameters, history


def online_step(
    x: Tensor, parameters: FactorParameters, state: Moments | None, options: FactorOptions, *, keep: float
) -> tuple[FactorParameters, Moments]:
    """Make one EM step with the moments of these samples and those of the past, multiplied by `keep`."""
    totals = _expectation(x, parameters, options)
    if state is not None:
        state.add_(totals, keep=keep)
        totals = state
    parameters, _ = maximize(parameters, totals, collapsed=True, floor=options.min_noise, center=options.center)
    return parameters, totals


def _better(first: Candidates, second: Candidates, choose: Tensor, m: int) -> Candidates:
    """Choose the second posterior for some samples; the narrower one is padded with groups that are off."""
    k = max(first.groups.shape[1], second.groups.shape[1])
    first, second = first.pad(k, m), second.pad(k, m)
    parts = [
        torch.where(choose.reshape(-1, *(1,) * (b.ndim - 1)), b, a)
        for a, b in zip(first.tensors, second.tensors, strict=True)
    ]
    return Candidates(*parts)
