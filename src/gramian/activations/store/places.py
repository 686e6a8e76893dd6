"""Where samples come from: the document and the position in it, to show a sample in its context."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Int
from numpy import ndarray
from torch import Tensor

from gramian.errors import ShapeError

__all__ = ["KINDS", "Place", "Places", "are_places", "place_tensors", "read_places"]

KINDS = ("tokens", "patches", "rows")
"""What positions count: tokens of a text, patches of a picture, or rows of an input of another kind."""

_NONE = -1
"""Stored instead of a span or a grid that is not known."""


@dataclass(frozen=True)
class Place:
    """The origin of one sample.

    Attributes:
        document: Number of the text, the picture or the row of the input, from 0.
        position: Index of the token or the patch in the document, from 0.
        context: The text of the document, or the name of the picture; empty if it was not stored.
        span: Start and end of the token in the context, in characters; None for pictures and without a context.
        patch: Row and column of the patch; None for texts and for positions that are not patches, such as a class
            token.
        grid: Number of rows and columns of patches; None where `patch` is None.
    """

    document: int
    position: int
    context: str = ""
    span: tuple[int, int] | None = None
    patch: tuple[int, int] | None = None
    grid: tuple[int, int] | None = None

    @property
    def text(self) -> str:
        """The text of the token; empty for pictures, and for a token without text."""
        return "" if self.span is None else self.context[slice(*self.span)]


@dataclass(frozen=True)
class Places:
    """The origins of several samples.

    Attributes:
        document: Number of the document of each sample.
        position: Position of each sample in its document.
        span: Start and end of each token in its context, in characters; None if there are none.
        grid: Rows, columns, and number of positions before the first patch; None for texts.
        contexts: Text or name of each document, by its number.

    Raises:
        ShapeError: If the tensors have different numbers of samples.
    """

    document: Int[Tensor, " samples"]
    position: Int[Tensor, " samples"]
    span: Int[Tensor, "samples 2"] | None = None
    grid: tuple[int, int, int] | None = None
    contexts: Mapping[int, str] = field(default_factory=dict[int, str])

    def __post_init__(self) -> None:
        counts = {len(self.document), len(self.position), *([] if self.span is None else [len(self.span)])}
        if len(counts) != 1:
            raise ShapeError(f"places must have one document, position and span for each sample; got {sorted(counts)}")

    def __len__(self) -> int:
        return len(self.document)

    def __getitem__(self, rows: slice | Int[Tensor, " rows"]) -> "Places":
        """Select samples; contexts of documents without a selected sample are left out."""
        document = self.document[rows]
        contexts = {number: self.contexts[number] for number in document.unique().tolist() if number in self.contexts}
        span = None if self.span is None else self.span[rows]
        return Places(document, self.position[rows], span, self.grid, contexts)

    def places(self) -> list[Place]:
        """Return the origin of each sample."""
        spans = [None] * len(self) if self.span is None else self.span.tolist()
        return [
            self._place(document, position, span)
            for document, position, span in zip(self.document.tolist(), self.position.tolist(), spans, strict=True)
        ]

    def _place(self, document: int, position: int, span: list[int] | None) -> Place:
        context = self.contexts.get(document, "")
        patch = grid = None
        if self.grid is not None:
            rows, columns, before = self.grid
            if 0 <= position - before < rows * columns:
                patch, grid = divmod(position - before, columns), (rows, columns)
        known = span is not None and context and span[0] >= 0
        return Place(document, position, context, (span[0], span[1]) if span and known else None, patch, grid)

    @classmethod
    def concatenated(cls, parts: Sequence["Places"]) -> "Places":
        """Return the places of all parts in order; all must have the grid of the first, and spans if it has them.

        Raises:
            ShapeError: If parts have different grids, or only some have spans.
        """
        grids = {part.grid for part in parts}
        with_spans = [part.span for part in parts if part.span is not None]
        if len(grids) != 1 or len(with_spans) not in (0, len(parts)):
            raise ShapeError(
                "all places of a store must have the same grid of patches, and all or none must have spans; got "
                f"{len(grids)} grids, and {len(with_spans)} of {len(parts)} parts with spans; try pictures of one size"
            )
        contexts: dict[int, str] = {}
        for part in parts:
            contexts.update(part.contexts)
        return cls(
            torch.cat([part.document for part in parts]),
            torch.cat([part.position for part in parts]),
            torch.cat(with_spans) if with_spans else None,
            next(iter(grids)),
            contexts,
        )


def place_tensors(places: Places) -> dict[str, Tensor]:
    """Return the tensors that a shard stores: numbers of every sample, and the contexts as bytes in UTF-8."""
    numbers = sorted(places.contexts)
    texts = [places.contexts[number].encode("utf-8", errors="replace") for number in numbers]
    ends = torch.tensor([len(text) for text in texts], dtype=torch.int64).cumsum(0)
    joined = b"".join(texts)
    tensors = {
        "document": places.document.to(torch.int64),
        "position": places.position.to(torch.int32),
        "grid": torch.tensor(places.grid or (_NONE, _NONE, _NONE), dtype=torch.int32),
        "context.document": torch.tensor(numbers, dtype=torch.int64),
        "context.end": ends,
        "context.text": torch.from_numpy(np.frombuffer(bytearray(joined), dtype=np.uint8)),
    }
    return tensors if places.span is None else {**tensors, "span": places.span.to(torch.int32)}


def are_places(shapes: Mapping[str, tuple[int, ...]], samples: int) -> bool:
    """Return whether tensors of these shapes are the places of a number of samples."""
    documents = shapes.get("context.document", ())
    required = {
        "document": (samples,), "position": (samples,), "grid": (3,), "span": shapes.get("span") and (samples, 2),
        "context.document": documents, "context.end": documents, "context.text": shapes.get("context.text", ())[:1],
    }  # fmt: skip
    return all(shapes.get(name) == shape for name, shape in required.items()) and len(documents) == 1


def read_places(arrays: Mapping[str, ndarray], rows: ndarray) -> Places:
    """Read the places of some samples of a shard.

    Args:
        arrays: The arrays of the shard, by the names of `place_tensors`; only the needed part of a mapped array is
            read.
        rows: Indices of the samples in the shard.
    """
    document = arrays["document"][rows]
    numbers, ends, text = arrays["context.document"], arrays["context.end"], arrays["context.text"]
    contexts: dict[int, str] = {}
    for number in np.unique(document):
        index = int(np.searchsorted(numbers, number))
        if index < len(numbers) and numbers[index] == number:
            start = int(ends[index - 1]) if index else 0
            contexts[int(number)] = text[start : int(ends[index])].tobytes().decode("utf-8", errors="replace")
    grid_rows, columns, before = (int(number) for number in arrays["grid"])
    span = torch.from_numpy(arrays["span"][rows]) if "span" in arrays else None
    return Places(
        torch.from_numpy(document),
        torch.from_numpy(arrays["position"][rows]),
        span,
        None if grid_rows == _NONE else (grid_rows, columns, before),
        contexts,
    )
