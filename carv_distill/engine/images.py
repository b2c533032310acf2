"""What tasks on a set of real images share: fit of teacher and data, and FID."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from carv_distill.data.sets import originals
from carv_distill.data.spec import ImageSet
from carv_distill.errors import UserError
from carv_distill.evaluation.extractors import load_extractor
from carv_distill.evaluation.features import FeatureExtractor
from carv_distill.evaluation.options import FIDOptions
from carv_distill.evaluation.reference import Reference
from carv_distill.processes import Processes
from carv_distill.teachers.teacher import Teacher

from .fid_trace import FIDTrace
from .options import ImageConfig


def check_fit(teacher: Teacher, data: ImageSet, path: str) -> None:
    """Teacher and data must have one image shape, and the labels must be known to the teacher."""
    spec = data.spec
    if (teacher.channels, teacher.size) != (spec.channels, spec.size):
        raise UserError(
            f"teacher.path: {path} makes {teacher.channels}×{teacher.size}×{teacher.size} images, but data "
            f"{spec.name} has {spec.channels}×{spec.size}×{spec.size}"
        )
    if teacher.labels and not spec.classes:
        raise UserError(
            f"teacher.path: {path} has {teacher.labels} class embeddings, but the images of {spec.name} have "
            "no labels (data.labels: false, or null in dataset.json); an unconditional teacher fits"
        )
    if teacher.labels not in (0, spec.classes, spec.classes + 1):
        raise UserError(
            f"teacher.path: {path} has {teacher.labels} class embeddings, but data {spec.name} has "
            f"{spec.classes} classes (allowed: 0, {spec.classes}, or {spec.classes + 1} with a null label)"
        )


@dataclass
class FIDTools:
    """What an FID needs besides the generator."""

    options: FIDOptions
    extractor: FeatureExtractor
    data: ImageSet
    """What generators are measured against: no mirror images."""
    workers: int
    published: Reference | None
    """Statistics from a file."""

    @classmethod
    def load(cls, config: ImageConfig, data: ImageSet, device: str) -> FIDTools:
        """The configured features, and the statistics where there is a file of them.

        Raises:
            UserError: weights or statistics are missing or damaged, or do not fit the data or each other.
        """
        options, data = config.fid, originals(data)
        extractor = load_extractor(options.features, options.weights)
        extractor.to(device)
        if not extractor.takes(data.spec):
            c, s = data.spec.channels, data.spec.size
            raise UserError(
                f"fid.features: {options.features} does not take the {c}×{s}×{s} images of {data.spec.name}; "
                "allowed for them: inception, clip"
            )
        published = None
        if options.reference is not None:
            published = Reference.from_file(options.reference, extractor, data.spec.size)
        return cls(options, extractor, data, config.data.workers, published)

    def reference(self, processes: Processes) -> Reference:
        """The file of statistics, or the data set itself.

        Reference and generated images go through the network on one device, in one arithmetic.
        """
        if self.published is not None:
            return self.published
        return Reference.from_set(self.data, self.extractor, processes, self.workers)

    def trace(self, folder: Path) -> FIDTrace:
        """The callback that measures FID of the module's samples and draws their grids."""
        o, spec = self.options, self.data.spec
        return FIDTrace(o.every, o.images, spec, self.extractor, self.reference, folder / "samples", o.labels)
