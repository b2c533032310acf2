"""evaluate.py reference: a data set's statistics, for FIDs against it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from carv_distill.data.options import CAPTIONED, DATA_SETS, DataOptions
from carv_distill.errors import UserError
from carv_distill.evaluation.options import FEATURES
from carv_distill.options import as_in, at_least, one_of, option

from .command import Command, CommonOptions, Measurement


@dataclass(frozen=True, kw_only=True)
class ReferenceOptions(CommonOptions):
    """What `evaluate.py reference` is told."""

    data: str = one_of((*DATA_SETS, *CAPTIONED))
    """the data set"""
    path: str | None = option(None, metavar="FOLDER")
    """its folder or zip, where it needs one"""
    size: int | None = as_in(DataOptions, "size")
    """pixels along one side, of pictures with captions; those of files have any, and need it"""
    views: int | None = as_in(DataOptions, "views")
    """of shapes: cameras of each object"""
    features: str = one_of(FEATURES, "inception")
    """of the statistics"""
    weights: str | None = None
    """classifier folder, Inception weights file, or CLIP folder"""
    workers: int = at_least(0, 2)
    """processes that decode files"""

    @property
    def source(self) -> DataOptions:
        """Labels do not matter here, and a file without them is as good."""
        labels = self.data in CAPTIONED
        options = DataOptions(self.data, self.path, labels=labels, workers=self.workers)
        given = {name: getattr(self, name) for name in ("size", "views")}
        return replace(options, **{name: value for name, value in given.items() if value is not None})

    def __post_init__(self) -> None:
        for name in ("size", "views"):
            knows = {**DATA_SETS, **CAPTIONED}[self.data].options
            if getattr(self, name) is not None and name not in knows:
                raise UserError(f"--{name}: {getattr(self, name)} is given, but {self.data} has none")
        if self.data in CAPTIONED:
            self.source.require_captioned()
        else:
            self.source.require_labelled()
        if self.data == "captioned" and self.size is None:
            raise UserError(
                "--size: captioned pictures have any size, and statistics are of one; give that of the "
                "pictures that they are for, as --size 512"
            )
        if self.out is not None and self.out.suffix != ".npz":
            raise UserError(f"--out: {self.out} must end in .npz; that is what statistics are kept in")


def _measure(options: ReferenceOptions, runs: list[Path], device: str) -> Measurement | None:
    from rich.console import Console
    from rich.progress import Progress

    from carv_distill.data.images import load_data
    from carv_distill.evaluation.features import load_extractor
    from carv_distill.evaluation.reference import Reference
    from carv_distill.processes import Processes

    o, out = options, options.out
    assert out is not None
    data = load_data(o.source)
    processes = Processes.launched(device)
    extractor = load_extractor(o.features, o.weights, key="--weights")
    extractor.to(processes.device)
    if not extractor.takes(data.spec):
        raise UserError(f"--features: {o.features} does not take the images of {data.spec.name}")
    with Progress(console=Console(stderr=True), disable=processes.rank > 0) as bar:
        task = bar.add_task(data.spec.name, total=len(data))
        reference = Reference.from_set(
            data, extractor, processes, o.workers, lambda count: bar.advance(task, count), most_features=0
        )
    if processes.rank:
        return None
    about: dict[str, int | str] = {
        "images": len(data),
        "size": data.spec.size,
        "extractor": extractor.fingerprint,
    }
    reference.statistics.save(out, **about)
    shown = f"statistics of {len(data):,} images, {extractor.name} features: {out}"
    return Measurement([shown], {"data": data.spec.name, "features": extractor.name, **about})


REFERENCE = Command("reference", "a data set's statistics, for FIDs against it", ReferenceOptions, _measure)
