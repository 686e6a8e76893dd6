"""ONNX files: every way to store the entries of an initialiser, external data, and what is refused."""

import contextlib
import sys

import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

import gramian
from gramian.errors import MissingExtraError, WeightsError
from gramian.weights import inspect_file, open_weights, orthogonalize_file

DTYPES = {
    TensorProto.FLOAT: torch.float32,
    TensorProto.DOUBLE: torch.float64,
    TensorProto.FLOAT16: torch.float16,
    TensorProto.BFLOAT16: torch.bfloat16,
    TensorProto.INT8: torch.int8,
    TensorProto.INT16: torch.int16,
    TensorProto.INT32: torch.int32,
    TensorProto.INT64: torch.int64,
    TensorProto.UINT8: torch.uint8,
    TensorProto.BOOL: torch.bool,
}


def write(path, *initializers, sparse=()):
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    graph = helper.make_graph([], "graph", [], [output], list(initializers), sparse_initializer=list(sparse))
    path.write_bytes(helper.make_model(graph).SerializeToString())
    return path


def raw(name, tensor, kind=TensorProto.FLOAT):
    content = tensor.flatten().view(torch.uint8).numpy().tobytes() if tensor.numel() else b""
    return helper.make_tensor(name, kind, tensor.shape, content, raw=True)


def external(name, shape, kind=TensorProto.FLOAT, **place):
    tensor = TensorProto(name=name, data_type=kind, dims=shape, data_location=TensorProto.EXTERNAL)
    for key, value in place.items():
        tensor.external_data.add(key=key, value=str(value))
    return tensor


@pytest.mark.parametrize("kind", DTYPES, ids=TensorProto.DataType.Name)
@pytest.mark.parametrize("as_bytes", [True, False], ids=["raw", "field"])
def test_every_dtype(kind, as_bytes, tmp_path) -> None:
    values = torch.tensor([[0.0, 1, 1, 0, 1], [1, 0, 1, 1, 0]])
    if kind not in (TensorProto.BOOL, TensorProto.UINT8):
        values = -3 * values
    values = values.to(DTYPES[kind])
    if as_bytes:
        stored = raw("w", values, kind)
    else:
        stored = helper.make_tensor("w", kind, values.shape, values.double().flatten().tolist())
        assert not stored.HasField("raw_data")
    weights = open_weights(write(tmp_path / "m.onnx", stored))
    assert weights.entries["w"].dtype == str(values.dtype)
    read = weights.read("w")
    assert read.dtype == values.dtype
    assert torch.equal(read, values)


def test_what_is_listed_and_measured(tmp_path) -> None:
    weight, scalar, empty = torch.randn(4, 8), torch.tensor(2.0), torch.zeros(0, 3)
    values = helper.make_tensor("sparse", TensorProto.FLOAT, [1], [1.0])
    indices = helper.make_tensor("indices", TensorProto.INT64, [1], [3])
    path = write(
        tmp_path / "m.onnx",
        *(raw("w", weight), raw("b", torch.ones(4)), raw("scalar", scalar), raw("empty", empty)),
        helper.make_tensor("text", TensorProto.STRING, [1], [b"a"]),
        sparse=[helper.make_sparse_tensor(values, indices, [2, 2])],
    )
    inspection = inspect_file(path)
    assert [row.name for row in inspection.rows] == ["w"]
    assert inspection.rows[0].statistics == gramian.inspect({"w": weight}).rows[0].statistics
    assert {each.name: each.reason for each in inspection.skipped} == {
        "b": "of 1 axes",
        "scalar": "of 0 axes",
        "empty": "it is empty",
        "text": "of dtype string",
        "sparse": "sparse",
    }
    assert open_weights(path).read("scalar") == 2
    assert open_weights(path).read("empty").shape == (0, 3)


