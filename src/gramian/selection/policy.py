"""The default policy: a layout for each kind of layer, by rows or columns, whichever can be orthonormal."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.nn.utils.parametrize import ParametrizationList

from gramian.layout import Layout
from gramian.selection.wrappers import parameters_of
from gramian.torch_internals import FLAT_PARAMETER_ATTRIBUTE

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
"""Attributes that hold the number of heads in attention modules of different libraries."""

_INWARD = {
    "q": ("q_proj", "q_lin", "query", "wq", "to_q"),
    "kv": ("k_proj", "v_proj", "k_lin", "v_lin", "key", "value", "wk", "wv", "to_k", "to_v"),
}
_OUTWARD = ("o_proj", "out_proj", "out_lin", "wo", "c_proj", "dense", "proj")
_EMBEDDINGS = ("embed", "wte", "wpe", "lm_head")
_FUSED = ("c_attn", "qkv", "qkv_proj", "Wqkv", "in_proj", "attn_qkv")


@dataclass(frozen=True)
class Proposal:
    """What the default policy proposes for one parameter."""

    layout: Layout | None
    """None if it is skipped, or if its axes have no known meaning."""
    reason: str
    chosen: bool = True
    """Whether it is selected by default."""
    barred: bool = False
    """Whether it must not be updated even if the user selects it, because its module computes its weight from it."""
    lazy: bool = False
    """Whether it has no shape before the first batch."""
    angles_only: bool = False
    """Whether lengths are left free unless the user names a penalty."""


_FLATTENED = Proposal(
    None, "flattened by FullyShardedDataParallel; shard by torch.distributed.fsdp.fully_shard", chosen=False,
    barred=True,
)  # fmt: skip

_PARAMETRISED = Proposal(
    None, "it is re-parametrised; what acts on it must be its parametrisation", chosen=False, barred=True
)


def propose(model: nn.Module) -> dict[str, Proposal]:
    """Propose a layout for every parameter of a model, with the reason.

    Args:
        model: Any module.

    Returns:
        A proposal for each name, in the order of `model.named_parameters(remove_duplicate=False)`; names have
        no prefixes of wrappers (`_orig_mod.` of torch.compile, `module.` of DistributedDataParallel).

    Examples:
        >>> from torch import nn
        >>> model = nn.Sequential(nn.Conv2d(3, 8, 5), nn.BatchNorm2d(8))
        >>> for name, proposal in propose(model).items():
        ...     print(name, proposal.layout, proposal.reason)
        0.weight (g o) i h w -> (i h w) g o; g=1 filters of Conv2d
        0.bias None a bias
        1.weight None a scale of BatchNorm2d
        1.bias None a bias
    """
    by_raw_name: dict[str, Proposal] = {}
    for prefix, module in model.named_modules(remove_duplicate=False):
        for name, proposal in _of_module(module):
            by_raw_name[f"{prefix}.{name}" if prefix else name] = proposal
    # The proposal of an attention module, which knows its heads, replaces those of its projections.
    for prefix, module in model.named_modules(remove_duplicate=False):
        for name, proposal in _of_attention(module):
            by_raw_name[f"{prefix}.{name}" if prefix else name] = proposal
    unknown = "its axes have no known meaning"
    proposals: dict[str, Proposal] = {}
    for name, place in parameters_of(model).items():
        default = Proposal(None, unknown if _rank(place.parameter) > 1 else "a single vector", chosen=False)
        proposals[name] = (
            _FLATTENED if FLAT_PARAMETER_ATTRIBUTE in place.path else by_raw_name.get(place.raw) or default
        )
    return proposals


def propose_by_shape(name: str, shape: tuple[int, ...]) -> Proposal:
    """Propose a layout for a tensor of which only the name and the shape are known.

    Examples:
        >>> propose_by_shape("encoder.weight", (64, 32)).reason, propose_by_shape("wte.weight", (50257, 768)).chosen
        ('columns of a matrix', False)
    """
    rank = len(shape)
    if 0 in shape:
        return Proposal(None, "it is empty", chosen=False)
    if rank == 2:
        if any(word in name.lower() for word in _EMBEDDINGS):
            return Proposal(_matrix(*shape), "by its name an embedding, skipped unless select names it", chosen=False)
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
    kind = _kind(module)
    for name, parameter in module.named_parameters(recurse=False, remove_duplicate=False):
        if isinstance(module, ParametrizationList) or _is_computed_from(module, name):
            yield name, _PARAMETRISED
        elif "bias" in name:
            yield name, Proposal(None, "a bias", chosen=False, lazy=is_lazy(parameter))
        elif isinstance(module, _NORMS):
            yield name, Proposal(None, f"a scale of {kind}", chosen=False, lazy=is_lazy(parameter))
        elif is_lazy(parameter):
            yield name, Proposal(None, f"a weight of {kind} without a shape before the first batch", lazy=True)
        else:
            yield from _of_weight(module, kind, name, parameter)


def _of_weight(module: nn.Module, kind: str, name: str, parameter: Tensor) -> Iterator[tuple[str, Proposal]]:
    shape = tuple(parameter.shape)
    if 0 in shape:
        yield name, Proposal(None, "it is empty", chosen=False)
    elif len(shape) < 2:
        return
    elif isinstance(module, (nn.Embedding, nn.EmbeddingBag)):
        yield name, Proposal(_matrix(*shape), "an embedding, skipped unless select names it", chosen=False)
    elif isinstance(module, _CONVOLUTIONS) and name == "weight":
        yield name, _of_convolution(module, shape)
    elif isinstance(module, nn.RNNBase) and name.startswith("weight_"):
        yield name, _of_gates(module, name, shape)
    elif name == "weight" and (isinstance(module, nn.Linear) or _is_transposed_linear(module)):
        yield name, Proposal(_matrix(*shape), f"{_side(*shape)} of {kind}")


def _kind(module: nn.Module) -> str:
    """Return the name of a module's class; below the class that `fully_shard` puts over it."""
    kinds = type(module).__mro__
    return kinds[2 if kinds[1].__name__ == "FSDPModule" else 0].__name__


