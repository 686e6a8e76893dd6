"""The section with a slider that rotates the direction of a group's code."""

import base64
import math

import torch
from jaxtyping import Float
from torch import Tensor

from gramian.images.evaluation.record import LearningRecord
from gramian.report import pictures
from gramian.report.page import as_data, fill, text_of

__all__ = ["turning_section"]

_GROUPS = 16
_PHASES = 8


def turning_section(record: LearningRecord, order: Tensor) -> str:
    """Draw a slider for the most used groups and a strip of pictures for each; return empty text for single atoms.

    Args:
        record: Measurements of the run.
        order: All groups, most used first.
    """
    if record.planes is None:
        return ""
    most_used = order[:_GROUPS]
    n = record.phi.shape[2]
    share = 100 * float(record.planes.share[most_used].nanmedian())
    directions = torch.einsum("lmn,mnk->mkl", record.grey_phi[:, most_used], record.planes.axes[most_used])
    return fill(
        "gramian.images.page",
        "turning.html",
        {
            "plane": "" if n == 2 else f" (two of {n}; they hold {share:.0f} % of the power of these groups' codes)",
            "side": record.patch,
            "shown": len(most_used),
            "strips": "".join(_strip(group, axes) for group, axes in zip(most_used.tolist(), directions, strict=True)),
            "script": text_of("gramian.images.page", "turning.js"),
        },
    )


def _strip(group: int, axes: Float[Tensor, "2 l"]) -> str:
    # The largest pixel over all θ sets one scale, so that the brightness does not depend on θ.
    limit = float(axes.norm(dim=0).max())
    side = math.isqrt(axes.shape[1])
    angles = torch.arange(_PHASES, dtype=axes.dtype) * (2 * math.pi / _PHASES)
    turned = angles.cos()[:, None] * axes[0] + angles.sin()[:, None] * axes[1]
    picture = pictures.row_picture(turned.view(_PHASES, side, side), limit=limit)
    numbers = (axes * (127 / (limit or 1.0))).round().to(torch.int8).numpy()
    words = f"group {group} at eight directions of its code"
    return (
        f'<label><input type="radio" name="group" value="{group}" autocomplete="off" disabled '
        f'data-atoms="{base64.b64encode(numbers.tobytes()).decode("ascii")}">'
        f'<img class="crisp" alt="{words}" src="{as_data(pictures.png(picture))}">'
        f"<span>group {group}</span></label>"
    )
