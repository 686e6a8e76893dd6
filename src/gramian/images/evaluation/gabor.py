"""Fit Gabor functions to atoms."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy import ndarray
from scipy.optimize import least_squares
from torch import Tensor

from gramian.errors import ShapeError
from gramian.typing import Phi

__all__ = ["GaborFit", "fit_gabor"]

Fitted = Float[Tensor, "m n"]
Pixels = Float[ndarray, "*fits pixels"]
Parameters = Float[ndarray, "*fits 8"]
"""Row, column, orientation, log frequency, log widths along and across, and the carrier's cosine and sine part."""

_BATCH = 64
"""Atoms whose Fourier planes are in memory at a time."""

_TRIAL_EVALUATIONS = 20
"""Number of evaluations from each start; the best result is refined."""

_NARROWEST = 0.4
"""Width in pixels below which an envelope can lie between pixels."""


@dataclass(frozen=True)
class GaborFit:
    r"""The nearest Gabor function of every atom.

    At row y and column x of the patch, with u = (x − column) cos θ + (y − row) sin θ, along the wave vector, and
    v = (y − row) cos θ − (x − column) sin θ, across it,

        g(x, y) = A exp(−u²/(2 s²) − v²/(2 t²)) cos(2πfu + φ)

    Attributes:
        row: Row of the envelope's centre, pixels; 0 is the middle of the first row.
        column: Column of the envelope's centre, pixels.
        orientation: Direction θ of the wave vector, radians in [0, π); the stripes are perpendicular to it.
        frequency: Spatial frequency f, cycles per pixel.
        phase: Phase φ at the envelope's centre, radians in [−π, π].
        width_along: Standard deviation s of the envelope along the wave vector, pixels.
        width_across: Standard deviation t across it, along the stripes.
        amplitude: Amplitude A, positive.
        explained: Fraction 1 − ‖atom − g‖²/‖atom‖² that the fit explains; 0 for an atom of zeros.
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

    def __repr__(self) -> str:
        m, n = self.explained.shape
        return f"GaborFit({m} groups of {n} atoms, {100 * float(self.explained.nanmedian()):.0f} % explained)"


def fit_gabor(phi: Phi, *, steps: int = 200) -> GaborFit:
    r"""Fit a Gabor function to every atom by least squares.

    MINPACK's Levenberg–Marquardt method, with the analytic Jacobian, minimises ‖atom − g‖² over the eight parameters of
    g; see `GaborFit`. Each atom has four starts: its two highest peaks in the Fourier plane, each once with the centre
    and the widths of its envelope and once with a narrow envelope at the envelope's maximum. The best result after 20
    evaluations is refined. The problem has local minima, so `explained` is a lower bound. Atoms of at most eight pixels
    are always explained.

    Widths stay between 0.4 pixels and twice the patch, the frequency between a quarter of a cycle in a patch and √½
    cycles per pixel, and the centre within a pixel of the patch: each bounded parameter is computed from the sine of a
    free one.

    Args:
        phi: Dictionary Φ[l, m, n] of square patches, l a square, at least 4.
        steps: Maximum number of evaluations of g in the refinement.

    Returns:
        The fits, each parameter as a tensor [m, n] of Φ's dtype, on Φ's device; NaN for atoms that are not finite.

    Raises:
        ShapeError: If l is not the square of 2 or more.

    Cost:
        About 100 evaluations of g and its Jacobian for each atom: about 20 ms for 16 × 16 pixels, on the CPU.

    Examples:
        >>> import torch
        >>> y, x = torch.meshgrid(torch.arange(12.0), torch.arange(12.0), indexing="ij")
        >>> envelope = torch.exp(-((x - 5) ** 2 + (y - 7) ** 2) / 8)
        >>> fit = fit_gabor((envelope * torch.cos(1.2 * (x - 5))).reshape(144, 1, 1))
        >>> [round(number.item(), 2) for number in (fit.row, fit.column, fit.width_along, fit.explained)]
        [7.0, 5.0, 2.0, 1.0]

    References:
        J. P. Jones and L. A. Palmer, "An evaluation of the two-dimensional Gabor filter model of simple receptive
        fields in cat striate cortex", Journal of Neurophysiology 58(6), 1987.
    """
    length = phi.shape[0]
    side = math.isqrt(length)
    if side**2 != length or side < 2:
        raise ShapeError(
            f"phi must hold square patches, l = 4, 9, 16 …; got l = {length} in the shape {list(phi.shape)}"
        )
    atoms = phi.detach().flatten(1).mT.double().cpu().numpy()
    norms = np.linalg.norm(atoms, axis=1)
    units = atoms / np.maximum(norms, np.finfo(np.float64).tiny)[:, None]
    bounds = _Bounds(side)
    fitted, explained = np.full((len(units), 8), np.nan), np.full(len(units), np.nan)
    finite = np.flatnonzero(np.isfinite(units).all(axis=1))
    for batch in np.array_split(finite, range(_BATCH, len(finite), _BATCH)):
        starts = _starts(units[batch], bounds)
        for index, of_atom in zip(batch, starts, strict=True):
            fitted[index], explained[index] = _fit(units[index], of_atom, bounds, steps)
    return _as_fit(fitted, norms, np.where(norms > 0, explained, 0.0), phi)


class _Bounds:
    """The bounds of the parameters, and the sine substitution that makes the problem unbounded."""

    def __init__(self, side: int) -> None:
        self.side = side
        narrowest, widest = math.log(_NARROWEST), math.log(2 * side)
        self.low = np.array([-1.0, -1.0, -math.log(4 * side), narrowest, narrowest])
        self.high = np.array([side, side, math.log(math.sqrt(0.5)), widest, widest])
        self.bounded = np.array([0, 1, 3, 4, 5])
        self.rows, self.columns = np.indices((side, side), dtype=np.float64).reshape(2, -1)

    def clip(self, p: Parameters) -> Parameters:
        p = p.copy()
        p[..., self.bounded] = np.clip(p[..., self.bounded], self.low, self.high)
        return p

    def free(self, p: Parameters) -> Parameters:
        """Return t of p = low + (high − low)(1 + sin t)/2, clipped inside the bounds, where the derivative vanishes."""
        t = p.copy()
        level = 2 * (p[self.bounded] - self.low) / (self.high - self.low) - 1
        t[self.bounded] = np.arcsin(np.clip(level, -0.999, 0.999))
        return t

    def parameters(self, t: Parameters) -> tuple[Parameters, Parameters]:
        """Return p of t, and ∂p/∂t."""
        p, slope = t.copy(), np.ones_like(t)
        half, free = (self.high - self.low) / 2, t[self.bounded]
        p[self.bounded] = self.low + half * (1 + np.sin(free))
        slope[self.bounded] = half * np.cos(free)
        return p, slope


def _fit(atom: Pixels, starts: Float[ndarray, "starts 8"], bounds: _Bounds, steps: int) -> tuple[Parameters, float]:
    """Fit one atom of unit length; return the parameters and the explained fraction."""
    last: list[ndarray] = []

    def error(t: ndarray) -> ndarray:
        p, slope = bounds.parameters(t)
        g, derivatives = _gabor(p, bounds.rows, bounds.columns)
        last[:] = t.copy(), derivatives * slope
        return g - atom

    def jacobian(t: ndarray) -> ndarray:
        if not np.array_equal(t, last[0]):
            error(t)
        return last[1]

    def minimize(t: ndarray, evaluations: int) -> tuple[ndarray, float]:
        # MINPACK needs as many pixels as parameters.
        method = "lm" if len(atom) >= len(t) else "trf"
        solve: Any = least_squares  # its stub accepts no function for the Jacobian
        result = solve(error, t, jacobian, method=method, x_scale="jac", max_nfev=evaluations)
        return result.x, float(result.cost)

    trials: list[tuple[ndarray, float]] = []
    for start in starts:
        # The two parts of the carrier have a closed form.
        carriers = _gabor(start, bounds.rows, bounds.columns)[1][:, 6:]
        start[6:] = np.linalg.lstsq(carriers, atom, rcond=1e-6)[0]
        trials.append(minimize(bounds.free(start), _TRIAL_EVALUATIONS))
    best, cost = minimize(min(trials, key=lambda trial: trial[1])[0], steps)
    return bounds.parameters(best)[0], 1 - 2 * cost


def _gabor(p: Parameters, rows: Pixels, columns: Pixels) -> tuple[Pixels, Float[ndarray, "pixels 8"]]:
    """Return the Gabor function of these parameters at the pixels, and its derivatives."""
    row, column, angle, frequency, along, across, even, odd = (
        p.tolist()
    )  # Python floats are faster here than NumPy scalars
    cosine, sine = math.cos(angle), math.sin(angle)
    k, ss, tt = 2 * math.pi * math.exp(frequency), math.exp(2 * along), math.exp(2 * across)
    dx, dy = columns - column, rows - row
    u, v = dx * cosine + dy * sine, dy * cosine - dx * sine
    u_ss, v_tt, wave = u / ss, v / tt, k * u
    envelope = np.exp(-0.5 * (u * u_ss + v * v_tt))
    c, s = envelope * np.cos(wave), envelope * np.sin(wave)
    g = even * c + odd * s
    carrier = k * (odd * c - even * s)
    g_u, g_v = g * u_ss, g * v_tt
    by_u = carrier - g_u
    derivatives = (
        *(g_v * cosine - by_u * sine, -g_v * sine - by_u * cosine, by_u * v + g_v * u),
        *(carrier * u, g_u * u, g_v * v, c, s),
    )
    return g, np.array(derivatives).T


def _starts(atoms: Float[ndarray, "fits pixels"], bounds: _Bounds) -> Float[ndarray, "fits starts 8"]:
    """Estimate starts in the Fourier plane: a peak gives orientation and frequency, its half-plane the envelope."""
    side, size = bounds.side, 4 * bounds.side
    plane = np.fft.fft2(atoms.reshape(-1, side, side), s=(size, size))
    axis = np.fft.fftfreq(size)
    rows, columns = axis[:, None], axis[None, :]
    # A real picture has peaks at ±k: use the one with θ in [0, π).
    power = np.abs(plane) ** 2 * ((rows > 0) | ((rows == 0) & (columns > 0)))
    starts: list[ndarray] = []
    for _ in range(2):
        peak = power.reshape(len(atoms), -1).argmax(axis=1)
        y, x = (axis[index][:, None, None] for index in np.divmod(peak, size))
        half_plane = np.where(x * columns + y * rows > 0, plane, 0.0)
        envelope = np.abs(np.fft.ifft2(half_plane)[:, :side, :side]) ** 2
        starts += [_start(atoms, envelope, x, y, bounds, narrow=narrow) for narrow in (False, True)]
        near = np.minimum(np.hypot(columns - x, rows - y), np.hypot(columns + x, rows + y))
        power = np.where(near < 1.5 / side, 0.0, power)
    return np.stack(starts, axis=1)


def _start(
    atoms: Pixels, envelope: ndarray, wave_x: ndarray, wave_y: ndarray, bounds: _Bounds, *, narrow: bool
) -> Parameters:
    side, tiny = bounds.side, np.finfo(np.float64).tiny
    axis = np.arange(side, dtype=np.float64)
    frequency, angle = np.hypot(wave_x, wave_y), np.arctan2(wave_y, wave_x)
    if narrow:
        y, x = (index[:, None, None].astype(np.float64) for index in np.divmod(
            envelope.reshape(len(atoms), -1).argmax(axis=1), side
        ))  # fmt: skip
        along = across = np.full_like(x, side / 8)
    else:
        share = envelope / np.maximum(envelope.sum(axis=(1, 2), keepdims=True), tiny)
        y, x = ((share * place).sum(axis=(1, 2), keepdims=True) for place in (axis[:, None], axis[None, :]))
        dx, dy = axis - x, axis[:, None] - y
        u, v = dx * np.cos(angle) + dy * np.sin(angle), dy * np.cos(angle) - dx * np.sin(angle)
        # The square of an envelope of width s has the variance s²/2.
        along, across = (np.sqrt(2 * (share * place**2).sum(axis=(1, 2), keepdims=True)) for place in (u, v))
    logs = [np.log(np.maximum(number, tiny)) for number in (frequency, along, across)]
    parts = (y, x, angle, *logs, np.ones_like(x), np.ones_like(x))
    return bounds.clip(np.stack([part[:, 0, 0] for part in parts], axis=1))


def _as_fit(p: Parameters, norms: Float[ndarray, " fits"], explained: Float[ndarray, " fits"], phi: Phi) -> GaborFit:
    row, column, angle, frequency, along, across, even, odd = p.T
    # θ and θ + π are one orientation; reversing the wave vector changes the sign of the phase.
    reversed_ = np.remainder(angle, 2 * math.pi) >= math.pi
    phase = np.where(reversed_, 1.0, -1.0) * np.arctan2(odd, even)
    numbers = (
        *(row, column, np.remainder(angle, math.pi), np.exp(frequency), phase, np.exp(along), np.exp(across)),
        *(norms * np.hypot(even, odd), explained),
    )
    shape = phi.shape[1:]
    return GaborFit(*(torch.from_numpy(np.ascontiguousarray(number)).view(shape).to(phi) for number in numbers))