def _is_computed_from(module: nn.Module, name: str) -> bool:
    """Recognise a parameter from which pruning, weight norm or spectral norm computes a tensor of the module."""
    base, _, last = name.rpartition("_")
    return last in ("orig", "g", "v") and isinstance(vars(module).get(base), Tensor)


def _rank(parameter: Tensor) -> int:
    return 0 if is_lazy(parameter) else parameter.ndim


def _matrix(rows: int, columns: int) -> Layout:
    """Use the rows as vectors if they can be orthonormal, otherwise the columns."""
    return Layout("o i -> i () o") if rows <= columns else Layout("o i -> o () i")


def _side(rows: int, columns: int) -> str:
    return "rows" if rows <= columns else "columns"


def _is_transposed_linear(module: nn.Module) -> bool:
    """Recognise the Conv1D of Hugging Face's GPT-2, a Linear whose weight is [in, out], without importing it."""
    return _kind(module) == "Conv1D" and hasattr(module, "nf")


def _of_convolution(module: Any, shape: tuple[int, ...]) -> Proposal:
    kind, kernel, groups = _kind(module), _KERNEL[len(shape) - 2], module.groups
    if groups > 1 and groups == module.in_channels:
        return Proposal(None, f"depthwise filters of {kind}", chosen=False)
    area = 1
    for size in shape[2:]:
        area *= size
    within = shape[0] // groups
    # A transposed convolution has weights [in, out / groups, ...]; each output still sums over (in, kernel).
    inputs, outputs = (within, shape[1]) if module.transposed else (shape[1], within)
    vector, member = f"(i {kernel})", "o"
    left = f"(g i) o {kernel}" if module.transposed else f"(g o) i {kernel}"
    if outputs <= inputs * area:
        return Proposal(Layout(f"{left} -> {vector} g {member}", g=groups), f"filters of {kind}")
    return Proposal(Layout(f"{left} -> {member} g {vector}", g=groups), f"inputs of {kind}: it has more filters")


def _of_gates(module: nn.RNNBase, name: str, shape: tuple[int, ...]) -> Proposal:
    kind = _kind(module)
    if name.startswith("weight_hr"):
        return Proposal(_matrix(*shape), f"{_side(*shape)} of the projection of {kind}")
    gates = shape[0] // module.hidden_size
    rows = module.hidden_size <= shape[1]
    layout = Layout("(gate o) i -> i gate o" if rows else "(gate o) i -> o gate i", gate=gates)
    return Proposal(layout, f"{'rows' if rows else 'columns'} of each gate of {kind}")


def _of_attention(module: nn.Module) -> Iterator[tuple[str, Proposal]]:
    """Group the projections of an attention module by head."""
    kind = _kind(module)
    queries, keys = (_heads(module, which) for which in ("q", "kv"))
    if not queries:
        return
    for clean, place in parameters_of(module).items():
        where, _, last = clean.rpartition(".")
        if is_lazy(place.parameter) or place.parameter.ndim != 2 or where.count("."):
            continue
        shape = tuple(place.parameter.shape)
        role = where if last == "weight" else last.removesuffix("_weight") if last.endswith("_weight") else ""
        if _kind(place.module) not in ("Linear", "Conv1D", "NonDynamicallyQuantizableLinear", kind):
            continue
        across = _is_transposed_linear(place.module)
        outputs = shape[1] if across else shape[0]
        left = ("i", "({0})") if across else ("({0})", "i")
        for which, heads in (("q", queries), ("kv", keys or queries)):
            if role in _INWARD[which] and outputs % heads == 0:
                pattern = " ".join(left).format("h d")
                yield place.raw, Proposal(Layout(f"{pattern} -> i h d", h=heads), f"rows of each head of {kind}")
        if role in _FUSED and outputs % (3 * queries) == 0 and (keys or queries) == queries:
            pattern = " ".join(left).format("three h d")
            layout = Layout(f"{pattern} -> i (three h) d", three=3, h=queries)
            yield place.raw, Proposal(layout, f"rows of each head of q, k and v of {kind}")
        inputs = shape[0] if across else shape[1]
        if role in _OUTWARD and inputs % queries == 0 and inputs // queries <= outputs:
            pattern = "(h d) o" if across else "o (h d)"
            yield place.raw, Proposal(Layout(f"{pattern} -> o h d", h=queries), f"columns of each head of {kind}")


def _heads(module: nn.Module, which: str) -> int:
    """Return the number of heads of an attention module; 0 for any other module."""
    if "attention" not in type(module).__name__.lower() and "attn" not in type(module).__name__.lower():
        return 0
    places = (module, getattr(module, "config", None))
    for attribute in _HEADS[which]:
        for place in places:
            heads = getattr(place, attribute, None)
            if isinstance(heads, int) and heads > 0:
                return heads
    return 0
