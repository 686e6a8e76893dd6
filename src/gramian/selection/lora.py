"""The factors of LoRA: the change of a weight is B A, where A projects to r dimensions.

B is zero at the start: an update that brought its columns to unit length would change the model by far more than
training does. The rows of A can be kept orthogonal. Their lengths stay free, because LoRA's scaling is chosen for the
initial lengths.
"""

from collections.abc import Iterator
from math import prod

from torch import nn

from gramian.layout import Layout
from gramian.selection.proposal import Proposal, kind_of, rank_of

__all__ = ["lora_proposals"]

_CLASSES = ("LoraLayer", "LoRALayer", "LoRALinear")
_PAIRS = (("lora_A", "lora_B"), ("lora_a", "lora_b"))
_FACTORS = {"lora_a": "A", "lora_b": "B", "lora_embedding_a": "A", "lora_embedding_b": "B"}
_KERNELS = {2: (), 3: ("k",), 4: ("h", "w"), 5: ("d", "h", "w")}


def lora_proposals(model: nn.Module) -> Iterator[tuple[str, Proposal]]:
    """Propose layouts for the factors of LoRA: A is selected, B only if the user selects it.

    Layers are recognised by the names of their classes and attributes. In PEFT, an adapted embedding starts with zero A
    and random B; the factors of AdaLoRA are those of a singular value decomposition, and none of them starts at zero.

    Args:
        model: Any module.

    Returns:
        Names as in `model.named_parameters()` with proposals, all of which leave lengths free.
    """
    for prefix, module in model.named_modules(remove_duplicate=False):
        if _is_lora(module):
            for name, proposal in _of_layer(module):
                yield f"{prefix}.{name}" if prefix else name, proposal


def _is_lora(module: nn.Module) -> bool:
    by_class = any(kind.__name__ in _CLASSES for kind in type(module).__mro__)
    return by_class or any(all(hasattr(module, factor) for factor in pair) for pair in _PAIRS)


def _of_layer(module: nn.Module) -> Iterator[tuple[str, Proposal]]:
    decomposed = hasattr(module, "lora_E")
    # PEFT adapts the weights of all experts of a layer by one pair of factors.
    experts = getattr(module, "num_experts", 1) if kind_of(module) == "ParamWrapper" else 1
    for name, parameter in module.named_parameters(remove_duplicate=False):
        attribute, last = name.split(".")[0], name.rpartition(".")[2]
        factor = _FACTORS.get(attribute.lower())
        if attribute == "lora_E":
            yield name, Proposal(None, "singular values of AdaLoRA", chosen=False)
        if factor is None or "bias" in last or rank_of(parameter) not in _KERNELS or 0 in parameter.shape:
            continue
        layout, vectors = _layout(factor, tuple(parameter.shape), experts)
        zero = "" if decomposed else "A" if "embedding" in attribute else "B"
        if factor == zero:
            danger = f"its {vectors} must not be pushed to unit length"
            reason = f"{factor} of LoRA, zero at the start: {danger}; skipped unless select names it"
        else:
            reason = f"{vectors} of {factor} of {'AdaLoRA' if decomposed else 'LoRA'}; angles only"
        yield name, Proposal(layout, reason, chosen=factor != zero, angles_only=True)


def _layout(factor: str, shape: tuple[int, ...], experts: int) -> tuple[Layout, str]:
    """Use the rows of A and the columns of B as vectors; the other side if there are too many of them."""
    kernel = _KERNELS[len(shape)]
    rank, side = (shape[0], "i") if factor == "A" else (shape[1], "o")
    vector = f"({' '.join((side, *kernel))})" if kernel else side
    ranks = {"A": "(e r)", "B": "(r e)"}[factor] if experts > 1 else "r"
    left = " ".join((ranks, side, *kernel) if factor == "A" else (side, ranks, *kernel))
    group, sizes = ("e", {"e": experts}) if experts > 1 else ("()", {})
    vectors, others = ("rows", "columns") if factor == "A" else ("columns", "rows")
    if rank // experts <= prod(shape) // rank:
        return Layout(f"{left} -> {vector} {group} r", **sizes), vectors
    return Layout(f"{left} -> r {group} {vector}", **sizes), others
