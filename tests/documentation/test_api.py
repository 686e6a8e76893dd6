"""The pages of the API: one for each public module, with every public name."""

from tests.documentation.conftest import load
from tests.public_names import PUBLIC, SLOW, public_names

api = load("api")
MODULES = [module for modules in api.GROUPS.values() for module in modules]


def test_every_public_module_has_one_page() -> None:
    assert sorted(MODULES) == sorted((*PUBLIC, *SLOW))


def test_every_public_name_is_on_the_page_of_its_module() -> None:
    pages = {module: api.page(module) for module in MODULES}
    for name in public_names():
        module, _, short = name.rpartition(".")
        documented = f"\n::: {name}\n" in f"{pages[module]}\n" or f"\n::: {name}.{short}\n" in f"{pages[module]}\n"
        assert documented or (module == "gramian" and f"| `{name}` | [" in pages[module]), name


def test_the_overview_has_a_line_for_each_module() -> None:
    for module in MODULES:
        assert f"- [`{module}`]({module}.md): {api.summary(module)}" in api.index()
        assert api.summary(module).endswith("."), module
