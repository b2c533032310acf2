"""What of a product is sent: files that hold data alone, and nothing from outside of its folder."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from carv_distill.digests import DIGESTS, check_digests
from carv_distill.errors import UserError
from carv_distill.files import read_json
from carv_distill.model_card import CARD

WEIGHTS, TEXTS = (".safetensors",), (".json", ".md", ".model", ".txt")
"""A tokenizer's vocabulary is a .txt or, of sentencepiece, a .model."""
PICTURES, FILMS = (".gif", ".jpeg", ".jpg", ".png", ".webp"), (".mp4", ".webm")
MESHES = (".glb", ".gltf", ".mtl", ".obj", ".ply", ".stl")
SENT = frozenset((*WEIGHTS, *TEXTS, *PICTURES, *FILMS, *MESHES))
"""Endings of files that no reader runs."""
CONFIGURATIONS, LOADED_FROM = ("config.json", "model_index.json"), ("_name_or_path", "name_or_path")
SAMPLES = "samples.png"
"""What the run's newest grid of samples is called beside its product."""


@dataclass(frozen=True)
class Contents:
    """Files by the names that they have on the hub, but for the card."""

    files: dict[str, Path | bytes]
    left_out: tuple[str, ...]
    """Names of what lies in the product's folder too."""

    @property
    def sizes(self) -> dict[str, int]:
        """Bytes of each."""
        return {n: len(f) if isinstance(f, bytes) else f.stat().st_size for n, f in self.files.items()}


def contents_of(product: Path, samples: Path | None = None) -> Contents:
    """Of a product's folder what is sent, with a grid of samples beside it.

    Raises:
        UserError: there is no whole product, a file is a link to elsewhere, weights are damaged, or code is
            not this version's own.
    """
    if product.is_symlink():
        raise UserError(f"{product} is a link to {os.readlink(product)}; put the folder itself there")
    if not (product / CARD).is_file():
        raise UserError(f"{product} is not whole: it has no {CARD}, which is written last{_anew(product)}")
    files: dict[str, Path | bytes] = {}
    left_out = []
    for path in sorted(_everything(product)):
        name = path.relative_to(product).as_posix()
        if path.is_file() and _is_sent(product, name):
            files[name] = _without_places(path)
        else:
            left_out.append(name)
    for name in files:
        if Path(name).name == DIGESTS:
            check_digests((product / name).parent)
    del files[CARD]  # a card for the hub takes its place
    if samples is not None and "views.png" not in files:
        files[SAMPLES] = _inside(samples, samples.parents[1])
    return Contents(files, tuple(left_out))


def _without_places(path: Path) -> Path | bytes:
    """A configuration without the folder that its network was loaded from, which diffusers and transformers
    write into it; any other file as it is."""
    if not path.name.endswith(CONFIGURATIONS):
        return path
    content = read_json(path)
    told = {key: value for key, value in content.items() if key not in LOADED_FROM}
    return path if told == content else (json.dumps(told, indent=2) + "\n").encode()


def _everything(product: Path) -> Iterator[Path]:
    """Every file below a folder, and every link to a folder."""
    for place, folders, names in os.walk(product):
        for name in (*names, *(folder for folder in folders if Path(place, folder).is_symlink())):
            yield _inside(Path(place, name), product)


def _inside(path: Path, folder: Path) -> Path:
    """The path; UserError where it is a link that leads out of the folder, or nowhere."""
    if path.is_symlink():
        leads = f"{path} is a link to {os.readlink(path)}"
        try:
            there = path.resolve(strict=True)
        except (OSError, RuntimeError) as error:
            raise UserError(f"{leads}, which is not there; remove it") from error
        if not there.is_relative_to(folder.resolve()):
            raise UserError(f"{leads}, outside of {folder}; put the file itself there, or remove the link")
    return path


def _is_sent(product: Path, name: str) -> bool:
    path = Path(name)
    if any(part.startswith(".") for part in path.parts):
        return False
    if path.suffix == ".py":
        return _is_own_code(product, name)
    return path.name == DIGESTS or path.suffix.lower() in SENT


def _is_own_code(product: Path, name: str) -> bool:
    """Whether a file is one of those by which diffusers reads a student.

    Raises:
        UserError: it has the name of one and other content.
    """
    from carv_distill.distillation.export.image_student import (
        CODE,  # diffusers, which most products do without
    )

    own = next((text for place, text in CODE.items() if Path(name).match(place)), None)
    if own is None:
        return False
    if (product / name).read_bytes() != own.encode():
        raise UserError(
            f"{product / name} is code, and other than this version of carv-distill writes there"
            f"{_anew(product)}"
        )
    return True


def _anew(product: Path) -> str:
    return f"; python evaluate.py export --run {shlex.quote(str(product.parent))} makes it anew"
