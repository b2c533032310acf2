from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch_fidelity.metric_fid import KEY_METRIC_FID, fid_statistics_to_metric
from torch_fidelity.metric_prc import calculate_precision_recall_full

from carv_distill.data.digits import load_digits_images
from carv_distill.data.sets import to_uint8
from carv_distill.errors import UserError
from carv_distill.evaluation.classifier import ClassifierFeatures
from carv_distill.evaluation.copies import copied_share
from carv_distill.evaluation.fid import (
    FeatureStatistics,
    compute_metrics,
    frechet_distance,
    kernel_distance,
    precision_recall,
)
from tests.helpers.features import extract_features


def normal(n: int, dim: int, seed: int) -> Tensor:
    return torch.randn(n, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_statistics_divide_by_n_minus_one() -> None:
    features = normal(30, 4, 0) + 100
    statistics = FeatureStatistics.from_features(features)
    np.testing.assert_allclose(statistics.mu, features.numpy().mean(0))
    np.testing.assert_allclose(statistics.sigma, np.cov(features.numpy(), rowvar=False, ddof=1))
    assert FeatureStatistics.from_features(features.float()).sigma.dtype == torch.float64


def test_frechet_distance_of_commuting_gaussians() -> None:
    # one eigenbasis Q: d² = |Δμ|² + Σ (√a_i − √b_i)²
    basis = torch.linalg.qr(normal(6, 6, 1)).Q
    a, b = torch.rand(2, 6, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    delta = normal(1, 6, 3)[0]
    first = FeatureStatistics(delta, basis @ a.diag() @ basis.T)
    second = FeatureStatistics(torch.zeros_like(delta), basis @ b.diag() @ basis.T)
    expected = delta.square().sum() + (a.sqrt() - b.sqrt()).square().sum()
    assert frechet_distance(first, second) == pytest.approx(expected.item(), rel=1e-10)


def test_frechet_distance_of_two_by_two_gaussians_that_do_not_commute() -> None:
    # tr (AB)^(1/2) = sqrt(tr AB + 2 sqrt(det AB)) for 2x2
    a = torch.tensor([[2.0, 0.5], [0.5, 1.0]], dtype=torch.float64)
    b = torch.tensor([[1.0, -0.7], [-0.7, 3.0]], dtype=torch.float64)
    assert not torch.allclose(a @ b, b @ a)
    cross = ((a @ b).trace() + 2 * (a.det() * b.det()).sqrt()).sqrt()
    zero = torch.zeros(2, dtype=torch.float64)
    expected = (a.trace() + b.trace() - 2 * cross).item()
    distance = frechet_distance(FeatureStatistics(zero, a), FeatureStatistics(zero, b))
    assert distance == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize(("n", "tolerance"), [(400, 1e-8), (20, 1e-4)])
def test_frechet_distance_equals_torch_fidelity(n: int, tolerance: float) -> None:
    # 20 images of 64 features have covariances of rank 19
    mix = normal(64, 64, 4)
    first = FeatureStatistics.from_features(normal(n, 64, 5) @ mix)
    second = FeatureStatistics.from_features(normal(n, 64, 6) + 0.3)
    theirs = fid_statistics_to_metric(
        {"mu": first.mu.numpy(), "sigma": first.sigma.numpy()},
        {"mu": second.mu.numpy(), "sigma": second.sigma.numpy()},
        verbose=False,
    )[KEY_METRIC_FID]
    assert frechet_distance(first, second) == pytest.approx(theirs, rel=tolerance)
    assert frechet_distance(first, second) == pytest.approx(frechet_distance(second, first), rel=tolerance)


def test_frechet_distance_of_rank_deficient_statistics_to_themselves_is_zero() -> None:
    statistics = FeatureStatistics.from_features(normal(10, 200, 7))
    assert abs(frechet_distance(statistics, statistics)) < 1e-4 * statistics.sigma.trace().item()


def test_save_and_load(tmp_path: Path) -> None:
    statistics = FeatureStatistics.from_features(normal(50, 5, 8))
    statistics.save(tmp_path / "reference.npz")
    again = FeatureStatistics.load(tmp_path / "reference.npz", dim=5)
    assert torch.equal(statistics.mu, again.mu)
    assert torch.equal(statistics.sigma, again.sigma)
    assert [p.name for p in tmp_path.iterdir()] == ["reference.npz"]


@pytest.mark.parametrize(
    ("sigma", "message"),
    [
        (-np.eye(64), "its least eigenvalue is -1, below 0"),
        (np.triu(np.ones((64, 64))), "it is not symmetric"),
        (np.tril(np.ones((64, 64))), "it is not symmetric"),
        (np.diag([1.0] * 63 + [-0.01]), "its least eigenvalue is -0.01, below 0"),
        (np.ones((64, 64)) - np.eye(64), "its least eigenvalue is -1, below 0"),
        (np.random.default_rng(0).normal(size=(64, 64)), "it is not symmetric"),
        (-np.ones((64, 64), dtype=np.int8), "its least eigenvalue is -64, below 0"),
    ],
)
def test_a_sigma_that_is_no_covariance_is_refused(sigma: np.ndarray, message: str, tmp_path: Path) -> None:
    path = tmp_path / "reference.npz"
    np.savez(path, mu=np.zeros(64), sigma=sigma)
    with pytest.raises(UserError, match=rf"reference\.npz: sigma is no covariance: {message}") as caught:
        FeatureStatistics.load(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize(("images", "features"), [(10, 200), (500, 64), (4, 300)])
def test_covariances_of_any_rank_and_rounding_are_taken(
    dtype: type, images: int, features: int, tmp_path: Path
) -> None:
    """Fewer images than features leave eigenvalues of 0, which rounding makes negative."""
    statistics = FeatureStatistics.from_features(1e3 * normal(images, features, 1))
    sigma = statistics.sigma.numpy().astype(dtype)
    np.savez(tmp_path / "reference.npz", mu=statistics.mu.numpy(), sigma=sigma)
    FeatureStatistics.load(tmp_path / "reference.npz")
    np.savez(tmp_path / "zero.npz", mu=np.zeros(3), sigma=np.zeros((3, 3), dtype))
    FeatureStatistics.load(tmp_path / "zero.npz")


def test_load_refuses_what_does_not_fit(tmp_path: Path) -> None:
    path = tmp_path / "reference.npz"
    with pytest.raises(UserError, match="no such file"):
        FeatureStatistics.load(path)
    mu, sigma = np.zeros(3), np.eye(3)
    wrong: list[tuple[dict[str, np.ndarray], str]] = [
        ({"mean": mu, "sigma": sigma}, "found the keys mean, sigma; mu and sigma are needed"),
        ({"mu": mu, "sigma": np.eye(4)}, r"\[D\] and \[D, D\]"),
        ({"mu": sigma, "sigma": sigma}, r"\[D\] and \[D, D\]"),
        ({"mu": mu * np.nan, "sigma": sigma}, "NaN or infinity"),
        ({"mu": mu.astype(str), "sigma": sigma}, "real numbers are needed"),
        ({"mu": np.array([{}, {}, {}]), "sigma": sigma}, r"not an \.npz of numbers"),
    ]
    for arrays, message in wrong:
        np.savez(path, **arrays)  # type: ignore[arg-type]
        with pytest.raises(UserError, match=message):
            FeatureStatistics.load(path)
    np.savez(path, mu=mu, sigma=sigma)
    with pytest.raises(UserError, match="statistics of 3 features; the feature extractor gives 64"):
        FeatureStatistics.load(path, dim=64)
    whole = path.read_bytes()
    for content in (b"", b"text", whole[: len(whole) // 2]):
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"not an \.npz"):
            FeatureStatistics.load(path)
    with path.open("wb") as file:
        np.save(file, mu)
    with pytest.raises(UserError, match=r"not an \.npz"):
        FeatureStatistics.load(path)


def test_kid_is_unbiased_and_grows_with_a_shift() -> None:
    # the mean over disjoint pairs of sets from one law is zero within its standard error
    values = torch.tensor(
        [kernel_distance(normal(100, 8, 2 * s), normal(100, 8, 2 * s + 1)) for s in range(40)]
    )
    error = values.std() / len(values) ** 0.5
    assert abs(values.mean()) < 4 * error
    assert kernel_distance(normal(100, 8, 0), normal(100, 8, 1) + 1) > values.max()


def test_kid_is_seeded_and_takes_the_smaller_set() -> None:
    small, large = normal(40, 8, 0), normal(90, 8, 1)
    assert kernel_distance(small, large, 5) == kernel_distance(small, large, 5)
    assert kernel_distance(small, large, 5) != kernel_distance(small, large, 5, seed=1)


def test_precision_is_about_generated_and_recall_about_reference_images() -> None:
    reference = normal(500, 2, 0)
    narrow = 0.1 * normal(500, 2, 1)
    precision, recall = precision_recall(narrow, reference)
    assert precision > 0.95
    assert recall < 0.2
    assert precision_recall(reference, narrow) == pytest.approx((recall, precision))
    # in blocks or whole, the same
    assert precision_recall(normal(2100, 2, 2), reference) == pytest.approx(
        calculate_precision_recall_full(normal(2100, 2, 2), reference)
    )


def test_compute_metrics_with_features_and_with_statistics_alone() -> None:
    generated, reference = normal(60, 4, 0), normal(80, 4, 1)
    full = compute_metrics(generated, reference)
    alone = compute_metrics(generated, reference_statistics=FeatureStatistics.from_features(reference))
    assert full.fid == alone.fid
    assert full.images == alone.images == 60
    assert full.kid == kernel_distance(generated, reference)
    assert (full.precision, full.recall) == precision_recall(generated, reference)
    assert full.copied == copied_share(generated, reference)
    assert (alone.kid, alone.precision, alone.recall, alone.copied) == (None, None, None, None)


def test_compute_metrics_refuses_too_little() -> None:
    with pytest.raises(UserError, match="neither features nor statistics"):
        compute_metrics(normal(10, 4, 0))
    with pytest.raises(UserError, match="generated images: found 3; the metrics need at least 4"):
        compute_metrics(normal(3, 4, 0), normal(10, 4, 1))
    with pytest.raises(UserError, match="reference images: found 2"):
        compute_metrics(normal(10, 4, 0), normal(2, 4, 1))


def test_real_digits_are_nearer_to_digits_than_noise_is(digits_features: ClassifierFeatures) -> None:
    images = to_uint8(load_digits_images().images)
    generator = torch.Generator().manual_seed(0)
    features = extract_features(digits_features, images)
    first, second = features[torch.randperm(len(images), generator=generator)].chunk(2)
    noise = torch.randint(256, (900, 1, 8, 8), generator=generator, dtype=torch.uint8)
    half = compute_metrics(first, second, kid_subsets=5)
    random = compute_metrics(extract_features(digits_features, noise), features, kid_subsets=5)
    assert random.fid > 20 * half.fid
    assert random.kid is not None
    assert half.kid is not None
    assert random.kid > 20 * abs(half.kid)
    assert half.precision is not None
    assert half.recall is not None
    assert min(half.precision, half.recall) > 0.8
    assert random.recall is not None
    assert random.recall < 0.1
