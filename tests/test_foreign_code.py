"""Nothing from outside is executed: every `from_pretrained` of the package says so."""

from __future__ import annotations

import ast

import carv_distill
from tests.helpers.small import ROOT


def calls() -> list[tuple[str, ast.Call]]:
    """Every call of a method `from_pretrained` in the package, with its place."""
    found = []
    for path in sorted((ROOT / "carv_distill").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
                continue
            if node.func.attr == "from_pretrained":
                found.append((f"{path.relative_to(ROOT)}:{node.lineno}", node))
    return found


def test_every_from_pretrained_refuses_remote_code() -> None:
    """Without it, transformers asks "run the custom code? [y/N]" on a terminal."""
    assert carv_distill.__file__ is not None
    assert len(calls()) >= 4
    for place, call in calls():
        given = {word.arg: word.value for word in call.keywords}
        value = given.get("trust_remote_code")
        assert isinstance(value, ast.Constant), place
        assert value.value is False, place


def test_no_other_door_runs_code() -> None:
    """No hub's module, no eval, no pickle but by the unpicklers that run nothing."""
    doors = {"eval", "exec", "pickle.load", "pickle.loads", "marshal.loads", "torch.hub.load"}
    for path in sorted((ROOT / "carv_distill").rglob("*.py")):
        place = str(path.relative_to(ROOT / "carv_distill"))
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                name = ast.unparse(node.func)
                given = {word.arg: ast.unparse(word.value) for word in node.keywords}
                assert name not in doors, f"{place}:{node.lineno}"
                if name == "torch.load":
                    assert given.get("weights_only") == "True", f"{place}:{node.lineno}"
                if name == "np.load":
                    assert given.get("allow_pickle") == "False", f"{place}:{node.lineno}"
