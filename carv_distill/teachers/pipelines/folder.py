"""Where a pipeline lies, of which kind it is, and its text parts."""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers.utils import is_sentencepiece_available

from carv_distill.digests import DIGESTS, content_digest
from carv_distill.errors import UserError, shown
from carv_distill.teachers.folder import local_folder, model_inside, read_json, reading, refuse_code
from carv_distill.teachers.weights import read_network

from .encoder import PromptEncoder
from .families import FAMILIES
from .family import Family

INDEX = "model_index.json"


@dataclass(frozen=True)
class PipelineFolder:
    """A pipeline's folder, of a known kind."""

    folder: Path
    family: Family
    index: Mapping[str, Any]

    def place(self, part: str) -> Path:
        """The folder of a part; UserError where there is none."""
        if not (self.folder / part).is_dir():
            names = ", ".join(self.family.parts)
            name = self.family.pipeline.__name__
            raise UserError(f"{self.folder} lacks its part {part}/; {name} has {names}")
        return self.folder / part

    def encoder(
        self,
        dtype: torch.dtype,
        size: Sequence[int] = (),
        guidance: float | None = None,
        models: bool = True,
    ) -> PromptEncoder:
        """Its prompt encoder, frozen.

        Args:
            dtype: of the text models.
            size, guidance: what the network is told beside a prompt.
            models: whether the text models are read; without them it knows what it is told to remember.
        """
        network = read_json(self.place(self.family.part) / "config.json")
        settings = pipeline_settings(self.index, self.family)
        encoder = PromptEncoder(self.family, self._texts(dtype, models), network, settings, size, guidance)
        return encoder.requires_grad_(False).eval()

    def _texts(self, dtype: torch.dtype, models: bool) -> dict[str, Any]:
        """Tokenizers and text models, but for those that the pipeline may do without and that it lacks."""
        parts: dict[str, Any] = {}
        family, left_out = self.family, self.family.left_out(self.index)
        for part, (kind,) in family.texts.items():
            if part in left_out:
                if part in family.optional:
                    continue
                raise UserError(
                    f"{self.folder / INDEX} leaves out {part}, without which there is no prompt; allowed to "
                    f"be null: {', '.join(family.optional) or 'none of its text parts'}"
                )
            place = self.place(part)
            if not issubclass(kind, nn.Module):
                parts[part] = _read_tokenizer(place, kind)
            elif models:
                parts[part] = read_network(place, kind, dtype=dtype)
        return parts

    def text_digest(self) -> str:
        """Of the text parts' files and of what the pipeline makes of them."""
        folders = [self.folder / part for part in self.family.texts if (self.folder / part).is_dir()]
        about = {
            "pipeline": self.family.pipeline.__name__,
            "settings": pipeline_settings(self.index, self.family),
            "without": list(self.family.left_out(self.index)),
            # what stands in for a text model that is left out has the network's width
            "width": read_json(self.place(self.family.part) / "config.json").get("joint_attention_dim"),
        }
        digests = (content_digest(folder) for folder in folders)
        return " ".join([json.dumps(about, sort_keys=True), *digests])


def find_pipeline(path: str | Path) -> PipelineFolder:
    """Where a pipeline lies, fetched from the hub where it is an id, and of which kind it is.

    Raises:
        UserError: no pipeline there, or one of another kind.
    """
    # The index comes first: of a hub's pipeline that is refused, nothing else is fetched.
    index_file = local_folder(str(path), [INDEX]) / INDEX
    if not index_file.is_file():
        raise UserError(
            f"teacher.path: {path} has no {INDEX}; it must be the folder of a pipeline, one of "
            f"{', '.join(FAMILIES)}{model_inside(index_file.parent)}"
        )
    index = read_json(index_file)
    name = index.get("_class_name")
    if not isinstance(name, str) or name not in FAMILIES:
        raise UserError(
            f"teacher.path: {index_file} has _class_name {shown(name)}, not one of {', '.join(FAMILIES)}"
        )
    family = FAMILIES[name]
    kinds = (".json", ".txt", ".model", ".safetensors", DIGESTS)  # pickles are not even fetched
    wanted = [INDEX, *(f"{part}/*{kind}" for part in family.parts for kind in kinds)]
    folder = local_folder(str(path), wanted)
    second = index.get(f"{family.part}_2")  # Wan 2.2 has one network for high noise and one for low
    if isinstance(second, list) and second[0] is not None:
        raise UserError(f"{index_file}: {family.part}_2, a second network for low noise, is not supported")
    return PipelineFolder(folder, family, index)


def pipeline_settings(index: Mapping[str, Any], family: Family) -> dict[str, Any]:
    """What an index says to the pipeline's constructor beside its parts, which are lists there."""
    known = inspect.signature(family.pipeline.__init__).parameters
    return {key: value for key, value in index.items() if key in known and not isinstance(value, list)}


def _read_tokenizer(place: Path, kind: Any) -> Any:
    """transformers reads a folder without a vocabulary as a tokenizer to which every word is unknown."""
    names = kind.vocab_files_names.values()
    present = [name for name in names if (place / name).is_file()]
    if not present:
        raise UserError(f"{place} lacks its vocabulary: none of {', '.join(names)} is there")
    if present == ["spiece.model"] and not is_sentencepiece_available():
        raise UserError(
            f"{place / 'spiece.model'} needs the package sentencepiece, which is not here (pip install "
            "sentencepiece); a tokenizer.json beside it would not"
        )
    refuse_code(place)
    with reading(f"{place} has", kind.__name__):
        tokenizer = kind.from_pretrained(place, trust_remote_code=False)
    if not isinstance(length := tokenizer.model_max_length, int) or length < 2:
        found = shown(length)
        raise UserError(f"{place}: model_max_length is {found}, not a whole number from 2 on (start and end)")
    return tokenizer
