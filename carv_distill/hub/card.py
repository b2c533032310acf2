"""The card of what is sent: the page of the product's folder, what its run says and what the hub reads."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml
from huggingface_hub import ModelCard, ModelCardData, hf_hub_url
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from carv_distill.errors import UserError, one_line
from carv_distill.model_card import CARD, THIS_FOLDER, THIS_PATH, table_rows
from carv_distill.report.files import RunFiles
from carv_distill.screen import duration

from .contents import SAMPLES
from .results import Result

FILM = "turntable.mp4"
_NO_HEAD = "---\n{}\n---\n\n"
_UPDATES = re.compile(r"^\| updates \| (\d+) \|$", re.MULTILINE)


@dataclass(frozen=True)
class Repository:
    """Where a product is sent."""

    name: str
    """user/name."""
    branch: str | None = None
    """None: main."""

    def __str__(self) -> str:
        return self.name if self.branch is None else f"{self.name}, branch {self.branch}"


def hub_card(
    run: RunFiles,
    product: Path,
    step: int | None,
    to: Repository,
    names: Collection[str],
    results: Sequence[Result],
    license: str | None = None,
) -> ModelCard:
    """The page of a product's folder, whose example and metadata are then those of a model on the hub.

    What the page's own head says stays, but for a licence that is given; what it lacks comes from the run.

    Args:
        step: the update that the product is of.
        names: of what is sent beside the card.

    Raises:
        UserError: the page is of another update, or its head is not what the hub reads.
    """
    card = _page(product / CARD, run.folder, step)
    data = card.data
    assert isinstance(data, ModelCardData)
    if license is not None:
        data.license = license
    # A mesh is no model that was tuned: the teacher's own page would list it as one.
    if data.get("base_model") is None and data.get("library_name") and (teacher := _hub_teacher(run)):
        data.base_model = teacher
    task = data.get("pipeline_tag")
    if results and task is not None and not data.get("eval_results"):
        data.model_name = data.get("model_name") or to.name.partition("/")[2]
        data.eval_results = [result.to_eval(task) for result in results]
    text = card.text
    for place in _places(run):
        text = text.replace(place, Path(place).name)
    text = text.replace(THIS_FOLDER, f'folder = "{to.name}"').replace(THIS_PATH, to.name)
    parts = [text.rstrip("\n"), *_of_files(to, names), *_of_run(run, results, text)]
    card.text = "\n\n".join(parts) + "\n"
    return card


def _page(page: Path, run: Path, step: int | None) -> ModelCard:
    """The folder's own page."""
    text = page.read_text(encoding="utf-8", errors="replace")
    if (said := _UPDATES.search(text)) and step is not None and int(said[1]) != step:
        raise UserError(
            f"{page} is of update {said[1]}, the newest part of the folder of update {step}: "
            f"python train.py --config {run / 'config.yaml'} --resume finishes it, "
            f"python evaluate.py export --run {run} makes it anew"
        )
    try:
        return ModelCard(text if text.startswith("---") else _NO_HEAD + text)
    except (KeyError, TypeError, ValueError, yaml.YAMLError) as error:
        raise UserError(f"{page}: its head is not what the hub reads ({one_line(error)})") from error


def _of_files(to: Repository, names: Collection[str]) -> list[str]:
    """The branch, and what there is to look at that the page does not show itself."""
    parts = []
    if to.branch is not None:
        parts.append(f'This is the branch `{to.branch}`: loading it takes `revision="{to.branch}"`.')
    if FILM in names:
        film = hf_hub_url(to.name, FILM, revision=to.branch)  # a page of the hub plays none by its name alone
        parts.append(f'<video src="{film}" controls loop muted></video>\n\n[{FILM}]({FILM})')
    if SAMPLES in names:
        parts.append(f"## Samples\n\n![Samples at the end of the run]({SAMPLES})")
    return parts


def _of_run(run: RunFiles, results: Sequence[Result], page: str) -> list[str]:
    """What was measured, and how it was made, as far as the page does not say it."""
    packages = run.environment.get("packages") or {}
    commit = (run.environment.get("git") or {}).get("commit")
    facts = {
        "task": run.task,
        "seed": str(run.option("seed")),
        "training": duration(run.seconds) if run.seconds else "?",
        "device": str(run.environment.get("device", "?")),
        "carv-distill": str(packages.get("carv-distill", "?"))
        + (f", commit {commit[:12]}" if commit else ""),
        "torch": str(packages.get("torch", "?")),
        "diffusers": str(packages.get("diffusers", "?")),
    }
    known = {k: value for k, value in facts.items() if value != "?" and not _has_row(page, k)}
    shown = [r for r in results if not (r.traced and _has_row(page, r.name))]
    parts = [_table("Measured", {r.name: r.text for r in shown})] if shown else []
    for setting, data in dict.fromkeys((r.setting, r.data) for r in shown):
        names = ", ".join(r.name for r in shown if (r.setting, r.data) == (setting, data))
        parts.append(f"{names}: {setting}; {data}.")
    return [*parts, _table("The run", known)]


def _table(title: str, rows: Mapping[str, str]) -> str:
    return f"## {title}\n\n| | |\n|---|---|\n{table_rows(rows)}"


def _has_row(page: str, name: str) -> bool:
    return f"\n| {name} |" in page


def _hub_teacher(run: RunFiles) -> str | None:
    """The run's teacher where it is a model of the hub: of a folder the run has kept a digest."""
    teacher, contents = run.option("teacher.path"), run.environment.get("contents")
    if not isinstance(teacher, str) or contents is None or "teacher.path" in contents or "/" not in teacher:
        return None
    try:
        validate_repo_id(teacher)
    except HFValidationError:
        return None
    return teacher


def _places(run: RunFiles) -> list[str]:
    """Folders and files of this machine that a page may name: from its root, the home folder, or upwards."""
    named = [run.option(key) for key in ("teacher.path", "data.path", "prompts.path")]
    places = [Path(place) for place in named if isinstance(place, str)]
    return [str(p) for p in places if p.is_absolute() or p.parts[:1] in (("~",), ("..",))]
