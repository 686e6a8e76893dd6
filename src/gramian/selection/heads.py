"""The number and the length of the heads of an attention module, from its attributes or its config."""

from dataclasses import dataclass

from torch import nn

from gramian.selection.proposal import kind_of

__all__ = ["Heads", "heads_of", "is_attention"]

_QUERIES = (
    *("num_heads", "num_attention_heads", "n_heads", "n_head", "num_q_heads", "num_attn_heads", "heads", "nhead"),
)
_KEYS = ("num_key_value_heads", "num_kv_heads", "n_kv_heads", "kv_heads", "num_heads_kv")
_SIZE = ("head_dim", "attention_head_size", "head_size", "key_value_proj_dim", "d_kv", "d_head", "dim_head")
"""Attributes in different libraries."""


@dataclass(frozen=True)
class Heads:
    """The heads of an attention module.

    Attributes:
        kind: The name of its class.
        queries: The number of heads of q.
        keys: The numbers of heads that k and v may have, the most certain first.
        size: The length of a head of q or k; None if no attribute tells.
        value_size: The length of a head of v; None if no attribute tells.
        expanded: The lengths of k and v in a head of the projection from latent coordinates to both; None if the module
            has no such projection.
    """

    kind: str
    queries: int
    keys: tuple[int, ...]
    size: int | None
    value_size: int | None
    expanded: tuple[int, int] | None = None


def is_attention(module: nn.Module, name: str = "") -> bool:
    """Recognise an attention module by the name of its class, or by its name in the model.

    Examples:
        >>> is_attention(nn.MultiheadAttention(4, 2)), is_attention(nn.Linear(4, 2), "encoder.0.linear")
        (True, False)
    """
    kind, last = kind_of(module), name.rpartition(".")[2]
    return kind.endswith("MHA") or any(word in f"{kind} {last}".lower() for word in ("attention", "attn"))


def heads_of(module: nn.Module) -> Heads | None:
    """Read the heads of an attention module; None if their number is not stated.

    Attributes of the module come before those of its config, which may belong to a larger model; the config is not read
    if the class is not called attention, as in a model that has two kinds of it. Multi-head latent attention has heads
    of two lengths, and its config uses `head_dim` for a part of one.

    Examples:
        >>> heads_of(nn.MultiheadAttention(12, 3))
        Heads(kind='MultiheadAttention', queries=3, keys=(3,), size=4, value_size=4, expanded=None)
    """
    places = (module, getattr(module, "config", None) if is_attention(module) else None)
    queries = next((number for place in places for number in _numbers(place, _QUERIES)), None)
    if queries is None:
        return None
    keys = dict.fromkeys([*(number for place in places for number in _numbers(place, _KEYS)), queries])
    size = next(iter(_numbers(module, ("qk_head_dim", "q_head_dim"))), None)
    expanded = (_numbers(module, ("qk_nope_head_dim",)), _numbers(module, ("v_head_dim",)))
    if size is None:
        size = next((number for place in places for number in _numbers(place, _SIZE)), None)
    return Heads(
        kind_of(module),
        queries,
        tuple(keys),
        size,
        value_size=expanded[1][0] if expanded[1] else size,
        expanded=(expanded[0][0], expanded[1][0]) if all(expanded) else None,
    )


def _numbers(place: object, attributes: tuple[str, ...]) -> list[int]:
    """Return the positive integers among some attributes."""
    values = (getattr(place, attribute, None) for attribute in attributes)
    return [value for value in values if isinstance(value, int) and not isinstance(value, bool) and value > 0]
