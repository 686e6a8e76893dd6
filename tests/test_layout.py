"""Layouts: each row of the table by hand, there and back bit for bit, and errors that say what does not fit."""

import copy
import pickle
import warnings
from itertools import chain, pairwise

import jaxtyping
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import gramian
from gramian import layout as module
from gramian.errors import DtypeError, LayoutError, OvercompleteWarning
from gramian.layout import Layout, as_layout, as_phi, from_phi
from tests.cases import DTYPES, LAYOUT_CASES, over_dtypes, over_layouts, overcomplete_is_meant
from tests.shapes import CHECKED

INTEGERS = {8: torch.int64, 4: torch.int32, 2: torch.int16}


def bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.contiguous().view(INTEGERS[tensor.element_size()])


def any_bits(shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    """Numbers of every kind: NaN, infinite, subnormal, −0."""
    integer = INTEGERS[torch.empty((), dtype=dtype).element_size()]
    limits = torch.iinfo(integer)
    return torch.randint(limits.min, limits.max, shape, dtype=integer).view(dtype)


@over_layouts
@over_dtypes
def test_a_row_of_the_table(case, dtype) -> None:
    layout = Layout(case.pattern, **case.sizes)
    parameter = any_bits(case.shape, dtype)
    phi = layout.to_phi(parameter)
    assert torch.equal(bits(phi), bits(case.by_hand(parameter)))
    assert tuple(phi.shape) == layout.phi_shape(case.shape)
    assert torch.equal(bits(layout.from_phi(phi, case.shape)), bits(parameter))
    assert (phi.data_ptr() == parameter.data_ptr()) == case.view


def test_the_chunks_are_taken_after_a_permutation_of_atoms() -> None:
    atoms, order = torch.randn(12, 6), torch.randperm(12)
    phi = Layout("(m n) l -> l m n", n=4).to_phi(atoms[order])
    for i in range(3):
        for j in range(4):
            assert torch.equal(phi[:, i, j], atoms[order[4 * i + j]])


@over_layouts
def test_a_view_of_a_strided_parameter_where_one_exists(case) -> None:
    wide = torch.randn(*case.shape[:-1], case.shape[-1] * 2)
    parameter = wide[..., ::2]
    layout = Layout(case.pattern, **case.sizes)
    phi = layout.to_phi(parameter)
    assert torch.equal(phi, case.by_hand(parameter.clone()))
    # Merging axes needs an even stride through all of them, which every other element of the last axis still has.
    assert (phi.untyped_storage().data_ptr() == wide.untyped_storage().data_ptr()) == case.view
    assert torch.equal(layout.from_phi(phi, case.shape), parameter)


@st.composite
def patterns(draw) -> tuple[list[list[str]], list[list[str]], dict[str, int]]:
    names = list("abcde"[: draw(st.integers(1, 5))])
    sizes = {name: draw(st.integers(1, 3)) for name in names}

    def side(parts: int) -> list[list[str]]:
        order = draw(st.permutations(names))
        cuts = sorted(draw(st.integers(0, len(names))) for _ in range(parts - 1))
        return [list(order[a:b]) for a, b in pairwise([0, *cuts, len(names)])]

    return side(draw(st.integers(1, 5))), side(3), sizes


def spelled(side: list[list[str]]) -> str:
    return " ".join(axis[0] if len(axis) == 1 else f"({' '.join(axis)})" for axis in side)


@overcomplete_is_meant
@given(patterns(), st.sampled_from(DTYPES))
def test_any_pattern_there_and_back(drawn, dtype) -> None:
    left, right, sizes = drawn

    def shape(side: list[list[str]]) -> tuple[int, ...]:
        return tuple(torch.Size([sizes[name] for name in axis]).numel() for axis in side)

    flat_left, flat_right = (list(chain.from_iterable(side)) for side in drawn[:2])
    layout = Layout(f"{spelled(left)} -> {spelled(right)}", **sizes)
    parameter = any_bits(shape(left), dtype)
    by_hand = (
        parameter.reshape([sizes[name] for name in flat_left])
        .permute([flat_left.index(name) for name in flat_right])
        .reshape(shape(right))
    )
    phi = layout.to_phi(parameter)
    assert torch.equal(bits(phi), bits(by_hand))
    assert torch.equal(bits(layout.from_phi(phi, tuple(parameter.shape))), bits(parameter))
    assert torch.equal(bits(from_phi(as_phi(parameter, layout), parameter, layout)), bits(parameter))


@pytest.mark.parametrize("shape", [(0, 5), (8, 0)])
def test_empty_axes(shape) -> None:
    layout = Layout("(m n) i -> i m n", n=4)
    phi = layout.to_phi(torch.empty(shape))
    assert phi.shape == (shape[1], shape[0] // 4, 4)
    assert layout.from_phi(phi, shape).shape == shape


def test_sizes_are_solved_for() -> None:
    layout = Layout("(g o) i kh kw -> (i kh kw) g o", g=2)
    assert layout.axis_sizes((6, 3, 2, 5)) == {"g": 2, "o": 3, "i": 3, "kh": 2, "kw": 5}
    assert layout.phi_shape((6, 3, 2, 5)) == (30, 2, 3)


def test_equal_hashable_and_spelled_as_built() -> None:
    layout = Layout("(a b) i -> i a b", b=2, a=3)
    assert layout == Layout("(a b) i -> i a b", a=3, b=2) != Layout("(a b) i -> i a b", a=3)
    assert len({layout, Layout("(a b) i -> i a b", a=3, b=2)}) == 1
    assert repr(layout) == "Layout('(a b) i -> i a b', a=3, b=2)"
    assert eval(repr(layout), {"Layout": Layout}) == layout


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, lambda layout: pickle.loads(pickle.dumps(layout))])
def test_copies(copied) -> None:
    layout = Layout("(m n) i -> i m n", n=4)
    again = copied(layout)
    assert again == layout
    assert hash(again) == hash(layout)
    assert torch.equal(again.to_phi(torch.ones(8, 5)), layout.to_phi(torch.ones(8, 5)))


