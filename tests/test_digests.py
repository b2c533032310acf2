"""Digests beside weights, and of folders."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from carv_distill.digests import DIGESTS, check_digests, content_digest, digest_lines, file_digest
from carv_distill.errors import UserError
from carv_distill.files import saved_folder, shipped


def weights(folder: Path) -> Path:
    """A product with weights in two places; its folder."""
    with saved_folder(folder) as scratch:
        (scratch / "unet").mkdir()
        (scratch / "unet/b.safetensors").write_bytes(b"weights")
        (scratch / "a.safetensors").write_bytes(bytes(100))
        (scratch / "README.md").write_text("no weights")
    return folder


def test_weights_get_digests_that_coreutils_check(tmp_path: Path) -> None:
    """The same at every export, in each folder with weights."""
    folder = weights(tmp_path / "one")
    for place in (folder, folder / "unet"):
        check_digests(place)
        subprocess.run(["sha256sum", "--status", "-c", DIGESTS], cwd=place, check=True)
        again = weights(tmp_path / "two") / place.relative_to(folder)
        assert (place / DIGESTS).read_bytes() == (again / DIGESTS).read_bytes()
    assert (folder / DIGESTS).read_text().split()[1:] == ["a.safetensors"]


@pytest.mark.parametrize("byte", [0, 50, 99])
@pytest.mark.parametrize("bit", [1, 128])
def test_any_flipped_bit_is_found(tmp_path: Path, byte: int, bit: int) -> None:
    folder = weights(tmp_path / "product")
    content = bytearray((folder / "a.safetensors").read_bytes())
    content[byte] ^= bit
    (folder / "a.safetensors").write_bytes(content)
    with pytest.raises(UserError, match=r"a\.safetensors is damaged: its SHA-256 is not that of SHA256SUMS"):
        check_digests(folder)
    check_digests(folder / "unet")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: (f / "a.safetensors").unlink(), r"a\.safetensors is missing, though SHA256SUMS lists it"),
        (lambda f: (f / "a.safetensors").write_bytes(b""), r"a\.safetensors is damaged"),
        (lambda f: (f / DIGESTS).write_text("half a line"), "SHA256SUMS is damaged: not lines of"),
        (lambda f: (f / DIGESTS).write_bytes(b"\xff\xfe"), "SHA256SUMS cannot be checked"),
        (lambda f: (f / DIGESTS).write_text("0" * 64 + "  ./a.safetensors"), "is damaged: its SHA-256"),
    ],
)
def test_digests_that_do_not_fit_are_a_line(tmp_path: Path, damage: object, message: str) -> None:
    folder = weights(tmp_path / "product")
    assert callable(damage)
    damage(folder)
    with pytest.raises(UserError, match=message) as caught:
        check_digests(folder)
    assert "\n" not in str(caught.value)


def test_somebody_s_folder_has_no_digests_and_passes(tmp_path: Path) -> None:
    """Nor do digests of other files matter, as a hub's repository may have them."""
    check_digests(tmp_path)
    (tmp_path / DIGESTS).write_text(f"{'0' * 64}  dataset.zip\n")
    check_digests(tmp_path)


def test_the_shipped_weights_have_theirs() -> None:
    folders = {path.parent for path in shipped("checkpoints").rglob("*.safetensors")}
    assert len(folders) >= 6
    for folder in folders:
        assert (folder / DIGESTS).is_file(), folder
        check_digests(folder)


def test_what_is_linked_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A teacher's gigabytes, which every product of a run has; a file of the product's own every time."""
    (tmp_path / "teacher.safetensors").write_bytes(b"a")
    folder = tmp_path / "product"
    folder.mkdir()
    (folder / "text.safetensors").hardlink_to(tmp_path / "teacher.safetensors")
    (folder / "unet.safetensors").write_bytes(b"b")
    plain = digest_lines(folder)
    read: list[str] = []

    def noted(file: Path) -> str:
        read.append(file.name)
        return file_digest(file)

    monkeypatch.setattr("carv_distill.digests.file_digest", noted)
    assert digest_lines(folder) == plain
    assert read == ["unet.safetensors"]


def test_a_folders_digest_is_of_what_is_linked_into_it(tmp_path: Path) -> None:
    """As a teacher's weights are, to have them once; a link back to the folder itself ends."""
    (tmp_path / "unet").mkdir()
    (tmp_path / "unet/w.safetensors").write_text("x")
    folder = tmp_path / "teacher"
    folder.mkdir()
    (folder / "unet").symlink_to(tmp_path / "unet")
    (folder / "unet/again").symlink_to(folder)
    before = content_digest(folder)
    (tmp_path / "unet/w.safetensors").write_text("other")
    assert content_digest(folder) != before


def test_a_folders_digest_is_of_its_content(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    for folder in (one, two):
        (folder / "deep").mkdir(parents=True)
        (folder / "deep/w").write_text("x")
    (two / ".hidden").touch()
    assert content_digest(one) == content_digest(two)
    (two / "deep/w").write_text("y")
    assert content_digest(one) != content_digest(two)
    (two / "deep/w").rename(two / "w")
    (one / "deep/w").write_text("y")
    assert content_digest(one) != content_digest(two)
