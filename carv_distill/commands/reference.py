"""evaluate.py reference: a data set's statistics, for FIDs against it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from carv_distill.data.options import CAPTIONED, DATA_SETS, DataOptions
from carv_distill.errors import UserError
from carv_distill.evaluation.options import FEATURES
from carv_distill.options import as_in, at_least, one_of, option

from .command import Command, CommonOptions, Measurement

if TYPE_CHECKING:
    from carv_distill.data.sets import ImageSet


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
    convert: str | None = as_in(DataOptions, "convert")
    """of images: rgb makes three channels of whatever a file holds, as data.convert does in a run"""
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
        given = {name: getattr(self, name) for name in ("size", "views", "convert")}
        return replace(options, **{name: value for name, value in given.items() if value is not None})

    def __post_init__(self) -> None:
        for name in ("size", "views", "convert"):
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
    from carv_distill.data.images import load_data
    from carv_distill.evaluation.features import load_extractor
    from carv_distill.evaluation.fid import FeatureStatistics, HeldOut, frechet_distance
    from carv_distill.evaluation.reference import Reference
    from carv_distill.processes import Processes
    from carv_distill.progress import progress

    o, out = options, options.out
    assert out is not None
    data = load_data(o.source)
    processes = Processes.launched(device)
    extractor = load_extractor(o.features, o.weights, key="--weights")
    extractor.to(processes.device)
    if not extractor.takes(data.spec):
        raise UserError(f"--features: {o.features} does not take the images of {data.spec.name}")
    test = None if o.source.test_half is None else load_data(o.source.test_half)

    def statistics_of(images: ImageSet, name: str) -> FeatureStatistics:
        with progress(name, len(images), processes.rank == 0) as advance:
            return Reference.from_set(
                images, extractor, processes, o.workers, advance, most_features=0
            ).statistics

    statistics = statistics_of(data, data.spec.name)
    of_test = None if test is None else statistics_of(test, f"{data.spec.name}, to test by")
    if processes.rank:
        return None
    shown = [f"statistics of {len(data):,} images, {extractor.name} features: {out}"]
    if test is not None and of_test is not None:
        floor = HeldOut(frechet_distance(of_test, statistics), len(test))
        statistics = replace(statistics, held_out=floor)
        shown.append(f"floor: FID {floor.fid:.3f} of the {floor.images:,} images to test by")
    about: dict[str, int | float | str] = {
        "images": len(data),
        "size": data.spec.size,
        "extractor": extractor.fingerprint,
    }
    statistics.save(out, **about)
    result = {"data": data.spec.name, "features": extractor.name, **about}
    return Measurement(shown, result | (statistics.held_out.to_dict() if statistics.held_out else {}))


REFERENCE = Command(
    "reference", "a data set's statistics, for FIDs against it", ReferenceOptions, _measure, shared=True
)
