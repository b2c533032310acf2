"""docs/configuration.md is what the dataclasses say."""

from __future__ import annotations

import importlib.util

from tests.helpers.small import ROOT


def test_the_page_is_up_to_date() -> None:
    """Else: python docs/reference.py."""
    spec = importlib.util.spec_from_file_location("reference", ROOT / "docs/reference.py")
    assert spec is not None
    assert spec.loader is not None
    reference = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(reference)
    assert (ROOT / "docs/configuration.md").read_text() == reference.page()
