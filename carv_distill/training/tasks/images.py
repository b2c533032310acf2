"""What tasks on a set of real images share: fit of teacher and data, and FID."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from carv_distill.data import ImageSet, in_memory, originals, to_uint8
from carv_distill.diffusion import Teacher
from carv_distill.errors import UserError
from carv_distill.evaluation.features import DigitsFeatures, FeatureExtractor, InceptionFeatures
from carv_distill.evaluation.report import Reference
from carv_distill.training.schemas import FIDOptions
from carv_distill.training.traces import FIDTrace

DIGITS_FEATURES = "checkpoints/digits-features"


def check_fit(teacher: Teacher, data: ImageSet, path: str) -> None:
    """Teacher and data must have one image shape, and the labels must be known to the teacher."""
    spec = data.spec
    if (teacher.channels, teacher.size) != (spec.channels, spec.size):
        raise UserError(
            f"teacher.path: {path} makes {teacher.channels}×{teacher.size}×{teacher.size} images, but data "
            f"{spec.name} has {spec.channels}×{spec.size}×{spec.size}"
        )
    if teacher.labels not in (0, spec.classes, spec.classes + 1):
        raise UserError(
            f"teacher.path: {path} has {teacher.labels} class embeddings, but data {spec.name} has "
            f"{spec.classes} classes (allowed: 0, {spec.classes}, or {spec.classes + 1} with a null label)"
        )


@dataclass
class FIDTools:
    """What an FID needs besides the generator."""

    extractor: FeatureExtractor
    reference: Reference

    @classmethod
    def load(cls, options: FIDOptions, data: ImageSet, device: str) -> FIDTools:
        """The configured features, and the reference: a file of statistics, or the data set itself.

        Reference and generated images go through the network on one device, in one arithmetic.
        """
        extractor: FeatureExtractor
        if options.features == "inception":
            extractor = InceptionFeatures(options.weights)
        else:
            extractor = DigitsFeatures(options.weights or DIGITS_FEATURES)
        extractor.to(device)
        if options.reference is not None:
            return cls(extractor, Reference.from_file(options.reference, extractor))
        return cls(
            extractor,
            Reference.from_images(data.spec.name, to_uint8(in_memory(originals(data)).images), extractor),
        )

    def trace(self, options: FIDOptions, data: ImageSet, folder: Path) -> FIDTrace:
        """The callback that measures FID of the module's samples and draws their grids."""
        tools = (data.spec, self.extractor, self.reference, folder / "samples")
        return FIDTrace(options.every, options.images, *tools)
