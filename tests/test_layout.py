"""How the tests lie: beside what they test, and apart from each other."""

from __future__ import annotations

import re

from tests.helpers.small import ROOT

TESTS = ROOT / "tests"
ALONE = {"docs", "end_to_end", "examples", "gpu", "helpers", "studies"}


def test_no_test_module_imports_another() -> None:
    imports = {
        f"{path.relative_to(TESTS)}: {module}"
        for path in TESTS.rglob("*.py")
        for module in re.findall(r"^(?:from|import) (tests\S*)", path.read_text(), re.M)
        if not module.startswith("tests.helpers")
    }
    assert imports == set()


def test_every_test_of_the_package_lies_as_its_module_does() -> None:
    """tests/carv/test_sampler.py is of carv_distill/carv/sampler.py; test_sampler_x.py is of a part of it."""
    places = [path.relative_to(TESTS) for path in TESTS.rglob("test_*.py")]
    lost = []
    for place in places:
        folder, name = ROOT / "carv_distill" / place.parent, place.stem.removeprefix("test_")
        if len(place.parts) == 1 or place.parts[0] in ALONE:
            continue
        if not any(name == m.stem or name.startswith(f"{m.stem}_") for m in folder.glob("*.py")):
            lost.append(str(place))
    assert lost == []
