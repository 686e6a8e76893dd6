"""Which weights of a network, and how: a layout for each kind of layer, by rows or columns, as can be orthonormal."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import nn

from gramian.layout import Layout

__all__ = ["Proposal", "propose", "propose_by_shape"]

_KERNEL = {1: "k", 2: "h w", 3: "d h w"}

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)

_NORMS = (
    *(nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm, nn.InstanceNorm1d, nn.InstanceNorm2d),
    *(nn.InstanceNorm3d, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm),
)

_HEADS = {
    "q": ("num_heads", "num_attention_heads", "n_heads", "n_head", "num_q_heads"),
    "kv": (
        "num_key_value_heads",
        "num_kv_heads",
        "n_kv_heads",
        "num_heads",
        "num_attention_heads",
        "n_heads",
        "n_head",
    ),
}
"""Attributes by which attention modules call their number of heads."""

_INWARD = {
    "q": ("q_proj", "q_lin", "query", "wq", "to_q"),
    "kv": ("k_proj", "v_proj", "k_lin", "v_lin", "key", "value", "wk", "wv", "to_k", "to_v"),
}
_OUTWARD = ("o_proj", "out_proj", "out_lin", "wo", "c_proj", "dense", "proj")
_EMBEDDINGS = ("embed", "wte", "wpe", "lm_head")
_FUSED = ("c_attn", "qkv", "qkv_proj", "Wqkv", "in_proj", "attn_qkv")


@dataclass(frozen=True)
class Proposal:
    """What the default policy says about one parameter."""

    layout: Layout | None
    """None if it is left out, or if its axes have no known meaning."""
    reason: str
    chosen: bool = True
    """Whether it is taken unless something else is selected."""


def propose(model: nn.Module) -> dict[str, Proposal]:
    """Say of every parameter of a model, by its name, how it would be laid out and why.

    Args:
        model: Any module.

    Returns:
        A proposal for each name, in the order of `model.named_parameters(remove_duplicate=False)`.

    Examples:
        >>> from torch import nn
        >>> model = nn.Sequential(nn.Conv2d(3, 8, 5), nn.BatchNorm2d(8))
        >>> for name, proposal in propose(model).items():
        ...     print(name, proposal.layout, proposal.reason)
        0.weight Layout('(g o) i h w -> (i h w) g o', g=1) filters of Conv2d
        0.bias None a bias
        1.weight None a scale of BatchNorm2d
        1.bias None a bias
    """
    said: dict[str, Proposal] = {}
    for prefix, module in model.named_modules(remove_duplicate=False):
        for name, proposal in _of_module(module):
            said[f"{prefix}.{name}" if prefix else name] = proposal
    # An attention module knows more of its projections than they know of themselves.
    for prefix, module in model.named_modules(remove_duplicate=False):
        for name, proposal in _of_attention(module):
            said[f"{prefix}.{name}" if prefix else name] = proposal
    unknown = "its axes have no known meaning"
    return {
        name: said.get(name) or Proposal(None, unknown if parameter.ndim > 1 else "a single vector", chosen=False)
        for name, parameter in model.named_parameters(remove_duplicate=False)
    }


def propose_by_shape(name: str, shape: tuple[int, ...]) -> Proposal:
    """Say how a tensor would be laid out of which only the name and the shape are known.

    Examples:
        >>> propose_by_shape("encoder.weight", (64, 32)).reason, propose_by_shape("wte.weight", (50257, 768)).chosen
        ('columns of a matrix', False)
    """
    rank = len(shape)
    if 0 in shape:
        return Proposal(None, "it is empty", chosen=False)
    if rank == 2:
        if any(word in name.lower() for word in _EMBEDDINGS):
            return Proposal(_matrix(*shape), "by its name an embedding, taken if it is selected", chosen=False)
        return Proposal(_matrix(*shape), f"{_side(*shape)} of a matrix")
    if rank - 2 in _KERNEL:
        kernel = _KERNEL[rank - 2]
        area = 1
        for size in shape[1:]:
            area *= size
        if shape[1] == 1 and area > 1:
            return Proposal(None, "by its shape depthwise filters", chosen=False)
        pattern = f"o i {kernel} -> (i {kernel}) () o" if shape[0] <= area else f"o i {kernel} -> o () (i {kernel})"
        return Proposal(Layout(pattern), "filters by its shape")
    return Proposal(None, f"of {rank} axes", chosen=False)


def _of_module(module: nn.Module) -> Iterator[tuple[str, Proposal]]:
    kind = type(module).__name__
    for name, parameter in module.named_parameters(recurse=False):
        shape = tuple(parameter.shape)
        if name.startswith(("original", "weight_g", "weight_v")) or name.endswith("_orig"):
            yield (
                name,
                Proposal(None, "it is re-parametrised; what acts on it must be its parametrisation", chosen=False),
            )
        elif "bias" in name:
            yield name, Proposal(None, "a bias", chosen=False)
        elif isinstance(module, _NORMS):
            yield name, Proposal(None, f"a scale of {kind}", chosen=False)
        elif isinstance(module, (nn.Embedding, nn.EmbeddingBag)):
            yield name, Proposal(_matrix(*shape), "an embedding, taken if it is selected", chosen=False)
        elif isinstance(module, _CONVOLUTIONS) and name == "weight":
            yield name, _of_convolution(module, shape)
        elif isinstance(module, nn.RNNBase) and name.startswith("weight_"):
            yield name, _of_gates(module, name, shape)
        elif name == "weight" and (isinstance(module, nn.Linear) or _is_transposed_linear(module)):
            yield name, Proposal(_matrix(*shape), f"{_side(*shape)} of {kind}")


def _matrix(rows: int, columns: int) -> Layout:
    """Take the rows as vectors if they can be orthonormal, else the columns."""
    return Layout("o i -> i () o") if rows <= columns else Layout("o i -> o () i")


def _side(rows: int, columns: int) -> str:
    return "rows" if rows <= columns else "columns"


def _is_transposed_linear(module: nn.Module) -> bool:
    """Know the Conv1D of Hugging Face's GPT-2, a Linear with its weight [in, out], without importing it."""
    return type(module).__name__ == "Conv1D" and hasattr(module, "nf")


