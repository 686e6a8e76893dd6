"""Attention by head: the rows of a projection that one head uses, the columns of the output that one head feeds.

A head uses `size` neighbouring rows of its projection, in a fused one too: libraries differ only in the order of these
blocks, which does not change the vectors of a group. So a fused projection is recognised if it has as many blocks as
there are heads of q, k and v.
"""

from collections.abc import Iterable, Iterator
from dataclasses import replace

from torch import nn

from gramian.layout import Layout
from gramian.selection.heads import Heads, heads_of, is_attention
from gramian.selection.proposal import Proposal, kind_of, layout_of_matrix, rank_of, side_of, weight_is_transposed
from gramian.selection.wrappers import Place, parameters_of

__all__ = ["attention_proposals"]

_Q = {
    *("q_proj", "q_b_proj", "q_lin", "q_head", "q_attn", "query", "query_proj", "query_global", "linear_q"),
    *("to_q", "wq", "Wq", "q"),
}
_K = {"k_proj", "k_lin", "k_head", "key", "key_proj", "key_global", "linear_k", "to_k", "wk", "Wk", "k"}
_V = {"v_proj", "v_lin", "v_head", "value", "value_proj", "value_global", "linear_v", "to_v", "wv", "Wv", "v"}
_QKV = {
    *("c_attn", "qkv", "qkv_proj", "qkv_linear", "query_key_value", "attn_qkv", "to_qkv", "Wqkv", "wqkv"),
    *("in_proj", "att_proj"),
}
_KV = {"c_attn", "kv", "kv_proj", "to_kv", "Wkv"}
_EXPANDED = "kv_b_proj"
_OUTPUT = {
    *("o_proj", "out_proj", "out_lin", "linear_out", "post_proj", "output_proj", "c_proj", "proj"),
    *("projection", "projection_layer", "attention_out", "dense", "output", "out", "to_out", "wo", "Wo", "o"),
}
"""Names of projections in different libraries."""

_WITHOUT_HEADS = ("q_a_proj", "kv_a_proj_with_mqa")
"""Projections to latent coordinates that all heads share."""

_ORDERS = {"query_key_value": "h three"} | dict.fromkeys(("qkv", "Wqkv", "attn_qkv", "to_qkv"), "three h")
"""The order of q, k and v and their heads; for other fused projections it differs between libraries."""


def attention_proposals(model: nn.Module) -> Iterator[tuple[str, Proposal]]:
    """Propose a layout by head for every projection of every attention module.

    Args:
        model: Any module.

    Returns:
        Names as in `model.named_parameters()`, with proposals. A projection whose heads are not recognised is proposed
        as a whole matrix, and the reason says so.

    Examples:
        >>> for name, proposal in attention_proposals(nn.MultiheadAttention(12, 3)):
        ...     print(name, proposal.layout)
        in_proj_weight (three h d) i -> i (three h) d; h=3, three=3
        out_proj.weight o (h d) -> o h d; h=3
    """
    for prefix, module in model.named_modules(remove_duplicate=False):
        if is_attention(module, prefix):
            for name, proposal in _of_attention(module):
                yield f"{prefix}.{name}" if prefix else name, proposal


def _of_attention(module: nn.Module) -> Iterator[tuple[str, Proposal]]:
    projections = list(_projections(module))
    heads = heads_of(module)
    if not any(role in _Q | _K | _V | _QKV for role, _ in projections):
        # BERT's output stands beside the module that knows the heads.
        inner = next(filter(None, (heads_of(child) for child in module.children() if is_attention(child))), None)
        if inner is not None:
            heads, projections = inner, [(role, place) for role, place in projections if role in _OUTPUT]
    assumed = heads is not None and heads.size is None
    if heads is not None and assumed:
        heads = _with_size_of_queries(heads, projections)
    for role, place in projections:
        if role in _WITHOUT_HEADS:
            continue
        by_head = _by_head(heads, role, place) if heads is not None else None
        of = heads.kind if heads is not None else kind_of(module)
        if by_head is not None:
            layout, vectors = by_head
            yield place.raw, Proposal(layout, f"{vectors} of {of}{'; length of a head assumed' if assumed else ''}")
        else:
            shape = tuple(place.parameter.shape)
            reason = f"{side_of(*shape)} of {kind_of(place.module)}; heads of {of} not understood"
            yield place.raw, Proposal(layout_of_matrix(*shape), reason)


