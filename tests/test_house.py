"""The picture of the house, docs/figures/house.svg, shows the imports of the source."""

import importlib.util
from functools import cache
from pathlib import Path
from xml.etree import ElementTree

import pytest

SCRIPT = Path(__file__).parent.parent / "docs" / "house.py"
_spec = importlib.util.spec_from_file_location("house", SCRIPT)
house = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(house)


@cache
def graph() -> dict[str, list[str]]:
    return house.imports()


def test_the_picture_is_current() -> None:
    assert house.drawn_imports() == graph(), "docs/figures/house.svg is out of date; run `make house`"
    assert house.FIGURE.read_text(encoding="utf-8") == house.draw(graph()), "run `make house`"


def test_the_picture_is_valid_and_has_a_dot_for_each_import() -> None:
    root = ElementTree.fromstring(house.draw(graph()))
    titles = [dot[0].text for dot in root.iter("{http://www.w3.org/2000/svg}circle")]
    assert titles == [f"{room} imports {target}" for room, targets in graph().items() for target in targets]
    assert "rules imports kernels" in titles


def test_a_room_without_a_floor_is_named(tmp_path) -> None:
    (tmp_path / "attic.py").write_text("import gramian.errors\n")
    with pytest.raises(house.HouseError, match=r"got attic without one; try FLOORS in .*house\.py"):
        house.imports(tmp_path)
