"""Load networks for texts and pictures from folders of the transformers library, without running code in them."""

import contextlib
import inspect
import warnings
from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from numpy import ndarray
from torch import nn

from gramian.activations.recording.batches import Batch
from gramian.activations.recording.pictures import PictureNetwork, pixels_of
from gramian.activations.recording.texts import batched
from gramian.errors import DataError, needs_extra, printable
from gramian.weights.entries import cause

__all__ = ["TextNetwork", "load_picture_network", "load_text_network"]

_TOKENS = 512
"""Default for the largest number of tokens of a text."""

_SAFELY: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
"""Nothing is downloaded, and no code in the folder is executed."""


@dataclass(frozen=True)
class TextNetwork:
    """A network and its tokenizer.

    Attributes:
        model: The network.
        tokenizer: Its tokenizer, of the transformers library.
        tokens: Largest number of tokens of a text that the network can read.
    """

    model: nn.Module
    tokenizer: Any
    tokens: int

    def batches(
        self, texts: Iterable[str], *, size: int, tokens: int | None = None, special: bool = False
    ) -> Iterator[Batch]:
        """Divide texts into batches of tokens, padded on the right to the longest.

        Args:
            texts: The texts.
            size: Number of texts in a batch.
            tokens: Largest number of tokens of a text, with special ones; the rest is left out.
            special: Whether to keep tokens that the tokenizer adds, such as [CLS].
        """
        for batch in batched(texts, size):
            yield self._batch(batch, min(tokens or self.tokens, self.tokens), special=special)

    def _batch(self, texts: Sequence[str], tokens: int, *, special: bool) -> Batch:
        fast = bool(getattr(self.tokenizer, "is_fast", False))
        with _quiet():
            encoded = self.tokenizer(
                list(texts), truncation=True, max_length=tokens, padding=True, return_tensors="pt",
                return_attention_mask=True, return_special_tokens_mask=True, return_offsets_mapping=fast,
            )  # fmt: skip
        keep = encoded["attention_mask"].bool()
        if not special:
            keep = keep & (encoded["special_tokens_mask"] == 0)
        spans = encoded["offset_mapping"] if fast else None
        if spans is not None:  # what no token covers is not part of the context
            ends = (spans[..., 1] * encoded["attention_mask"]).amax(dim=1).tolist()
            texts = [text[:end] for text, end in zip(texts, ends, strict=True)]
        parameters = inspect.signature(self.model.forward).parameters
        any_name = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
        names = {*self.tokenizer.model_input_names, "input_ids", "attention_mask"}
        inputs = {name: encoded[name] for name in encoded if name in names and (any_name or name in parameters)}
        return Batch(inputs, keep=keep, contexts=texts, spans=spans)


def load_text_network(folder: Path, *, device: str = "cpu") -> TextNetwork:
    """Load a network for texts and its tokenizer.

    Args:
        folder: A folder that `save_pretrained` of the transformers library writes.
        device: Where to put the network.

    Raises:
        DataError: If the folder does not hold both, or its network needs code from the folder.
        MissingExtraError: If transformers is not installed.
    """
    transformers = _transformers()
    with _loading(folder, "a network and its tokenizer"):
        tokenizer = transformers.AutoTokenizer.from_pretrained(str(folder), **_SAFELY)
        model = _model(transformers, folder, device, part="text_model")
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token
    tokenizer.padding_side = tokenizer.truncation_side = "right"
    limits = [tokenizer.model_max_length, getattr(model.config, "max_position_embeddings", _TOKENS), _TOKENS]
    return TextNetwork(model, tokenizer, min(limit for limit in limits if isinstance(limit, int) and limit > 0))


def load_picture_network(folder: Path, *, device: str = "cpu") -> PictureNetwork:
    """Load a network for pictures and the preparation of its pictures.

    Args:
        folder: A folder that `save_pretrained` of the transformers library writes.
        device: Where to put the network.

    Raises:
        DataError: If the folder does not hold both, or its network needs code from the folder.
        MissingExtraError: If transformers is not installed.
    """
    transformers = _transformers()
    with _loading(folder, "a network and the preparation of its pictures"):
        processor = transformers.AutoImageProcessor.from_pretrained(str(folder), **_SAFELY)
        model = _model(transformers, folder, device, part="vision_model")
    patch = getattr(model.config, "patch_size", None)

    def transform(pictures: Sequence[ndarray]) -> dict[str, Any]:
        with _quiet():
            return {"pixel_values": processor(images=list(pictures), return_tensors="pt")["pixel_values"]}

    def grid(inputs: Any) -> tuple[int, int] | None:
        height, width = pixels_of(inputs).shape[-2:]
        return (height // patch, width // patch) if isinstance(patch, int) else None

    return PictureNetwork(model, transform, grid)


def _transformers() -> Any:
    with needs_extra("gramian capture", "activations"), _quiet():
        import transformers
    return transformers


def _model(transformers: Any, folder: Path, device: str, *, part: str) -> Any:
    model, info = transformers.AutoModel.from_pretrained(
        str(folder), **_SAFELY, weights_only=True, output_loading_info=True
    )
    missing = sorted(info["missing_keys"])
    if missing and len(missing) >= len(model.state_dict()):
        raise DataError(f"{printable(folder)} must hold the weights of its network; got none that belong to it")
    if missing:
        listed = ", ".join(missing[:4]) + (", …" if len(missing) > 4 else "")
        warnings.warn(
            f"{printable(folder)} lacks {len(missing)} weights of its network, which are random: {listed}", stacklevel=4
        )
    if getattr(model.config, "is_encoder_decoder", False):
        model = model.get_encoder()
    model = getattr(model, part, model)  # of networks for texts and pictures
    if torch.device(device).type == "cpu":
        model = model.float()
    return model.to(device)


@contextlib.contextmanager
def _loading(folder: Path, what: str) -> Generator[None]:
    if not (folder / "config.json").is_file():
        raise DataError(
            f"a network must be a folder of the transformers library, with its config.json; got {printable(folder)}; "
            "try --arch timm:NAME or torchvision:NAME for a file of weights"
        )
    try:
        with _quiet():
            yield
    except DataError:
        raise
    except Exception as error:  # the library raises errors of any type
        raise DataError(f"{printable(folder)} must hold {what}, without code to run; got {cause(error)}") from error


@contextlib.contextmanager
def _quiet() -> Generator[None]:
    """Keep the library from printing warnings and progress bars; its settings are restored."""
    import transformers
    from transformers.utils import logging

    del transformers
    verbosity, bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bar:
            logging.enable_progress_bar()
