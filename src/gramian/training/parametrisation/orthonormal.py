"""A parametrisation: the weight is the polar factor of a parameter, so that it is orthonormal at every forward pass."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from gramian.errors import GramianError, LayoutError, OptionError
from gramian.kernels.base import is_plain
from gramian.layout import Layout, as_layout, as_phi, from_phi
from gramian.rules.apply import put_
from gramian.selection import propose
from gramian.selection.wrappers import parameters_of
from gramian.training.parametrisation.polar import check_tall, nearest_orthonormal, polar_factor

__all__ = ["Orthonormal", "orthonormal"]


class Orthonormal(nn.Module):
    r"""Parametrise a weight as the polar factor of a parameter, the nearest weight with orthonormal groups.

    For `torch.nn.utils.parametrize.register_parametrization`; `gramian.training.orthonormal` registers it with the
    layout of the layer. The weight is orthonormal to the rounding of its dtype at every forward pass, whatever changed
    the parameter: any optimiser, an average of weights, a loaded file.

    The polar factor does not depend on the scale of the parameter, but the gradient does: it shrinks as the scale
    grows. So by default the forward pass in training mode also replaces the parameter by its polar factor (retraction).
    This changes no weight. It preserves the meaning of the learning rate, and the next polar factor costs two products
    with Φ. The gradient is then that of the weight, projected onto the tangent space, and the optimiser's moments
    estimate this gradient. The moments themselves are not changed. Weight decay has no effect.

    Args:
        layout: Layout of the weight; by default Φ[l, m, n], or one group [l, n].
        retract: Whether the forward pass replaces the parameter, in training mode with gradients. False for optimisers
            that must find the parameter unchanged between their evaluations, such as LBFGS with a line search, and for
            `fully_shard`, whose gathered parameters are discarded after each forward.

    Raises:
        LayoutError: If `layout` is not a layout.

    Examples:
        >>> import torch, gramian
        >>> from torch.nn.utils import parametrize
        >>> layer = torch.nn.Linear(64, 32)
        >>> pairs = gramian.training.Orthonormal("(m n) i -> i m n; n=2")
        >>> _ = parametrize.register_parametrization(layer, "weight", pairs)
        >>> gramian.residual(layer.weight, layout=pairs.layout).abs().max().item() < 1e-5
        True

    References:
        Absil, Mahony and Sepulchre, "Optimization Algorithms on Matrix Manifolds", 2008, for the retraction by the
        polar factor.
    """

    def __init__(self, layout: Layout | str | None = None, *, retract: bool = True) -> None:
        super().__init__()
        self.layout = None if layout is None else as_layout(layout, 0)
        self.retract = retract

    def forward(self, parameter: Tensor) -> Tensor:
        """Compute the weight from the parameter, and with `retract` write it to the parameter.

        Raises:
            DataError: If the vectors of a group are linearly dependent or not finite.
        """
        if torch.compiler.is_compiling():
            # The number of products depends on the residual; the graph is interrupted here.
            uncompiled: Any = torch.compiler.disable(Orthonormal._weight)
            return uncompiled(self, parameter)
        return self._weight(parameter)

    def _weight(self, parameter: Tensor) -> Tensor:
        if not self._retracts(parameter):
            return from_phi(polar_factor(as_phi(parameter, self.layout)), parameter, self.layout)
        with torch.no_grad():
            nearest, orthonormal = nearest_orthonormal(as_phi(parameter, self.layout))
            if orthonormal:
                nearest = nearest.clone()
            else:
                put_(parameter, from_phi(nearest, parameter, self.layout))
        phi = as_phi(parameter, self.layout)
        return from_phi(polar_factor(phi, nearest, orthonormal=True), parameter, self.layout)

    def right_inverse(self, weight: Tensor) -> Tensor:
        """Return the parameter for a weight that is assigned: the nearest orthonormal weight, a new tensor.

        Raises:
            ShapeError: If groups have n > l.
            DataError: If the vectors of a group are linearly dependent or not finite.
            DtypeError, LayoutError: As for `gramian.loss`.
        """
        with torch.no_grad():
            phi = as_phi(weight.detach(), self.layout)
            check_tall(*phi.shape)
            nearest, _ = nearest_orthonormal(phi)
            # Contiguous, because the parameter takes over the strides of this tensor.
            return torch.empty_like(weight, memory_format=torch.contiguous_format).copy_(
                from_phi(nearest, weight, self.layout)
            )

    def extra_repr(self) -> str:
        """Describe the layout in the text of a model."""
        return ", ".join([*([] if self.layout is None else [repr(str(self.layout))]), f"retract={self.retract}"])

    def _retracts(self, parameter: Tensor) -> bool:
        return (
            self.retract
            and self.training
            and torch.is_grad_enabled()
            and parameter.requires_grad
            and parameter.is_leaf
            and is_plain(parameter)
        )


def orthonormal(
    module: nn.Module, name: str = "weight", *, layout: Layout | str | None = None, retract: bool = True
) -> nn.Module:
    r"""Keep a weight orthonormal at every forward pass, by a parametrisation of the module that holds it.

    Like `torch.nn.utils.parametrizations.orthogonal`, but for groups of any layout and also in 16 bits. The weight
    starts at the orthonormal one nearest to its present value, and an optimiser that has the parameter still has it.
    The parameter is then `parametrizations.weight.original`, in `state_dict` too. `module.weight = value` assigns the
    orthonormal weight nearest to a value, `torch.nn.utils.parametrize.remove_parametrizations` ends the
    parametrisation, and `torch.nn.utils.parametrize.cached` computes a weight that is used several times only once.

    Args:
        module: Any module.
        name: Name of a parameter of it, or of a module within it, such as 'layers.0.self_attn.q_proj.weight'. Attention
            heads are recognised if `module` contains the attention module.
        layout: Layout of the weight; by default that of `gramian.attach` for the layer: rows of linear layers, or
            columns where they are fewer, the filters of convolutions, heads, gates.
        retract: Whether the forward pass replaces the parameter by its polar factor; see `Orthonormal`.

    Returns:
        The module.

    Raises:
        OptionError: If there is no parameter of that name, it has no shape yet, or it is parametrised already.
        LayoutError: If the weight has no layout, or does not fit it.
        ShapeError: If groups have n > l.
        DataError: If the vectors of a group are linearly dependent or not finite, as zeros are.
        DtypeError: If the weight is not of a real floating-point dtype.

    Cost:
        4·m·l·n² flops and a copy of the weight at each forward, and 4·m·l·n² in the backward pass.

    Examples:
        >>> import torch, gramian
        >>> layer = gramian.training.orthonormal(torch.nn.Conv2d(16, 32, 3))
        >>> filters = layer.weight.flatten(1)
        >>> torch.allclose(filters @ filters.mT, torch.eye(32), atol=1e-5)
        True
        >>> layer.parametrizations.weight[0]
        Orthonormal('(g o) i h w -> (i h w) g o; g=1', retract=True)
    """
    if not isinstance(module, nn.Module):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise OptionError(f"module must be a torch.nn.Module; got {type(module).__name__}")
    place = parameters_of(module).get(name)
    if place is None:
        owner, _, key = name.rpartition(".")
        known = owner in dict(module.named_modules()) and parametrize.is_parametrized(module.get_submodule(owner), key)
        got = "is parametrised already; try parametrize.remove_parametrizations first" if known else "has none"
        raise OptionError(f"name must be that of a parameter of the module; got {name!r}, which {got}")
    proposal = propose(module)[name]
    if proposal.lazy or proposal.barred:
        raise OptionError(f"{name} must be a plain parameter with a shape; got one that is not ({proposal.reason})")
    chosen = proposal.layout if layout is None else layout
    if chosen is None:
        raise LayoutError(
            f"{name} of shape {list(place.parameter.shape)} must have a layout; got none ({proposal.reason}); try "
            "layout='... -> vector group member'"
        )
    try:
        parametrize.register_parametrization(place.module, place.key, Orthonormal(chosen, retract=retract))
    except GramianError as error:
        raise type(error)(f"{name}: {error}") from None
    return module
