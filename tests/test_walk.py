"""Folders through links."""

from __future__ import annotations

from pathlib import Path

from carv_distill.walk import walk


def found(folder: Path) -> set[str]:
    return {str((place / name).relative_to(folder)) for place, _, names in walk(folder) for name in names}


def test_linked_folders_are_entered_and_loops_are_not(tmp_path: Path) -> None:
    """Twice where two links lead there; a link to itself, above, or back by another link ends."""
    folder, elsewhere = tmp_path / "set", tmp_path / "elsewhere"
    for place in (folder / "plain", elsewhere / "deep"):
        place.mkdir(parents=True)
        (place / "file").touch()
    (folder / "one").symlink_to(elsewhere)
    (folder / "two").symlink_to(elsewhere)
    (folder / "self").symlink_to(folder)
    (folder / "plain/above").symlink_to(tmp_path)
    (elsewhere / "back").symlink_to(folder)
    (folder / "gone").symlink_to(tmp_path / "nowhere")
    assert found(folder) == {"plain/file", "one/deep/file", "two/deep/file", "gone"}