def _projections(module: nn.Module) -> Iterator[tuple[str, Place]]:
    """Return the matrices of an attention module with the name of the layer, or of the parameter without `_weight`."""
    for clean, place in parameters_of(module).items():
        where, _, last = clean.rpartition(".")
        where = where.removesuffix(".base_layer").removesuffix(".0")
        if rank_of(place.parameter) != 2 or 0 in place.parameter.shape:
            continue
        if place.module is module:
            if last.endswith("_weight"):
                yield last.removesuffix("_weight"), place
        elif last == "weight" and (isinstance(place.module, nn.Linear) or weight_is_transposed(place.module)):
            if "." not in where:
                yield where, place
            elif where == "output.dense":
                yield "output", place


def _with_size_of_queries(heads: Heads, projections: list[tuple[str, Place]]) -> Heads:
    """Assume that the rows of the projection to queries are the rows of all heads."""
    for role, place in projections:
        outputs, _ = _outputs_and_inputs(place)
        if role in _Q and outputs % heads.queries == 0:
            size = outputs // heads.queries
            return replace(heads, size=size, value_size=heads.value_size or size)
    return heads


def _by_head(heads: Heads, role: str, place: Place) -> tuple[Layout, str] | None:
    """Return the layout by head and what its vectors are; None if the shape does not fit the heads."""
    outputs, inputs = _outputs_and_inputs(place)
    across = weight_is_transposed(place.module)
    if role in _OUTPUT:
        size = heads.value_size or inputs // heads.queries
        return _columns(heads.queries, size, outputs, across=across) if inputs == heads.queries * size else None
    if role == _EXPANDED:
        if heads.expanded is None or len(set(heads.expanded)) > 1:
            return None
        size, counts = heads.expanded[0], {2 * heads.queries: "k and v"}
    else:
        size = heads.value_size if role in _V else heads.size
        counts = _counts(heads, role)
        if size is None:
            size = _assumed_size(heads, role, outputs, inputs, counts)
        if role in _QKV | _KV and heads.value_size not in (None, size):
            return None
    count, rest = divmod(outputs, size) if size else (0, 0)
    if rest or count not in counts:
        return None
    queries_first = place.key == "in_proj_weight" or (role == "c_attn" and across)
    order = "three h" if queries_first else _ORDERS.get(role)
    order = order if count == 3 * heads.queries else None
    layout, vectors = _rows(order, count, size, inputs, across=across)
    return layout, f"{vectors} of {counts[count]}" if counts[count] else vectors


def _counts(heads: Heads, role: str) -> dict[int, str]:
    """Return the numbers of heads that a projection may have, with their names."""
    if role in _Q:
        return {heads.queries: "", 2 * heads.queries: "q and its gate"}
    if role in _K | _V:
        return dict.fromkeys(heads.keys, "")
    counts = {heads.queries + 2 * keys: "q, k and v" for keys in heads.keys} if role in _QKV else {}
    return counts | ({2 * keys: "k and v" for keys in heads.keys} if role in _KV else {})


def _assumed_size(heads: Heads, role: str, outputs: int, inputs: int, counts: Iterable[int]) -> int:
    """Assume that the heads of q divide the width of the model, or that k and v have as many heads; else return 0."""
    if inputs % heads.queries == 0 and any(count * (inputs // heads.queries) == outputs for count in counts):
        return inputs // heads.queries
    equal = (
        (role in _ORDERS or role == "in_proj") and heads.keys == (heads.queries,) and outputs % (3 * heads.queries) == 0
    )
    return outputs // (3 * heads.queries) if equal else 0


def _rows(order: str | None, count: int, size: int, inputs: int, *, across: bool) -> tuple[Layout, str]:
    """Lay out `count` heads of `size` rows, by rows if they can be orthonormal, otherwise by columns."""
    heads, group, sizes = (order, f"({order})", {"three": 3, "h": count // 3}) if order else ("h", "h", {"h": count})
    left = f"i ({heads} d)" if across else f"({heads} d) i"
    vectors, right = ("rows", f"i {group} d") if size <= inputs else ("columns", f"d {group} i")
    return Layout(f"{left} -> {right}", **sizes), f"{_other(vectors) if across else vectors} of each head"


def _columns(count: int, size: int, outputs: int, *, across: bool) -> tuple[Layout, str]:
    """Lay out the `size` columns that each of `count` heads feeds, by columns if they can be orthonormal."""
    left = "(h d) o" if across else "o (h d)"
    vectors, right = ("columns", "o h d") if size <= outputs else ("rows", "d h o")
    return Layout(f"{left} -> {right}", h=count), f"{_other(vectors) if across else vectors} of each head"


def _other(vectors: str) -> str:
    return "columns" if vectors == "rows" else "rows"


def _outputs_and_inputs(place: Place) -> tuple[int, int]:
    rows, columns = place.parameter.shape
    return (columns, rows) if weight_is_transposed(place.module) else (rows, columns)
