"""Settings of a run: every value checked, and files of them."""

import json
from dataclasses import asdict, replace

import pytest

from gramian.errors import OptionError, RunError
from gramian.images.settings import RunSettings, read_settings, settings_text

TINY = {"groups": 8, "size": 2, "patch": 8}


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("groups", 0, "groups must be at least 1; got 0"),
        ("groups", 2.5, "groups must be a whole number; got 2.5"),
        ("batch", True, r"batch must be a whole number; got True \(bool\)"),
        ("size", "2", "size must be a whole number; got '2'"),
        ("iterations", [3], r"iterations must be a whole number; got \[3\] \(list\)"),
        ("report_every", None, "report_every must be a whole number; got None"),
        ("steps", 2**63, "steps must be at most 9223372036854775807; got 9223372036854775808"),
        ("groups", 1 << 10_000, "groups must be at most 9223372036854775807; got a number of 10001 bits"),
        ("seed", 2**70, "seed must be at most 18446744073709551615; got 1180591620717411303424"),
        ("seed", -(2**64), "seed must be at least -9223372036854775808; got -18446744073709551616"),
        ("seed", 1.0, "seed must be a whole number; got 1.0"),
        ("patch", 8.0, "patch must be a whole number; got 8.0"),
        ("colour", 1, "colour must be True or False; got 1"),
        ("images", 3, "images must be a path as text, or None; got 3"),
        ("images", "a\0b", r"images must be a path as text, or None; got 'a\\x00b'"),
        ("lam", "0.1", "lam must be a number; got '0.1'"),
        ("beta", True, r"beta must be a number; got True \(bool\)"),
        ("lr", None, "lr must be a number; got None"),
        ("lam", 1e31, r"lam must lie between 1e-30 and 1e\+30; got 1e\+31"),
        ("lam", 10**400, r"lam must lie between 1e-30 and 1e\+30; got a number of 1329 bits"),
        ("lr", 1e-300, r"lr must lie between 1e-30 and 1e\+30; got 1e-300"),
        ("target_active", "3", "target_active must be a number; got '3'"),
        ("target_active", float("nan"), "target_active must lie between 0 and the number of groups; got nan"),
        ("device", 0, "device must be a name such as 'cpu'; got 0"),
        ("device", "meta", "device must be available to torch and have storage; got 'meta'; try 'cpu'"),
        ("device", "mkldnn", "device must be available to torch and have storage; got 'mkldnn'; try 'cpu'"),
        ("device", "hpu", "device must be available to torch and have storage; got 'hpu'; try 'cpu'"),
        ("rule", len, "rule must be one of .*; got <built-in function len>"),
        ("whiten", ["zca"], r"whiten must be one of .*; got \['zca'\] \(list\)"),
        ("steps", -1, "steps must be at least 1; got -1"),
        ("patch", 1, "patch must be at least 2 pixels; got 1; try 16"),
        ("lam", 0.0, "lam must be a positive finite number; got 0.0"),
        ("beta", float("nan"), "beta must be a positive finite number; got nan"),
        ("lr", float("inf"), "lr must be a positive finite number; got inf"),
        ("size", 65, "at most as many orthonormal atoms as a patch has numbers, 64; got size 65; try"),
        ("infer", "magic", "infer must be one of auto, fista, lca, .*; got 'magic'"),
        ("whiten", "pca", "whiten must be one of fourier, zca, none; got 'pca'"),
        ("update", "newton", "update must be one of sgd, online; got 'newton'"),
        ("prior", "gauss", "prior must be one of group_laplace, nonnegative, scale_mixture, .*; got 'gauss'"),
        ("target_active", 9.0, "target_active must lie between 0 and the number of groups; got 9"),
        ("device", "abacus", "device must be available to torch .*; got 'abacus'; try 'cpu'"),
        ("patience", 0, "patience must be at least 1; got 0"),
        ("rule", "magic", "rule must be one of .*; got 'magic'"),
        ("penalty", "magic", "penalty must be one of .*; got 'magic'"),
    ],
)
def test_settings_that_will_not_do(name, value, message) -> None:
    with pytest.raises(OptionError, match=message):
        RunSettings(**(TINY | {name: value}))


def test_there_and_back(tmp_path) -> None:
    settings = RunSettings(**TINY, seed=2**64 - 1, target_active=3, images="/a/\udcff")
    (tmp_path / "settings.json").write_text(settings_text(settings))
    assert read_settings(tmp_path / "settings.json") == settings


STORED = asdict(RunSettings(**TINY))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "must hold the settings of a run as JSON; it cannot be read"),
        (b"{", "must hold the settings of a run as JSON; it cannot be read"),
        (b"\xff\xfe", "must hold the settings of a run as JSON; it cannot be read"),
        (b"[" * 200_000, "must hold the settings of a run as JSON; it cannot be read"),
        (b'{"seed": ' + b"1" * 5000 + b"}", "must hold the settings of a run as JSON; it cannot be read"),
        (b" " * (1 << 21), "must hold the settings of a run; got a file of more than 1048576 bytes"),
        (b"[]", "must hold the settings of a run as a JSON object; got list"),
        (b'{"groups": 8}', "must hold all settings of a run; batch, beta, .* missing"),
        (STORED | {"magic": 1}, r"must hold only settings of this version of gramian; got \['magic'\] as well"),
        (
            STORED | {"images": ["a"]},
            r"must hold the settings of a run: images must be a path .*; got \['a'\] \(list\)",
        ),
        (
            STORED | {"lam": float("nan")},
            "must hold the settings of a run: lam must be a positive finite number; got nan",
        ),
    ],
)
def test_files_that_will_not_do(tmp_path, content, message) -> None:
    path = tmp_path / "settings.json"
    with pytest.raises(RunError, match=r"there must be settings at .*; got no such file"):
        read_settings(path)
    path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    with pytest.raises(RunError, match=message) as caught:
        read_settings(path)
    assert str(path) in str(caught.value)
    assert len(str(caught.value)) < 400


def test_numbers_at_the_end_of_their_range() -> None:
    settings = RunSettings(**TINY)
    for changed in ({"steps": 2**63 - 1}, {"seed": -(2**63)}, {"lam": 1e30}, {"beta": 1e-30}, {"target_active": 8}):
        assert replace(settings, **changed) != settings