def _of_convolution(module: Any, shape: tuple[int, ...]) -> Proposal:
    kind, kernel, groups = type(module).__name__, _KERNEL[len(shape) - 2], module.groups
    if groups > 1 and groups == module.in_channels:
        return Proposal(None, f"depthwise filters of {kind}", chosen=False)
    area = 1
    for size in shape[2:]:
        area *= size
    within = shape[0] // groups
    # Transposed convolutions hold [in, out / groups, ...]; what meets in an output is still (in, kernel).
    inputs, outputs = (within, shape[1]) if module.transposed else (shape[1], within)
    vector, member = f"(i {kernel})", "o"
    left = f"(g i) o {kernel}" if module.transposed else f"(g o) i {kernel}"
    if outputs <= inputs * area:
        return Proposal(Layout(f"{left} -> {vector} g {member}", g=groups), f"filters of {kind}")
    return Proposal(Layout(f"{left} -> {member} g {vector}", g=groups), f"inputs of {kind}: it has more filters")


def _of_gates(module: nn.RNNBase, name: str, shape: tuple[int, ...]) -> Proposal:
    kind = type(module).__name__
    if name.startswith("weight_hr"):
        return Proposal(_matrix(*shape), f"{_side(*shape)} of the projection of {kind}")
    gates = shape[0] // module.hidden_size
    rows = module.hidden_size <= shape[1]
    layout = Layout("(gate o) i -> i gate o" if rows else "(gate o) i -> o gate i", gate=gates)
    return Proposal(layout, f"{'rows' if rows else 'columns'} of each gate of {kind}")


def _of_attention(module: nn.Module) -> Iterator[tuple[str, Proposal]]:
    """Group the projections of an attention module by head."""
    kind = type(module).__name__
    queries, keys = (_heads(module, which) for which in ("q", "kv"))
    if not queries:
        return
    for name, parameter in module.named_parameters(recurse=True):
        where, _, last = name.rpartition(".")
        shape = tuple(parameter.shape)
        if parameter.ndim != 2 or where.count("."):
            continue
        role = where if last == "weight" else last.removesuffix("_weight") if last.endswith("_weight") else ""
        holder = module.get_submodule(where) if where else module
        if type(holder).__name__ not in ("Linear", "Conv1D", "NonDynamicallyQuantizableLinear", kind):
            continue
        across = _is_transposed_linear(holder)
        outputs = shape[1] if across else shape[0]
        left = ("i", "({0})") if across else ("({0})", "i")
        for which, heads in (("q", queries), ("kv", keys or queries)):
            if role in _INWARD[which] and outputs % heads == 0:
                pattern = " ".join(left).format("h d")
                yield name, Proposal(Layout(f"{pattern} -> i h d", h=heads), f"rows of each head of {kind}")
        if role in _FUSED and outputs % (3 * queries) == 0 and (keys or queries) == queries:
            pattern = " ".join(left).format("three h d")
            layout = Layout(f"{pattern} -> i (three h) d", three=3, h=queries)
            yield name, Proposal(layout, f"rows of each head of q, k and v of {kind}")
        inputs = shape[0] if across else shape[1]
        if role in _OUTWARD and inputs % queries == 0 and inputs // queries <= outputs:
            pattern = "(h d) o" if across else "o (h d)"
            yield name, Proposal(Layout(f"{pattern} -> o h d", h=queries), f"columns of each head of {kind}")


def _heads(module: nn.Module, which: str) -> int:
    """Give the number of heads of an attention module, 0 if it is none."""
    if "attention" not in type(module).__name__.lower() and "attn" not in type(module).__name__.lower():
        return 0
    places = (module, getattr(module, "config", None))
    for attribute in _HEADS[which]:
        for place in places:
            heads = getattr(place, attribute, None)
            if isinstance(heads, int) and heads > 0:
                return heads
    return 0
