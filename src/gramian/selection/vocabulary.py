"""Output heads over a vocabulary, which mirror an embedding whether they share its weight or not."""

from collections.abc import Iterator

from torch import nn

from gramian.selection.proposal import Proposal, layout_of_matrix, rank_of, weight_is_transposed

__all__ = ["OUTPUT_HEADS", "vocabulary_proposals"]

OUTPUT_HEADS = ("lm_head", "lm_heads", "embed_out", "unembed", "vocab_projector")
"""Names of output heads over a vocabulary, for models that do not say which layer it is."""

_PARTS = ("base_layer", "original_module", "modules_to_save")
"""Where adapters of PEFT keep the layers that they replace or train."""


def vocabulary_proposals(model: nn.Module) -> Iterator[tuple[str, Proposal]]:
    """Propose to skip the output heads over a vocabulary.

    A head is the layer that `get_output_embeddings()` of the model or of a module in it returns, or a Linear layer with
    a name such as `lm_head`. Heads of classifiers are ordinary layers.

    Args:
        model: Any module.

    Returns:
        Names as in `model.named_parameters()`, with proposals.

    Examples:
        >>> model = nn.ModuleDict({"lm_head": nn.Linear(8, 100), "classifier": nn.Linear(8, 10)})
        >>> for name, proposal in vocabulary_proposals(model):
        ...     print(name, proposal.layout, proposal.reason)
        lm_head.weight o i -> o () i an output head over a vocabulary, skipped unless select names it
    """
    heads = {id(layer) for module in model.modules() for layer in _layers(_output_embeddings(module))}
    for name, module in model.named_modules(remove_duplicate=False):
        if _is_linear(module) and (id(module) in heads or _role(name) in OUTPUT_HEADS):
            shape = tuple(module.get_parameter("weight").shape)
            reason = "an output head over a vocabulary, skipped unless select names it"
            yield f"{name}.weight" if name else "weight", Proposal(layout_of_matrix(*shape), reason, chosen=False)


def _output_embeddings(module: nn.Module) -> object:
    """Return the output head that a model of transformers declares; None if it declares none."""
    get = getattr(module, "get_output_embeddings", None)
    try:
        return get() if callable(get) else None
    except Exception:  # of any type: models raise what they like where they have no head
        return None


def _layers(head: object) -> Iterator[nn.Module]:
    """Return the Linear layers of an output head, which may be a list of heads or wrapped by an adapter."""
    if not isinstance(head, nn.Module):
        return
    if _is_linear(head):
        yield head
    children = head.children() if isinstance(head, (nn.ModuleList, nn.ModuleDict)) else ()
    for part in (*children, *(getattr(head, name, None) for name in _PARTS)):
        yield from _layers(part)


def _is_linear(module: nn.Module) -> bool:
    weight = dict(module.named_parameters(recurse=False)).get("weight")
    return (
        weight is not None
        and (isinstance(module, nn.Linear) or weight_is_transposed(module))
        and rank_of(weight) == 2
        and 0 not in weight.shape
    )


def _role(name: str) -> str:
    """Return the last part of a name that is neither a number nor part of an adapter."""
    parts = name.split(".")
    if "modules_to_save" in parts:
        parts = parts[: parts.index("modules_to_save")]
    return next((part for part in reversed(parts) if not part.isdigit() and part not in _PARTS), "")
