"""The default policy: a layout for each kind of layer, by rows, or by columns if rows cannot be orthonormal."""

from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.nn.utils.parametrize import ParametrizationList

from gramian.layout import Layout
from gramian.selection.attention import attention_proposals
from gramian.selection.feedforward import feedforward_proposals
from gramian.selection.lora import lora_proposals
from gramian.selection.proposal import Proposal, kind_of, layout_of_matrix, rank_of, side_of, weight_is_transposed
from gramian.selection.vocabulary import OUTPUT_HEADS, vocabulary_proposals
from gramian.selection.wrappers import parameters_of
from gramian.torch_internals import FLAT_PARAMETER_ATTRIBUTE

__all__ = ["Proposal", "propose", "propose_by_shape"]

_KERNEL = {1: "k", 2: "h w", 3: "d h w"}

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)

_NORMS = (
    *(nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm, nn.InstanceNorm1d, nn.InstanceNorm2d),
    *(nn.InstanceNorm3d, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm),
)

_EMBEDDINGS = ("embed", "wte", "wpe")

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
    # What knows more of a weight than its layer: an attention module its heads, a model its output head.
    for proposals_of in (attention_proposals, feedforward_proposals, vocabulary_proposals, lora_proposals):
        by_raw_name.update(proposals_of(model))
    unknown = "its axes have no known meaning"
    proposals: dict[str, Proposal] = {}
    for name, place in parameters_of(model).items():
        default = Proposal(None, unknown if rank_of(place.parameter) > 1 else "a single vector", chosen=False)
        proposals[name] = (
            _FLATTENED if FLAT_PARAMETER_ATTRIBUTE in place.path else by_raw_name.get(place.raw) or default
        )
    return proposals


def propose_by_shape(name: str, shape: tuple[int, ...]) -> Proposal:
    """Propose a layout for a tensor from its name and shape alone.

    Examples:
        >>> propose_by_shape("encoder.weight", (64, 32)).reason, propose_by_shape("wte.weight", (50257, 768)).chosen
        ('columns of a matrix', False)
    """
    rank = len(shape)
    if 0 in shape:
        return Proposal(None, "it is empty", chosen=False)
    if rank == 2:
        for words, what in ((OUTPUT_HEADS, "an output head over a vocabulary"), (_EMBEDDINGS, "an embedding")):
            if any(word in name.lower() for word in words):
                reason = f"by its name {what}, skipped unless select names it"
                return Proposal(layout_of_matrix(*shape), reason, chosen=False)
        return Proposal(layout_of_matrix(*shape), f"{side_of(*shape)} of a matrix")
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
    kind = kind_of(module)
    for name, parameter in module.named_parameters(recurse=False, remove_duplicate=False):
        if isinstance(module, ParametrizationList) or _is_computed_from(module, name):
            yield name, _PARAMETRISED
        elif "bias" in name:
            yield name, Proposal(None, "a bias", chosen=False, lazy=is_lazy(parameter))
        elif isinstance(module, _NORMS) or (rank_of(parameter) == 1 and "norm" in kind.lower()):
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
        yield name, Proposal(layout_of_matrix(*shape), "an embedding, skipped unless select names it", chosen=False)
    elif isinstance(module, _CONVOLUTIONS) and name == "weight":
        yield name, _of_convolution(module, shape)
    elif isinstance(module, nn.RNNBase) and name.startswith("weight_"):
        yield name, _of_gates(module, name, shape)
    elif name == "weight" and (isinstance(module, nn.Linear) or weight_is_transposed(module)):
        yield name, Proposal(layout_of_matrix(*shape), f"{side_of(*shape)} of {kind}")


def _is_computed_from(module: nn.Module, name: str) -> bool:
    """Recognise a parameter from which pruning, weight norm or spectral norm computes a tensor of the module."""
    base, _, last = name.rpartition("_")
    return last in ("orig", "g", "v") and isinstance(vars(module).get(base), Tensor)


def _of_convolution(module: Any, shape: tuple[int, ...]) -> Proposal:
    kind, kernel, groups = kind_of(module), _KERNEL[len(shape) - 2], module.groups
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
    kind = kind_of(module)
    if name.startswith("weight_hr"):
        return Proposal(layout_of_matrix(*shape), f"{side_of(*shape)} of the projection of {kind}")
    gates = shape[0] // module.hidden_size
    rows = module.hidden_size <= shape[1]
    layout = Layout("(gate o) i -> i gate o" if rows else "(gate o) i -> o gate i", gate=gates)
    return Proposal(layout, f"{'rows' if rows else 'columns'} of each gate of {kind}")
