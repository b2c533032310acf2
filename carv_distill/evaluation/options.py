"""What an FID is measured with."""

from __future__ import annotations

from dataclasses import dataclass

from carv_distill.options import at_least, one_of, place

FEATURES = ("digits", "classifier", "inception", "clip")
LABELS = ("random", "turn")


@dataclass
class FIDOptions:
    """The FID trace."""

    every: int = at_least(0, 50)
    """Updates between two measurements; 0 turns it off."""
    images: int = at_least(4, 1797)
    features: str = one_of(FEATURES, "digits")
    """Whose activations are compared: those of a small classifier (digits: the shipped one of digits), of
    Inception, or of a CLIP model."""
    weights: str | None = place(None, hub=True)
    """Folder of the classifier (empty: for digits the shipped one); file of the Inception weights (empty:
    torch hub's folder, if it is there); or folder or hub id of a CLIP model (empty: the shipped one)."""
    reference: str | None = place(None)
    """Statistics (.npz with mu, sigma), as evaluate.py reference keeps them; empty: the data set itself."""
    labels: str = one_of(LABELS, "random")
    """Label of seed i: drawn by the seed's own generator, as EDM does, or i mod classes in turn. In turn, all
    classes are equally many: FID is lower and steadier, and KID, whose estimate takes images to be
    independent, too low. Compare only what has labels alike."""
    sampler_steps: int = at_least(2, 18)
    """Heun steps when a teacher is sampled."""

    @property
    def shown(self) -> str:
        """The format of a run's own FID, which is of one range of seeds."""
        return f"FID {{:.2f}} of {self.images:,} images"
