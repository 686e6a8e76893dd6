"""Tuning without a GPU: kernels run in Triton's interpreter, and times are those of a table."""

import json

import pytest
import torch

import gramian
from gramian.errors import OptionError, RunError
from gramian.kernels.gpu import configurations, launching, tuning
from gramian.kernels.gpu.configurations import TrialError, configuration
from gramian.penalties import as_penalty
from tests.kernels.cases import HAS_TRITON, draw

pytestmark = pytest.mark.skipif(not HAS_TRITON, reason="needs Triton 3.3")

CUDA = torch.device("cuda")
CHOICES = [{"ROWS": 64, "num_warps": 4}, {"ROWS": 32, "num_warps": 4}, {"ROWS": 32, "num_warps": 8}]


class Launches:
    """Runs launches in the interpreter, remembers the tile of the last one, and has a broken and a wrong tile."""

    def __init__(self) -> None:
        self.original = launching.launch
        self.tile: tuple[int, ...] = ()
        self.broken: tuple[int, ...] = ()
        self.wrong: tuple[int, ...] = ()

    def __call__(self, name, grid, *arguments, **options) -> None:
        self.tile = options["ROWS"], options["GROUPS"], options["num_warps"]
        if self.tile == self.broken:
            raise TrialError("out of resource")
        self.original(name, grid, *arguments, **options)
        if self.tile == self.wrong:
            arguments[1][3, 2, 1] += 0.01


@pytest.fixture
def launches(monkeypatch) -> Launches:
    result = Launches()
    monkeypatch.setattr(launching, "launch", result)
    return result


def search(launches: Launches, times, seconds=100) -> tuning.Tuning:
    """Tune the registers kernel; `times` are those of its tiles, 10 ms of all others, and each run takes a second."""
    left = iter(range(seconds, -1, -1))

    def measure(call: tuning.Operation) -> float:
        call.prepare()
        call.run()
        return times.get(launches.tile, 10.0)

    with gramian.kernels.use("registers"):
        calls = tuning.operations(draw((8, 3, 2), torch.float32), as_penalty("l1"))
        return tuning.search(calls, measure, lambda: next(left, 0))


def tiles() -> list[tuple[int, ...]]:
    from gramian.kernels.gpu.registers import _tiles

    return [tuple(tile.values()) for tile in _tiles(draw((8, 3, 2), torch.float32))]


def test_the_fastest_correct_configuration_is_kept(launches) -> None:
    default, *others = tiles()
    assert len(others) >= 4
    launches.wrong, launches.broken = others[0], others[1]
    found = search(launches, {others[0]: 1.0, others[1]: 2.0, others[2]: 4.0, others[3]: 3.0, default: 9.0})
    assert {tuple(each.values()) for each in found.configurations.values()} == {others[3]}
    assert len(found.configurations) == 2  # the gradient and the step
    assert all(key.startswith("whole_groups float32 l=8 m=4 n=2 rows 0") for key in found.configurations)
    assert found.milliseconds == {"value_and_grad": (9.0, 3.0), "step_": (9.0, 3.0)}
    assert (found.tried, found.refused, found.complete) == (2 * len(others), 4, True)


def test_the_default_is_kept_if_none_is_faster(launches) -> None:
    default = tiles()[0]
    found = search(launches, {default: 9.0})
    assert {tuple(each.values()) for each in found.configurations.values()} == {default}
    assert found.milliseconds == {"value_and_grad": (9.0, 9.0), "step_": (9.0, 9.0)}


def test_the_limit_of_time_ends_the_search(launches) -> None:
    default, *others = tiles()
    found = search(launches, {default: 9.0, others[0]: 8.0, others[1]: 7.0, others[2]: 1.0}, seconds=2)
    assert [tuple(each.values()) for each in found.configurations.values()] == [others[1]]
    assert found.tried == 2
    assert not found.complete
    assert search(launches, {}, seconds=0).configurations == {}


def test_a_default_that_does_not_compile_is_no_candidate(launches) -> None:
    launches.broken = tiles()[0]
    found = search(launches, {})
    assert (found.milliseconds, found.configurations, found.tried) == ({}, {}, 0)


@pytest.mark.parametrize(
    "kernel", ["fused", *(pytest.param(kernel, marks=pytest.mark.slow) for kernel in ("products", "tiled"))]
)
def test_every_function_with_candidates_is_tuned(kernel) -> None:
    shape = (20, 2, 12) if kernel == "fused" else (20, 1, 17)
    expected = {
        "fused": {"fused_update"}, "products": {"residual_tiles", "sign_product", "symmetric_tiles", "limit_step"},
        "tiled": {"symmetric_tiles", "sign_product", "limit_step"},
    }  # fmt: skip
    with gramian.kernels.use(kernel):
        calls = tuning.operations(draw(shape, torch.float32), as_penalty("l1"))
        found = tuning.search(calls, lambda _: 1.0, lambda: 100)
    assert {key.split()[0] for key in found.configurations} == expected[kernel]
    assert found.tried > 3
    assert found.refused == 0  # each candidate was run, and its numbers are right
    assert found.complete


