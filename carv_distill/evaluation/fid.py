"""Metrics between two sets of features: Fréchet distance, KID, precision, recall and copies.

KID, precision and recall are torch-fidelity's. The Fréchet distance is ours: torch-fidelity and torchmetrics
take the root of a product that is not symmetric, and singular where there are fewer images than features.
"""

import math
import re
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from carv_distill.errors import UserError, shown
from carv_distill.files import atomic_file

from .copies import copied_share

NEIGHBOURS = 3
KID_SUBSET_SIZE = 1000
ROUNDING = 1e-6
"""Of a covariance's entries beside its largest one: several times float32's."""
BLOCK = 4096
"""Rows of features that become float64 at a time."""


@dataclass(frozen=True)
class HeldOut:
    """What real images scored that the reference does not hold, as a data set's images to test by."""

    fid: float
    """Fréchet distance from the reference."""
    images: int
    """How many they are."""

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {"held_out": asdict(self)}


@dataclass(frozen=True, eq=False)
class FeatureStatistics:
    """Mean and covariance of features."""

    mu: Tensor
    """float64 [D]."""
    sigma: Tensor
    """float64 [D, D], with divisor N - 1."""
    held_out: HeldOut | None = None
    """Of other images of the same data, where that was measured."""

    @classmethod
    def from_features(cls, features: Tensor) -> Self:
        """mu = mean(f), sigma = sum (f - mu)(f - mu)^T / (N - 1) of features [N, D], N >= 2, in float64."""
        mu = features.mean(0, dtype=torch.float64)
        sigma = mu.new_zeros(len(mu), len(mu))
        for part in features.split(BLOCK):  # so that 50,000 float32 features are never copied as float64
            centred = part.double() - mu
            sigma += centred.T @ centred
        return cls(mu, sigma / (len(features) - 1))

    @classmethod
    def load(
        cls, path: Path | str, dim: int | None = None, size: int | None = None, fingerprint: str | None = None
    ) -> Self:
        """Read an `.npz` with `mu` and `sigma`, the format of EDM's reference statistics, and where it has
        them `held_out_fid` and `held_out_images`.

        Args:
            path: the file. Pickled arrays in it are refused, not executed.
            dim: D of the extractor that the statistics must fit; here and below, None accepts any.
            size: pixels along one side of the images that they must fit, by the key `size` or, in files
                without it, by a name as imagenet-64x64.npz.
            fingerprint: of the extractor that they must be by, where the file has the key `extractor`.

        Raises:
            UserError: no such file, or one that does not fit.
        """
        try:
            with np.load(path, allow_pickle=False) as file:
                keys = sorted(file.files)
                arrays = {key: file[key] for key in ("mu", "sigma") if key in keys}
                known = ("size", "extractor", "held_out_fid", "held_out_images")
                about = {key: file[key].item() for key in known if key in keys}
        except FileNotFoundError as error:
            raise UserError(f"{path}: no such file of reference statistics") from error
        # np.load gives a bare array, which is no context manager, for an .npy
        except (OSError, ValueError, EOFError, TypeError, zipfile.BadZipFile, zlib.error) as error:
            raise UserError(f"{path}: not an .npz of numbers with the keys mu and sigma") from error
        if len(arrays) < 2:
            raise UserError(f"{path}: found the keys {', '.join(keys)}; mu and sigma are needed")
        mu, sigma = arrays["mu"], arrays["sigma"]
        if mu.dtype.kind not in "fiu" or sigma.dtype.kind not in "fiu":
            raise UserError(f"{path}: found mu {mu.dtype} and sigma {sigma.dtype}; real numbers are needed")
        if mu.ndim != 1 or sigma.shape != (len(mu), len(mu)):
            raise UserError(f"{path}: found mu {mu.shape} and sigma {sigma.shape}; [D] and [D, D] are needed")
        if dim is not None and len(mu) != dim:
            raise UserError(f"{path}: statistics of {len(mu)} features; the feature extractor gives {dim}")
        if not (np.isfinite(mu).all() and np.isfinite(sigma).all()):
            raise UserError(f"{path}: mu or sigma holds NaN or infinity")
        _require_covariance(sigma, path)
        named = re.search(r"(\d+)x\1(?!\d)", Path(path).stem)
        of = about.get("size", int(named[1]) if named else size)
        if size is not None and of != size:
            raise UserError(f"{path}: statistics of {of}×{of} images; the data has {size}×{size}")
        by = about.get("extractor", fingerprint)
        if fingerprint is not None and by != fingerprint:
            raise UserError(f"{path}: statistics by the extractor {by}; fid.features gives {fingerprint}")
        mu, sigma = mu.astype(np.float64), sigma.astype(np.float64)
        return cls(torch.from_numpy(mu), torch.from_numpy(sigma), _held_out(about, path))

    def save(self, path: Path | str, **about: int | float | str) -> None:
        """Write `mu`, `sigma` and what else is said as an `.npz`, atomically; see :meth:`load`."""
        with atomic_file(path) as file:
            held_out = {} if self.held_out is None else asdict(self.held_out)
            about |= {f"held_out_{key}": value for key, value in held_out.items()}
            arrays: dict[str, Any] = {key: np.array(value) for key, value in about.items()}
            np.savez(file, mu=self.mu.cpu().numpy(), sigma=self.sigma.cpu().numpy(), **arrays)


