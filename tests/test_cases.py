"""The case table leaves nothing out."""

from gramian.penalties import PENALTIES
from gramian.rules import RULES
from tests.cases import ALL_CASES, RULE_CASES


def test_every_named_penalty_and_rule_has_a_case() -> None:
    assert set(PENALTIES) <= set(ALL_CASES)
    assert set(RULES) == set(RULE_CASES)