@pytest.fixture
def cache(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(configurations, "_name", lambda device: f"card {device.index}")
    configurations.forget()
    yield tmp_path / "gramian" / "gpu.json"
    configurations.forget()


def chosen(key: str = "a", device: torch.device = CUDA) -> configurations.Configuration:
    return configuration(key, device, lambda: CHOICES)


def test_a_file_keeps_configurations(cache) -> None:
    assert chosen() == CHOICES[0]
    assert configurations.save(CUDA, {"a": CHOICES[2]}) == cache == configurations.path()
    assert (chosen(), chosen("b")) == (CHOICES[2], CHOICES[0])
    other = torch.device("cuda:1")
    configurations.save(other, {"a": CHOICES[1]})
    configurations.save(CUDA, {"b": CHOICES[1]})
    configurations.forget()  # as in another process
    assert (chosen(), chosen("b"), chosen("a", other)) == (CHOICES[2], CHOICES[1], CHOICES[1])
    assert chosen("a", torch.device("meta")) == CHOICES[0]
    with configurations.trial({"b": CHOICES[2]}):
        assert (chosen(), chosen("b")) == (CHOICES[0], CHOICES[2])
    assert [path.name for path in cache.parent.iterdir()] == ["gpu.json"]


@pytest.mark.parametrize(
    "content",
    [
        *(b"", b"{", b"\xff", b"[]", b"null", b"[" * 100_000, b'{"format": 0, "devices": {}}', b'{"format": 1}'),
        *(b'{"format": 1, "devices": {"card None": 3}}', b'{"format": 1, "devices": {"card None": {"versions": 1}}}'),
    ],
    ids=lambda content: str(content[:40]),
)
def test_a_damaged_file_is_ignored_with_one_warning(cache, content) -> None:
    cache.parent.mkdir()
    cache.write_bytes(content)
    with pytest.warns(RuntimeWarning, match=r"must be a file of configurations.*; got .*tune replaces it"):
        assert chosen() == CHOICES[0]
    assert (chosen(), chosen("b")) == (CHOICES[0], CHOICES[0])  # without a second warning
    configurations.save(CUDA, {"a": CHOICES[1]})
    assert chosen() == CHOICES[1]


def test_a_file_of_other_versions_is_ignored_with_one_warning(cache, monkeypatch) -> None:
    configurations.save(CUDA, {"a": CHOICES[1]})
    with monkeypatch.context() as patch:
        patch.setattr(configurations, "_versions", lambda: {"triton": "9", "device code": "0"})
        configurations.forget()
        with pytest.warns(RuntimeWarning, match="for other versions of gramian or Triton"):
            assert chosen() == CHOICES[0]
        assert chosen("b") == CHOICES[0]
        configurations.save(CUDA, {"b": CHOICES[2]})
        assert (chosen(), chosen("b")) == (CHOICES[0], CHOICES[2])
    assert set(configurations._versions()) == {"triton", "device code"}


@pytest.mark.parametrize(
    "entry", [3, None, "x", {"ROWS": 1 << 20}, {"ROWS": 64, "num_warps": 4, "PENALTY": 2}], ids=str
)
def test_what_is_not_a_candidate_is_not_used(cache, entry) -> None:
    configurations.save(CUDA, {"a": entry})
    assert json.loads(cache.read_bytes())["devices"]["card None"]["configurations"] == {"a": entry}
    assert chosen() == CHOICES[0]


def test_a_file_that_cannot_be_written(cache) -> None:
    cache.parent.write_text("")
    with pytest.raises(RunError, match="could not be created"):
        configurations.save(CUDA, {"a": CHOICES[1]})


def test_classes_of_shapes() -> None:
    a, b, c = (
        torch.empty(33, 5, 4),
        torch.empty(100, 3, 1000, dtype=torch.bfloat16),
        torch.empty(4, 1024, 2)[:, :, :1].mT,
    )
    assert configurations.shape_class(a) == "float32 l=64 m=8 n=4 rows"
    assert configurations.shape_class(b) == "bfloat16 l=128 m=4 n=1024 unaligned rows"
    assert configurations.shape_class(c) == "float32 l=4 m=1 n=1024 columns"


def test_what_cannot_be_tuned() -> None:
    with pytest.raises(OptionError, match=r"phi must be a tensor \[l, m, n\] on a CUDA device; got .* on cpu"):
        gramian.kernels.tune(draw((4, 3, 2)))
    with pytest.raises(OptionError, match=r"phi must be a tensor .*; got \(64, 8, 4\); try torch\.randn"):
        gramian.kernels.tune((64, 8, 4))  # pyright: ignore
    with pytest.raises(OptionError, match="seconds must be positive; got 0"):
        gramian.kernels.tune(draw((4, 3, 2)), seconds=0)
