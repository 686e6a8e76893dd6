"""Gabor functions fitted to atoms."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from gramian.errors import ShapeError
from gramian.typing import Phi

__all__ = ["GaborFit", "fit_gabor"]

Fitted = Float[Tensor, "m n"]
Pixels = Float[Tensor, "fits pixels"]
Numbers = Float[Tensor, "fits 8"]
"""Row, column, orientation, log frequency, log widths along and across, and the carrier's cosine and sine part."""

_ATONCE = 1 << 22
"""Entries of Jacobians that are held at a time."""

_NARROWEST = 0.4
"""Width in pixels below which an envelope falls between the pixels."""


@dataclass(frozen=True)
class GaborFit:
    r"""The Gabor function nearest to every atom.

    At row y and column x of the patch, with u = (x − column) cos θ + (y − row) sin θ, along the wave vector, and
    v = (y − row) cos θ − (x − column) sin θ, across it,

        g(x, y) = A exp(−u²/(2 s²) − v²/(2 t²)) cos(2πfu + φ)

    Attributes:
        row: Row of the envelope's centre, pixels; 0 is the middle of the first row.
        column: Column of the envelope's centre, pixels.
        orientation: Direction θ of the wave vector, radians in [0, π); the stripes run across it.
        frequency: Spatial frequency f, cycles per pixel.
        phase: Phase φ at the envelope's centre, radians in [−π, π].
        width_along: Standard deviation s of the envelope along the wave vector, pixels.
        width_across: Standard deviation t across it, along the stripes.
        amplitude: Amplitude A, positive.
        explained: Share 1 − ‖atom − g‖²/‖atom‖² that the fit explains; 0 for an atom of zeros.
    """

    row: Fitted
    column: Fitted
    orientation: Fitted
    frequency: Fitted
    phase: Fitted
    width_along: Fitted
    width_across: Fitted
    amplitude: Fitted
    explained: Fitted