def _held_out(about: Mapping[str, Any], path: Path | str) -> HeldOut | None:
    """What a file says of images held out; UserError where that is no distance of a number of images."""
    fid, images = about.get("held_out_fid"), about.get("held_out_images")
    if fid is None and images is None:
        return None
    if not isinstance(fid, float) or not math.isfinite(fid) or not isinstance(images, int) or images < 1:
        raise UserError(
            f"{path}: found held_out_fid {shown(fid)} and held_out_images {shown(images)}; a distance and a "
            "number of images are needed, or neither"
        )
    return HeldOut(fid, images)


def _require_covariance(sigma: np.ndarray, path: Path | str) -> None:
    """That it is symmetric without negative eigenvalues, to the rounding of float32 numbers.

    Raises:
        UserError: it is not, as an array of something else would not be, or a matrix cut to its triangle.
    """
    matrix = torch.from_numpy(sigma.astype(np.float64))
    scale = ROUNDING * matrix.abs().max()
    if (difference := (matrix - matrix.T).abs().max()) > scale:
        raise UserError(
            f"{path}: sigma is no covariance: it is not symmetric (σ_ij and σ_ji differ by {difference:.3g})"
        )
    least = torch.linalg.eigvalsh((matrix + matrix.T) / 2)[0]
    if least < -scale * math.sqrt(len(matrix)):
        raise UserError(f"{path}: sigma is no covariance: its least eigenvalue is {least:.3g}, below 0")


def frechet_distance(a: FeatureStatistics, b: FeatureStatistics) -> float:
    """|mu_a - mu_b|^2 + tr(sigma_a + sigma_b - 2 (sigma_a sigma_b)^(1/2)), in float64.

    The last trace is the sum of the square roots of the eigenvalues of S sigma_b S with S = sigma_a^(1/2),
    a symmetric problem that stays well posed for covariances of deficient rank (fewer images than features);
    eigenvalues that rounding made negative count as 0.

    Source: Dowson and Landau (1982); Heusel et al. (2017), FID.
    """
    values, vectors = torch.linalg.eigh(a.sigma)
    root = (vectors * values.clamp(min=0).sqrt()) @ vectors.T
    product = root @ b.sigma @ root
    product = (product + product.T) / 2
    cross = torch.linalg.eigvalsh(product).clamp(min=0).sqrt().sum()
    distance = (a.mu - b.mu).square().sum() + a.sigma.trace() + b.sigma.trace() - 2 * cross
    return distance.item()


