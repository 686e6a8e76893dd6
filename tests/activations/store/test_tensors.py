"""Files of tensors: the safetensors format, the same bytes every time, damaged files."""

import json

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from gramian.activations.store.tensors import map_tensor, read_header, require_checksum, write_tensors
from gramian.coding.files.checksum import read_checked
from gramian.errors import DataError, RunError

TENSORS = {
    "b": torch.arange(6.0).view(2, 3),
    "a": torch.tensor([1, 2, 3], dtype=torch.int64),
    "wide": torch.ones(2, dtype=torch.float64),
    "half": torch.tensor([[1.5, -2.0]], dtype=torch.bfloat16),
    "text": torch.tensor([7, 8, 9], dtype=torch.uint8),
    "none": torch.empty(0, 4),
}


def test_the_safetensors_library_reads_the_file(tmp_path) -> None:
    path = tmp_path / "x.safetensors"
    write_tensors(path, TENSORS, {"format": "f"})
    with safe_open(path, framework="pt") as file:
        assert file.metadata()["format"] == "f"
        for name, tensor in TENSORS.items():
            assert torch.equal(file.get_tensor(name), tensor)
    tensors, metadata = read_checked(path, kind="x", form="f", command="c", known=())
    assert metadata == {"format": "f"}
    assert tensors.keys() == TENSORS.keys()


def test_equal_content_gives_equal_bytes(tmp_path) -> None:
    write_tensors(tmp_path / "x", TENSORS, {"format": "f", "more": "m"})
    write_tensors(tmp_path / "y", dict(reversed(TENSORS.items())), {"format": "f", "more": "m"})
    assert (tmp_path / "x").read_bytes() == (tmp_path / "y").read_bytes()


def test_files_of_the_library_are_mapped(tmp_path) -> None:
    save_file(TENSORS, tmp_path / "x")
    for name, tensor in TENSORS.items():
        mapped = map_tensor(read_header(tmp_path / "x").tensors[name])
        expected = tensor.view(torch.int16) if tensor.dtype == torch.bfloat16 else tensor
        assert np.array_equal(mapped, expected.numpy())
        assert not tensor.numel() or not mapped.flags.writeable


def test_a_changed_number_is_found(tmp_path) -> None:
    path = tmp_path / "x"
    write_tensors(path, TENSORS, {})
    require_checksum(path, read_header(path))
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(RunError, match="must match its checksum; got a file that was changed or damaged"):
        require_checksum(path, read_header(path))


def header(**entry) -> bytes:
    text = json.dumps({"x": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8], **entry}}).encode()
    return len(text).to_bytes(8, "little") + text + bytes(8)


DAMAGED = {
    "nothing": b"",
    "a header of the future": (1 << 60).to_bytes(8, "little") + b"{}",
    "no JSON": (3).to_bytes(8, "little") + b"abc",
    "a list": (2).to_bytes(8, "little") + b"[]",
    "too short": header()[:-1],
    "a negative size": header(shape=[-2]),
    "a size that is a bool": header(shape=[True, 2]),
    "another size": header(shape=[3]),
    "no offsets": header(data_offsets=[0]),
    "nested deeply": (10000).to_bytes(8, "little") + b"[" * 10000,
    "metadata of numbers": (25).to_bytes(8, "little") + b'{"__metadata__":{"a": 1}} ',
}


@pytest.mark.parametrize("kind", DAMAGED)
def test_damaged_files_are_refused_in_one_line(tmp_path, kind) -> None:
    (tmp_path / "x").write_bytes(DAMAGED[kind])
    with pytest.raises(DataError, match="x must be a whole file of safetensors; got") as error:
        read_header(tmp_path / "x")
    assert "\n" not in str(error.value)


def test_a_file_that_is_missing_or_shorter_now(tmp_path) -> None:
    with pytest.raises(DataError, match=r"there must be a file at .*x; got none"):
        read_header(tmp_path / "x")
    write_tensors(tmp_path / "x", TENSORS, {})
    stored = read_header(tmp_path / "x").tensors["b"]
    (tmp_path / "x").write_bytes(b"")
    with pytest.raises(DataError, match="must be a whole file of safetensors"):
        map_tensor(stored)
