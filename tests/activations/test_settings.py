"""The settings of a run on activations: checked when they are made, and when they are read."""

import json

import pytest

from gramian.activations.settings import FeatureSettings, read_settings, settings_text
from gramian.errors import OptionError, RunError


@pytest.fixture(autouse=True)
def without_shape_checks(unchecked) -> None:
    """Wrong types are refused by the settings themselves."""


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"store": None}, "store and layer must be text; got None and None"),
        ({"layer": 3}, "store and layer must be text"),
        ({"centre": 1}, "centre must be True or False; got 1"),
        ({"groups": 0}, "groups must be at least 1"),
        ({"groups": 8, "target_active": 9}, "must be at most that of groups, 8; got 9"),
        ({"batch": True}, "batch must be a whole number"),
        ({"seed": 2**80}, "seed must be at most 63 bits; got 81"),
        ({"lr": float("nan")}, "lr must be positive"),
        ({"lam": 0}, "lam must be positive"),
        ({"rule": "none"}, "rule must be one of"),
        ({"device": "meta"}, "device must be available to torch"),
        ({"device": 3.5}, "device must be available to torch"),
    ],
)
def test_wrong_values(changed, words) -> None:
    with pytest.raises(OptionError, match=words):
        FeatureSettings(**{"store": "x", **changed})


def test_files(tmp_path) -> None:
    path = tmp_path / "settings.json"
    settings = FeatureSettings(store="/a", layer="b", groups=32, target_active=None)
    path.write_text(settings_text(settings))
    assert read_settings(path) == settings
    content = json.loads(path.read_text())
    for text, words in (
        ("{", "as JSON; got"),
        ("[]", "and no others; got no object"),
        (json.dumps({**content, "patch": 16}), "and no others; got other names: 'patch'"),
        (json.dumps({**content, "groups": -1}), "groups must be at least 1"),
    ):
        path.write_text(text)
        with pytest.raises(RunError, match=words):
            read_settings(path)
    with pytest.raises(RunError, match=r"there must be settings at .*; got no such file"):
        read_settings(tmp_path / "missing")