def test_external_data(tmp_path) -> None:
    first, second = torch.randn(4, 8), torch.randn(3, 5).half()
    model = helper.make_model(
        helper.make_graph(
            [],
            "graph",
            [],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
            [numpy_helper.from_array(each.numpy(), name) for name, each in (("a", first), ("b", second))],
        )
    )
    onnx.save(model, tmp_path / "m.onnx", save_as_external_data=True, location="m.data", size_threshold=0)
    weights = open_weights(tmp_path / "m.onnx")
    assert weights.files == (tmp_path / "m.onnx", tmp_path / "m.data")
    assert torch.equal(weights.read("a"), first)
    assert torch.equal(weights.read("b"), second)
    (tmp_path / "m.data").rename(tmp_path / "blob")
    (tmp_path / "m.data").symlink_to("blob")  # as in the cache of a hub
    assert torch.equal(weights.read("b"), second)
    (tmp_path / "blob").unlink()
    with pytest.raises(WeightsError, match=r"a in .*m\.data cannot be read: .* got no such file"):
        weights.read("a")


def test_external_data_elsewhere_or_damaged(tmp_path) -> None:
    (tmp_path / "data").write_bytes(bytes(64))
    for location in ("../data", "/etc/passwd", "", "a/../../data", "a\0b"):
        with pytest.raises(WeightsError, match="must be a file in its folder"):
            open_weights(write(tmp_path / "m.onnx", external("w", [2, 2], location=location)))
    for shape, place, message in (
        ([4, 4], {"offset": 4}, "within the 64 of data; got 64 at 4"),
        ([4, 4], {"offset": -4}, "got 64 at -4"),
        ([2, 2], {"length": 8}, "must be 16 bytes within the 64 of data; got 8 at 0"),
        ([1 << 30, 1 << 30], {}, "within the 64 of data"),
        ([2, 2], {"offset": "x"}, "ValueError"),
    ):
        weights = open_weights(write(tmp_path / "m.onnx", external("w", shape, location="data", **place)))
        with pytest.raises(WeightsError, match=message):
            weights.read("w")


def test_damaged_files(tmp_path) -> None:
    path = write(tmp_path / "m.onnx", raw("w", torch.randn(4, 8)))
    content = path.read_bytes()
    path.write_bytes(content[:-40])
    with pytest.raises(WeightsError, match=r"m\.onnx cannot be read: DecodeError"):
        open_weights(path)
    path.write_bytes(b"")
    with pytest.raises(WeightsError, match="must hold weights; got no tensor"):
        open_weights(path)
    wrong = raw("w", torch.randn(4, 8))
    wrong.dims[0] = 5
    with pytest.raises(WeightsError, match=r"it must hold the 160 bytes of its shape \[5, 8\]; got 128"):
        open_weights(write(path, wrong)).read("w")
    wrong.dims[0] = -4
    with pytest.raises(WeightsError, match="must have a shape"):
        open_weights(write(path, wrong))


def test_mutated_files(tmp_path) -> None:
    whole = write(tmp_path / "m.onnx", raw("w", torch.randn(4, 8)), raw("v", torch.randn(3, 3)))
    content = whole.read_bytes()
    for _ in range(60):
        changed = torch.frombuffer(bytearray(content), dtype=torch.uint8)
        changed[torch.randint(len(changed), (4,))] = torch.randint(256, (4,), dtype=torch.uint8)
        whole.write_bytes(changed.numpy().tobytes())
        with contextlib.suppress(gramian.GramianError):
            inspect_file(whole)


def test_a_name_that_is_no_text(tmp_path) -> None:
    path = write(tmp_path / "m.onnx", raw("nameless", torch.randn(4, 8)))
    path.write_bytes(path.read_bytes().replace(b"nameless", b"name\xffess"))
    assert list(open_weights(path).entries) == [r"name\xffess"]


def test_they_are_only_read(tmp_path) -> None:
    path = write(tmp_path / "m.onnx", raw("w", torch.randn(4, 8)))
    with pytest.raises(WeightsError, match=r"every kind of file except ONNX, which is only read; got m\.onnx; try"):
        orthogonalize_file(path, tmp_path / "out.onnx")
    assert [entry.name for entry in tmp_path.iterdir()] == ["m.onnx"]


def test_without_the_package(tmp_path, monkeypatch) -> None:
    path = write(tmp_path / "m.onnx", raw("w", torch.randn(4, 8)))
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(MissingExtraError, match=r"a file of ONNX needs onnx, .* try pip install 'gramian\[onnx\]'"):
        open_weights(path)