def test_a_layout_does_not_change() -> None:
    with pytest.raises(AttributeError):
        Layout("l n -> l () n").pattern = "n l -> l () n"  # pyright: ignore


def test_parsed_and_solved_once() -> None:
    pattern = "fresh names -> fresh () names"
    before = module._parse.cache_info().misses
    for _ in range(3):
        Layout(pattern).to_phi(torch.ones(4, 2))
    assert module._parse.cache_info().misses == before + 1

    before = module._solve.cache_info().misses
    for _ in range(3):
        Layout(pattern).to_phi(torch.ones(5, 3))
    assert module._solve.cache_info().misses == before + 1


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("l m n", r"must be 'parameter axes -> vector group member'; got 'l m n'"),
        ("l -> m -> n", r"must be 'parameter axes -> vector group member'"),
        ("l n -> l n", r"exactly three axes \(vector group member\); got 2 in 'l n -> l n'; try"),
        ("a b c d -> a b c d", r"exactly three axes .*; got 4"),
        ("a a b -> a () b", r"once on each side .*'a' twice on the left"),
        ("a b -> a a b", r"once on each side .*'a' twice on the right"),
        ("l m n -> l m k", r"both sides .* same axes.*'k', 'n' on one side only"),
        ("... n -> ... () n", r"name, \(names\) or \(\); got '...'.*ellipsis"),
        ("l 3 n -> l 3 n", r"name, \(names\) or \(\); got '3'"),
        ("(a (b c)) d -> a b (c d)", r"got '\('.*nested"),
        ("a b) c -> a b c", r"got '\)'"),
        ("(a b c -> a b c", r"parentheses .* must be closed"),
        ("_a b c -> _a b c", r"must not begin or end with an underscore.*got '_a'.*try"),
        ("if b c -> if b c", r"a Python keyword.*got 'if'"),
        ("self b c -> self b c", r"one of 'pattern', 'self'; got 'self'"),
        ("a b c -> a b c -> a", r"must be 'parameter axes -> vector group member'"),
        (f"{' '.join(f'n{i}' for i in range(65))} -> n0 n1 n2", r"at most 64 axes, .*; got 65"),
    ],
)
def test_a_malformed_pattern(pattern, message) -> None:
    with pytest.raises(LayoutError, match=message):
        Layout(pattern)


@pytest.mark.parametrize("pattern", [3, None, ["o i -> i () o"], b"o i -> i () o"], ids=repr)
def test_a_pattern_that_is_no_string(pattern, unchecked) -> None:
    with pytest.raises(LayoutError, match=f"pattern must be a string; got {type(pattern).__name__}; try"):
        Layout(pattern)


