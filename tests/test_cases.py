"""The case table leaves nothing out, and the laws leave none of it out."""

import re
from pathlib import Path

from gramian import penalties
from gramian.penalties import PENALTIES, Penalty
from gramian.rules import RULES
from tests import cases
from tests.cases import ALL_CASES, RULE_CASES

TESTS = Path(__file__).parent
LAWS = ("attach", "foreach", "gradients", "invariances", "kernels", "penalties", "rules")
CODING_LAWS = ("inference", "priors")


def test_every_named_penalty_and_rule_has_a_case() -> None:
    assert set(PENALTIES) <= set(ALL_CASES)
    assert set(RULES) == set(RULE_CASES)


def test_every_class_of_penalties_has_a_case() -> None:
    seen: set[type] = set()

    def look(penalty: Penalty) -> None:
        seen.add(type(penalty))
        for inner in (getattr(penalty, "penalty", None), *getattr(penalty, "parts", ())):
            if inner is not None:
                look(inner)

    for case in ALL_CASES.values():
        look(case.at(2, 3))
    classes = {each for each in vars(penalties).values() if isinstance(each, type) and issubclass(each, Penalty)}
    assert seen == classes - {Penalty}


def test_every_marker_of_the_table_is_used() -> None:
    markers = [name for name in vars(cases) if name.startswith("over_")]
    text = "".join(
        path.read_text(encoding="utf-8") for path in TESTS.rglob("test_*.py") if path.name != "test_cases.py"
    )
    assert len(markers) > 8
    assert not [name for name in markers if not re.search(rf"^ *@{name}$", text, re.MULTILINE)]


def test_every_law_runs_over_every_case() -> None:
    assert {path.stem.removeprefix("test_") for path in (TESTS / "laws").glob("test_*.py")} == {*LAWS, *CODING_LAWS}
    for name in CODING_LAWS:
        text = (TESTS / "laws" / f"test_{name}.py").read_text(encoding="utf-8")
        assert "@over_priors" in text or "@over_inference" in text, name
    for name in LAWS:
        text = (TESTS / "laws" / f"test_{name}.py").read_text(encoding="utf-8")
        assert "@over_all_penalties" in text, name
        assert "over_penalties" not in text, name