@dataclass(frozen=True)
class Metrics:
    """What one set of generated images scored: against statistics alone, FID and nothing else."""

    fid: float
    """Fréchet distance, >= 0 up to rounding; lower is better."""
    kid: float | None
    """Squared maximum mean discrepancy, cubic kernel; for independent images unbiased, so it may fall below
    0. A set with each class equally often is not of independent ones: it pulls KID below 0."""
    precision: float | None
    """Share of generated images within the reference's manifold, 0..1."""
    recall: float | None
    """Share of reference images within the generated manifold, 0..1."""
    images: int
    """Number of generated images."""
    copied: float | None = None
    """Share of generated images nearer to one of the reference than 95 % of those are to any other of them,
    0..1; 0.05 by chance."""
    clip: float | None = None
    """CLIP score, 100 max(cos, 0), of images with prompts."""
    recognised: float | None = None
    """Share of images whose own prompt is the best match among all, 0..1."""


def kernel_distance(generated: Tensor, reference: Tensor, subsets: int = 100, seed: int = 2020) -> float:
    """KID (Binkowski et al., 2018) of features [N, D] and [M, D], by torch-fidelity: k(x, y) = (x·y/D + 1)^3.

    The mean over `subsets` seeded subsets of min(1000, N, M) images.
    """
    from torch_fidelity.metric_kid import KEY_METRIC_KID_MEAN, kid_features_to_metric

    size = min(KID_SUBSET_SIZE, len(generated), len(reference))
    if size == len(generated) == len(reference):
        subsets = 1  # every subset would be the whole set
    result = kid_features_to_metric(
        generated, reference, kid_subsets=subsets, kid_subset_size=size, rng_seed=seed, verbose=False
    )
    return result[KEY_METRIC_KID_MEAN]


def precision_recall(generated: Tensor, reference: Tensor) -> tuple[float, float]:
    """Improved precision and recall (Kynkäänniemi et al., 2019) of features [N, D] and [M, D], N, M >= 4.

    By torch-fidelity, with the third neighbour's distance as a ball's radius, and in blocks of 2,000 rows:
    the whole matrix of distances would take 20 GB for 50,000 images.
    """
    from torch_fidelity.metric_prc import KEY_METRIC_PRECISION, KEY_METRIC_RECALL, prc_features_to_metric

    result = prc_features_to_metric(
        generated,
        reference,
        prc_neighborhood=NEIGHBOURS,
        prc_batch_size=2000,
        save_cpu_ram=True,
        verbose=False,
    )
    return result[KEY_METRIC_PRECISION], result[KEY_METRIC_RECALL]


def compute_metrics(
    generated_features: Tensor,
    reference_features: Tensor | None = None,
    reference_statistics: FeatureStatistics | None = None,
    kid_subsets: int = 100,
) -> Metrics:
    """All the metrics that the reference allows.

    Args:
        generated_features: [N, D].
        reference_features: [M, D]; without them KID, precision and recall are None.
        reference_statistics: for the Fréchet distance; computed from `reference_features` if None.

    Raises:
        UserError: neither reference is given, or a set has fewer than 4 images.
    """
    for name, features in (("generated", generated_features), ("reference", reference_features)):
        if features is not None and len(features) <= NEIGHBOURS:
            least = NEIGHBOURS + 1
            raise UserError(f"{name} images: found {len(features)}; the metrics need at least {least}")
    if reference_statistics is None:
        if reference_features is None:
            raise UserError("reference: found neither features nor statistics; the metrics need one of them")
        reference_statistics = FeatureStatistics.from_features(reference_features)
    fid = frechet_distance(FeatureStatistics.from_features(generated_features), reference_statistics)
    kid = precision = recall = copied = None
    if reference_features is not None:
        generated_features, reference_features = generated_features.double(), reference_features.double()
        kid = kernel_distance(generated_features, reference_features, kid_subsets)
        precision, recall = precision_recall(generated_features, reference_features)
        copied = copied_share(generated_features, reference_features)
    return Metrics(fid, kid, precision, recall, len(generated_features), copied)