@pytest.mark.parametrize("name", ["reduction", "tensor", "axis", "axes_lengths", "x", "équerre", "a0", "cls", "item"])
def test_a_name_means_nothing_to_the_library_below(name) -> None:
    layout = Layout(f"({name} a1) i -> i a1 {name}", **{name: 2})
    weight = torch.randn(6, 4)
    phi = layout.to_phi(weight)
    assert torch.equal(phi, weight.reshape(2, 3, 4).permute(2, 1, 0))
    assert torch.equal(layout.from_phi(phi, (6, 4)), weight)


TOKENS = (
    *("a", "b", "n", "i", "reduction", "tensor", "pattern", "self", "axes_lengths", "_", "a_", "_a", "if", "None"),
    *("1", "0", "3", "...", "…", "(", ")", "()", "->", " ", "-", ">", "é", "ﬁ", "a1", "*", ",", "\n", "\0", "(a b)"),
)


@settings(max_examples=300)
@given(
    st.lists(st.sampled_from(TOKENS), max_size=6), st.lists(st.sampled_from(TOKENS), max_size=6),
    st.dictionaries(st.sampled_from([token for token in TOKENS if token not in ("pattern", "self")]),
                    st.sampled_from((1, 2, 3, 0, -1, 2.0, True, "2", None)), max_size=2),
    st.lists(st.integers(0, 4), max_size=4),
)  # fmt: skip
def test_anything_is_a_layout_or_an_error_of_ours(left, right, sizes, shape) -> None:
    parameter = any_bits(tuple(shape), torch.float32)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jaxtyping.config, "jaxtyping_disable", True)
        try:
            layout = Layout(f"{' '.join(left)} -> {' '.join(right)}", **sizes)
            phi = layout.to_phi(parameter)
        except LayoutError:
            return
    assert tuple(phi.shape) == layout.phi_shape(tuple(shape))
    assert torch.equal(bits(layout.from_phi(phi, tuple(shape))), bits(parameter))


@overcomplete_is_meant
@given(st.data())
def test_patterns_with_one_wrong_token(data) -> None:
    # A pattern that is right, with one token put in, taken out or exchanged.
    words = data.draw(st.sampled_from([case.pattern for case in LAYOUT_CASES.values()])).replace("(", "( ")
    words = words.replace(")", " )").split()
    place = data.draw(st.integers(0, len(words) - 1))
    words[place : place + data.draw(st.integers(0, 1))] = data.draw(st.lists(st.sampled_from(TOKENS), max_size=1))
    shape = tuple(data.draw(st.lists(st.integers(0, 4), min_size=1, max_size=4)))
    parameter = any_bits(shape, torch.float32)
    try:
        layout = Layout(" ".join(words))
        phi = layout.to_phi(parameter)
    except LayoutError:
        return
    assert torch.equal(bits(layout.from_phi(phi, shape)), bits(parameter))


@pytest.mark.parametrize("size", [0, -1, 2.0, True, "2"])
def test_a_size_that_is_no_size(size, unchecked) -> None:
    with pytest.raises(LayoutError, match=r"size must be a positive integer; got n=.* for '\(m n\) i -> i m n'"):
        Layout("(m n) i -> i m n", n=size)


def test_a_size_of_no_axis() -> None:
    with pytest.raises(LayoutError, match=r"must name an axis of its pattern; got k=3 .*'i', 'm', 'n'; try"):
        Layout("(m n) i -> i m n", k=3)


@pytest.mark.parametrize(
    ("sizes", "shape", "message"),
    [
        (
            {"n": 4},
            (8, 5, 1),
            r"must have the 2 axes on the left of '\(m n\) i -> i m n'; got shape \[8, 5, 1\] with 3",
        ),
        ({"n": 4}, (9, 5), r"axis 0 of size 9 must be a multiple of 4 .*\(m n\).*\[9, 5\] for Layout\(.*n=4\); try"),
        ({"n": 4, "m": 2}, (9, 5), r"axis 0 must have size 8, the product of \(m n\); got 9 in shape \[9, 5\]"),
        (
            {"i": 4},
            (8, 5),
            r"at most one size in \(m n\) may be unknown; got 'm', 'n' in .*\[8, 5\]; try Layout",
        ),
        ({"n": 4, "i": 4}, (8, 5), r"axis 1 must have size 4, the product of i; got 5 in shape \[8, 5\]"),
    ],
)
def test_a_shape_that_does_not_fit(sizes, shape, message) -> None:
    layout = Layout("(m n) i -> i m n", **sizes)
    for ask in (layout.axis_sizes, layout.phi_shape, lambda shape: layout.to_phi(torch.ones(shape))):
        with pytest.raises(LayoutError, match=message):
            ask(shape)