@torch.no_grad()
def fit_gabor(phi: Phi, *, steps: int = 60) -> GaborFit:
    r"""Fit a Gabor function to every atom by least squares.

    Minimises ‖atom − g‖² over the eight numbers of g, see `GaborFit`, by Levenberg–Marquardt steps on all atoms at
    once. Each atom starts from its two highest peaks in the Fourier plane, each once with the centre and the widths of
    its envelope and once with a narrow envelope at the envelope's maximum; the best after a quarter of the steps goes
    on. There are local minima, so a fit says at least how much a Gabor function explains. Patches of eight pixels or
    fewer are always explained.

    Widths stay between 0.4 pixels and twice the patch, the frequency between a quarter of a cycle in a patch and
    √½ cycles per pixel, the centre within a pixel of the patch.

    Args:
        phi: Dictionary Φ[l, m, n] of square patches, l a square, at least 4.
        steps: Steps from the best start.

    Returns:
        The fits, each number as a tensor [m, n] of the type of Φ.

    Raises:
        ShapeError: If l is not the square of 2 or more.

    Cost:
        About 600·l·m·n·steps flops; at most 2²² numbers of a Jacobian are held at a time.

    Examples:
        >>> import torch
        >>> y, x = torch.meshgrid(torch.arange(12.0), torch.arange(12.0), indexing="ij")
        >>> envelope = torch.exp(-((x - 5) ** 2 + (y - 7) ** 2) / 8)
        >>> fit = fit_gabor((envelope * torch.cos(1.2 * (x - 5))).reshape(144, 1, 1))
        >>> [round(number.item(), 2) for number in (fit.row, fit.column, fit.width_along, fit.explained)]
        [7.0, 5.0, 2.0, 1.0]

    References:
        J. P. Jones and L. A. Palmer, "An evaluation of the two-dimensional Gabor filter model of simple receptive
        fields in cat striate cortex", Journal of Neurophysiology 58(6), 1987. The steps: D. W. Marquardt, "An algorithm
        for least-squares estimation of nonlinear parameters", Journal of SIAM 11(2), 1963.
    """
    length, m, n = phi.shape
    side = math.isqrt(length)
    if side**2 != length or side < 2:
        raise ShapeError(
            f"phi must hold square patches, l = 4, 9, 16 …; got l = {length} in the shape {list(phi.shape)}"
        )
    atoms = phi.flatten(1).mT.double()
    norms = torch.linalg.vector_norm(atoms, dim=1)
    units = atoms / norms.clamp_min(torch.finfo(torch.float64).tiny)[:, None]
    few = max(1, _ATONCE // (8 * 4 * length))
    parts = [_fit(each, side, steps) for each in units.split(few)]
    best, explained = torch.cat([part[0] for part in parts]), torch.cat([part[1] for part in parts])
    return _as_fit(best, norms, torch.where(norms > 0, explained, 0.0), (m, n), phi.dtype)


def _fit(atoms: Pixels, side: int, steps: int) -> tuple[Numbers, Float[Tensor, " fits"]]:
    starts = _starts(atoms, side)
    tried, lost = _levenberg_marquardt(atoms.repeat(len(starts), 1), torch.cat(starts), side, max(1, steps // 4))
    lost = lost.view(len(starts), -1)
    best = torch.where(lost.isfinite(), lost, torch.inf).argmin(dim=0)
    chosen = tried.view(len(starts), -1, 8)[best, torch.arange(len(atoms), device=atoms.device)]
    fitted, lost = _levenberg_marquardt(atoms, chosen, side, steps)
    return fitted, 1 - lost


def _starts(atoms: Pixels, side: int) -> list[Numbers]:
    """Guess from the Fourier plane: a peak gives orientation and frequency, the half-plane around it the envelope."""
    size = 4 * side
    plane = torch.fft.fft2(atoms.unflatten(1, (side, side)), s=(size, size))
    axis = torch.fft.fftfreq(size, dtype=atoms.dtype, device=atoms.device)
    rows, columns = axis[:, None], axis[None, :]
    # Of the two peaks ±k of a real picture the one with θ in [0, π).
    half = (rows > 0) | ((rows == 0) & (columns > 0))
    power = plane.abs().square() * half
    starts: list[Numbers] = []
    for _ in range(2):
        peak = power.flatten(1).argmax(dim=1)
        y, x = (axis[index][:, None, None] for index in (peak // size, peak % size))
        frequency, angle = torch.hypot(x, y), torch.atan2(y, x)
        one_way = torch.where(x * columns + y * rows > 0, plane, 0.0)
        envelope = torch.fft.ifft2(one_way)[:, :side, :side].abs().square()
        starts += [_start(atoms, envelope, angle, frequency, narrow=narrow) for narrow in (False, True)]
        near = torch.minimum(torch.hypot(columns - x, rows - y), torch.hypot(columns + x, rows + y))
        power = torch.where(near < 1.5 / side, 0.0, power)
    return starts


def _start(atoms: Pixels, envelope: Tensor, angle: Tensor, frequency: Tensor, *, narrow: bool) -> Numbers:
    side = envelope.shape[-1]
    axis = torch.arange(side, dtype=atoms.dtype, device=atoms.device)
    share = envelope / envelope.sum(dim=(1, 2), keepdim=True).clamp_min(torch.finfo(atoms.dtype).tiny)
    if narrow:
        peak = envelope.flatten(1).argmax(dim=1)[:, None, None]
        y, x = (peak // side).to(atoms.dtype), (peak % side).to(atoms.dtype)
        along = across = torch.full_like(x, side / 8)
    else:
        y, x = ((share * each).sum(dim=(1, 2), keepdim=True) for each in (axis[:, None], axis[None, :]))
        u = (axis - x) * angle.cos() + (axis[:, None] - y) * angle.sin()
        v = (axis[:, None] - y) * angle.cos() - (axis - x) * angle.sin()
        # The square of an envelope of width s has the variance s²/2.
        along, across = ((2 * (share * each.square()).sum(dim=(1, 2), keepdim=True)).sqrt() for each in (u, v))
    low, high = _bounds(side, atoms)
    shape = (y, x, angle, frequency.log(), along.log(), across.log())
    start = torch.cat([*(number.flatten(1) for number in shape), torch.ones_like(x).flatten(1).expand(-1, 2)], dim=1)
    start = torch.minimum(torch.maximum(start, low), high)
    # Least squares for the two parts of the carrier, in closed form.
    c, s = _gabor(start, side)[1][:, :, 6:].unbind(-1)
    cc, cs, ss = ((a * b).sum(dim=1) for a, b in ((c, c), (c, s), (s, s)))
    ca, sa = (atoms * c).sum(dim=1), (atoms * s).sum(dim=1)
    determinant = (cc * ss - cs.square()).clamp_min(1e-12)
    return torch.cat(
        [start[:, :6], torch.stack([ss * ca - cs * sa, cc * sa - cs * ca], dim=1) / determinant[:, None]], 1
    )


def _bounds(side: int, like: Tensor) -> tuple[Tensor, Tensor]:
    narrowest, widest = math.log(_NARROWEST), math.log(2 * side)
    low = [-1.0, -1.0, -math.inf, -math.log(4 * side), narrowest, narrowest, -math.inf, -math.inf]
    high = [side, side, math.inf, math.log(math.sqrt(0.5)), widest, widest, math.inf, math.inf]
    return torch.tensor(low).to(like), torch.tensor(high).to(like)


def _gabor(p: Numbers, side: int) -> tuple[Pixels, Float[Tensor, "fits pixels 8"]]:
    """Give the Gabor functions of these numbers, and their derivatives."""
    axis = torch.arange(side, dtype=p.dtype, device=p.device)
    row, column, angle, frequency, along, across, even, odd = p[:, :, None].unbind(1)
    dx, dy = axis.repeat(side) - column, axis.repeat_interleave(side) - row
    cosine, sine = angle.cos(), angle.sin()
    u, v = dx * cosine + dy * sine, dy * cosine - dx * sine
    k, ss, tt = 2 * math.pi * frequency.exp(), (2 * along).exp(), (2 * across).exp()
    envelope = torch.exp(-u.square() / (2 * ss) - v.square() / (2 * tt))
    c, s = envelope * (k * u).cos(), envelope * (k * u).sin()
    g = even * c + odd * s
    wave = k * (odd * c - even * s)
    by_u, by_v = wave - g * u / ss, -g * v / tt
    derivatives = (
        *(-by_u * sine - by_v * cosine, by_v * sine - by_u * cosine, by_u * v - by_v * u),
        *(wave * u, g * u.square() / ss, g * v.square() / tt, c, s),
    )
    return g, torch.stack(derivatives, dim=-1)


def _levenberg_marquardt(atoms: Pixels, p: Numbers, side: int, steps: int) -> tuple[Numbers, Float[Tensor, " fits"]]:
    """Descend ‖atom − g‖² from p within the bounds; a step that does not descend is taken back and shortened."""
    low, high = _bounds(side, p)
    value, slopes = _gabor(p, side)
    rest = atoms - value
    lost = rest.square().sum(dim=1)
    damping = torch.full_like(lost, 1e-2)
    for _ in range(steps):
        descent = (slopes.mT @ rest[..., None])[..., 0]
        # A number that stands at its bound and wants out is held there, so that it does not hold up the others.
        held = ((p <= low) & (descent < 0)) | ((p >= high) & (descent > 0))
        curvature = torch.where(held[:, :, None] | held[:, None, :], 0.0, slopes.mT @ slopes)
        damped = curvature + torch.diag_embed(damping[:, None] * curvature.diagonal(dim1=1, dim2=2) + 1e-10)
        factor = torch.linalg.cholesky_ex(damped).L
        move = torch.cholesky_solve(torch.where(held, 0.0, descent)[..., None], factor)[..., 0]
        trial = torch.minimum(torch.maximum(p + move, low), high)
        value, derivatives = _gabor(trial, side)
        left = atoms - value
        now = left.square().sum(dim=1)
        better = now < lost
        p, rest = (torch.where(better[:, None], new, old) for new, old in ((trial, p), (left, rest)))
        slopes = torch.where(better[:, None, None], derivatives, slopes)
        lost = torch.where(better, now, lost)
        damping = torch.where(better, damping / 4, damping * 5).clamp(1e-9, 1e9)
    return p, lost


def _as_fit(
    p: Numbers,
    norms: Float[Tensor, " fits"],
    explained: Float[Tensor, " fits"],
    shape: tuple[int, int],
    dtype: torch.dtype,
) -> GaborFit:
    row, column, angle, frequency, along, across, even, odd = p.unbind(1)
    # θ and θ + π are one orientation; turning the wave vector round turns the phase's sign.
    back = angle.remainder(2 * math.pi) >= math.pi
    phase = torch.where(back, 1.0, -1.0) * torch.atan2(odd, even)
    numbers = (
        *(row, column, angle.remainder(math.pi), frequency.exp(), phase, along.exp(), across.exp()),
        *(norms * torch.hypot(even, odd), explained),
    )
    return GaborFit(*(number.view(shape).to(dtype) for number in numbers))