def test_phi_of_another_shape_does_not_go_back() -> None:
    layout = Layout("(m n) i -> i m n", n=4)
    with pytest.raises(
        LayoutError, match=r"phi must have the shape \[5, 2, 4\], which Layout.* \[8, 5\]; got \[5, 4, 2\]"
    ):
        layout.from_phi(torch.ones(5, 4, 2), (8, 5))


def test_without_a_layout() -> None:
    assert as_layout(None, 3) is None
    assert torch.equal(as_phi(torch.eye(3, 2), None), torch.eye(3, 2)[:, None, :])
    assert as_layout("o i -> i () o", 2) == Layout("o i -> i () o")
    for shape in [(), (3,), (2, 2, 2, 2)]:
        with pytest.raises(
            LayoutError, match=rf"without a layout .* one group \[l, n\]; got {len(shape)} axes; try lay"
        ):
            gramian.loss(torch.ones(shape))


def test_a_layout_of_another_kind(unchecked) -> None:
    with pytest.raises(LayoutError, match=r"layout must be a gramian\.Layout, a pattern or None; got 3"):
        gramian.loss(torch.eye(3), layout=3)  # pyright: ignore


@pytest.mark.parametrize("thing", [None, 1.0, [[1.0]], "phi"])
def test_not_a_tensor(thing, unchecked) -> None:
    with pytest.raises(DtypeError, match=rf"phi must be a torch.Tensor; got {type(thing).__name__}; try"):
        as_phi(thing, None)


@pytest.mark.parametrize("dtype", [torch.int64, torch.uint8, torch.bool, torch.complex64, torch.float8_e4m3fn], ids=str)
def test_a_dtype_that_has_no_gram_product(dtype) -> None:
    with pytest.raises(DtypeError, match=rf"float64, float32, bfloat16 or float16; got {dtype}; try"):
        as_phi(torch.zeros(3, 2, dtype=dtype), None)


@pytest.mark.parametrize("sparse", [torch.Tensor.to_sparse, torch.Tensor.to_mkldnn], ids=["coo", "mkldnn"])
def test_a_tensor_that_is_not_strided(sparse) -> None:
    with pytest.raises(DtypeError, match=r"dense \(strided\) tensor; got torch\._?(sparse|mkldnn).*; try phi.to_dense"):
        as_phi(sparse(torch.eye(3)), None)


def test_warns_of_too_many_vectors_once_for_each_shape() -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(3):
            for shape in [(2, 1, 3), (2, 4, 3), (2, 1, 4), (3, 1, 3)]:
                gramian.loss(torch.ones(shape))
                gramian.value_and_grad(torch.ones(shape))
    assert [type(w.message) for w in caught] == [OvercompleteWarning] * 2
    assert "n = 3 vectors of length l = 2 cannot be orthonormal (n > l)" in str(caught[0].message)
    assert "n = 4 vectors of length l = 2" in str(caught[1].message)


def test_shapes_are_checked_where_that_is_asked() -> None:
    error = jaxtyping.TypeCheckError if CHECKED else LayoutError
    with pytest.raises(error):
        Layout("l n -> l () n").from_phi(torch.ones(3), (3, 1))


def test_the_table_has_rows_that_are_views_and_one_that_is_not() -> None:
    assert {case.view for case in LAYOUT_CASES.values()} == {True, False}


@pytest.mark.parametrize(
    "layout",
    [Layout("o i -> i () o"), Layout("(m n) i -> i m n", n=4), Layout("(t h d) i -> i (t h) d", t=3, h=2)],
    ids=str,
)
def test_printed_layouts_can_be_pasted_back(layout) -> None:
    assert eval(repr(layout), {"Layout": Layout}) == layout
    assert Layout(str(layout)) == layout


@pytest.mark.parametrize("text", ["(m n) i -> i m n; n", "(m n) i -> i m n; n=x", "(m n) i -> i m n; n=2, n=2"])
def test_sizes_in_a_text_that_cannot_be_read(text) -> None:
    with pytest.raises(LayoutError, match=r"sizes in a layout must be like 'h=8, d=64'; got 'n"):
        Layout(text)
