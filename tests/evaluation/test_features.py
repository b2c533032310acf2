import hashlib
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from carv_distill.data.digits import load_digits_images
from carv_distill.data.sets import to_uint8
from carv_distill.errors import UserError
from carv_distill.evaluation.classifier import Classifier, ClassifierFeatures
from carv_distill.evaluation.features import INCEPTION_FILE, InceptionFeatures
from carv_distill.evaluation.fid import compute_metrics
from tests.helpers.features import extract_features
from tests.helpers.small import DIGITS_FEATURES


def test_digits_features_are_the_shipped_networks(digits_features: ClassifierFeatures) -> None:
    images = to_uint8(load_digits_images().images)[:20]
    network = Classifier()
    network.load_state_dict(load_file(DIGITS_FEATURES / "model.safetensors"))
    features = digits_features(images)
    assert features.shape == (20, digits_features.dim)
    torch.testing.assert_close(features, network.features(images).detach())
    assert not features.requires_grad
    digest = hashlib.sha256((DIGITS_FEATURES / "model.safetensors").read_bytes()).hexdigest()
    assert digits_features.fingerprint == digest[:16]


def test_shipped_network_knows_the_digits() -> None:
    data = load_digits_images()
    network = Classifier()
    network.load_state_dict(load_file(DIGITS_FEATURES / "model.safetensors"))
    assert (network(to_uint8(data.images)).argmax(1) == data.labels).double().mean() > 0.98
    # every feature varies over the digits, or the Fréchet distance would be blind along it
    assert network.features(to_uint8(data.images)).std(0).min() > 0.05


def test_loading_leaves_the_random_state_alone() -> None:
    state = torch.random.get_rng_state()
    ClassifierFeatures(DIGITS_FEATURES)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_autocast_does_not_reach_the_features(digits_features: ClassifierFeatures) -> None:
    images = to_uint8(load_digits_images().images)[:20]
    plain = digits_features(images)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = digits_features(images)
    assert mixed.dtype == torch.float32
    assert torch.equal(plain, mixed)


@pytest.mark.parametrize(
    "images",
    [
        torch.zeros(2, 3, 8, 8, dtype=torch.uint8),
        torch.zeros(2, 1, 32, 32, dtype=torch.uint8),
        torch.zeros(2, 1, 8, 8),
        torch.zeros(1, 8, 8, dtype=torch.uint8),
    ],
)
def test_digits_features_refuse_other_images(
    digits_features: ClassifierFeatures, images: torch.Tensor
) -> None:
    with pytest.raises(UserError, match=r"takes uint8 \[n, 1, 8, 8\]"):
        digits_features(images)


def test_digits_features_refuse_missing_corrupt_and_foreign_weights(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nowhere.*cannot read the weights"):
        ClassifierFeatures(tmp_path / "nowhere")
    path = tmp_path / "model.safetensors"
    path.write_bytes((DIGITS_FEATURES / "model.safetensors").read_bytes()[:-100])
    with pytest.raises(UserError, match=r"model\.safetensors: not the weights of a Classifier"):
        ClassifierFeatures(tmp_path)
    state = load_file(DIGITS_FEATURES / "model.safetensors")
    del state["head.bias"]
    save_file(state, path)
    with pytest.raises(UserError, match=r"head\.bias") as caught:
        ClassifierFeatures(tmp_path)
    assert "\n" not in str(caught.value)


class Malice:
    """Unpickling this makes a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.folder),)


def test_inception_refuses_a_malicious_pickle_without_running_it(tmp_path: Path) -> None:
    marker, path = tmp_path / "it-ran", tmp_path / "weights.pth"
    torch.save({"fc.weight": Malice(marker)}, path)
    with pytest.raises(UserError, match="weights_only=True"):
        InceptionFeatures(path)
    assert not marker.exists()
    # the pickle is live: the loader that torch-fidelity would have used runs it
    torch.load(path, weights_only=False)
    assert marker.exists()


def test_inception_refuses_garbage_missing_files_and_foreign_tensors(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    for content in (b"", b"not a checkpoint", b"PK\x03\x04" + b"x" * 500):
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"weights\.pth: torch\.load"):
            InceptionFeatures(path)
    torch.save([torch.zeros(2)], path)
    with pytest.raises(UserError, match="found list, expected a state dict"):
        InceptionFeatures(path)
    torch.save({"fc.weight": torch.zeros(1008, 2048)}, path)
    with pytest.raises(UserError, match=r"not the weights of Inception-v3.*Missing key") as caught:
        InceptionFeatures(path)
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match=r"absent\.pth: cannot read.*give its path as fid\.inception"):
        InceptionFeatures(tmp_path / "absent.pth", key="fid.inception")


def test_inception_without_a_path_never_downloads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))

    def download(*args: Any, **kwargs: Any) -> None:
        pytest.fail("tried to download")

    monkeypatch.setattr("torch.hub.load_state_dict_from_url", download)
    monkeypatch.setattr("torch_fidelity.feature_extractor_inceptionv3.load_state_dict_from_url", download)
    with pytest.raises(UserError, match=f"checkpoints/{INCEPTION_FILE}: cannot read"):
        InceptionFeatures()


def random_inception(monkeypatch: pytest.MonkeyPatch) -> Any:
    """torch-fidelity's network with initial weights."""
    from torch_fidelity import feature_extractor_inceptionv3 as upstream

    with monkeypatch.context() as patch:
        patch.setattr(upstream, "load_state_dict_from_url", lambda *args, **kwargs: {})
        patch.setattr(upstream.FeatureExtractorInceptionV3, "load_state_dict", lambda *args: None)
        torch.manual_seed(0)
        return upstream.FeatureExtractorInceptionV3("inception-v3-compat", ["2048"])


@pytest.mark.slow
def test_metrics_equal_torch_fidelitys(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """FID, KID, precision and recall of 24 images against 30, from the images on."""
    from torch_fidelity import calculate_metrics

    path = tmp_path / "weights.pth"
    torch.save(random_inception(monkeypatch).state_dict(), path)
    g = torch.Generator().manual_seed(1)
    made, real = (torch.randint(256, (n, 3, 32, 32), generator=g, dtype=torch.uint8) for n in (24, 30))
    made //= 2
    extractor = InceptionFeatures(path)
    assert f"{hashlib.sha256(path.read_bytes()).hexdigest()}, that of the published" in caplog.text
    ours = compute_metrics(
        extract_features(extractor, made), extract_features(extractor, real), kid_subsets=7
    )
    theirs = calculate_metrics(
        input1=Images(made), input2=Images(real), cuda=False, fid=True, kid=True, prc=True, verbose=False,
        feature_extractor="inception-v3-compat", feature_extractor_weights_path=str(path), cache=False,
        feature_layer_fid="2048", feature_layer_kid="2048", feature_layer_prc="2048", kid_subsets=7,
        kid_subset_size=24, batch_size=16,
    )  # fmt: skip
    assert ours.fid == pytest.approx(theirs["frechet_inception_distance"], rel=1e-3)
    assert ours.kid == pytest.approx(theirs["kernel_inception_distance_mean"], rel=1e-3)
    assert ours.precision == pytest.approx(theirs["precision"], abs=1e-3)
    assert ours.recall == pytest.approx(theirs["recall"], abs=1e-3)


class Images(torch.utils.data.Dataset[torch.Tensor]):
    """Bytes as torch-fidelity takes them."""

    def __init__(self, images: torch.Tensor) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, number: int) -> torch.Tensor:
        return self.images[number]


@pytest.mark.slow
def test_inception_of_random_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network = random_inception(monkeypatch)
    # in the place where torch hub would keep it, so that no path is needed either
    path = tmp_path / "checkpoints" / INCEPTION_FILE
    path.parent.mkdir()
    torch.save(network.state_dict(), path)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    state = torch.random.get_rng_state()
    extractor = InceptionFeatures()
    assert torch.equal(torch.random.get_rng_state(), state)
    assert extractor.fingerprint == hashlib.sha256(path.read_bytes()).hexdigest()[:16]

    colour = torch.randint(256, (2, 3, 8, 8), dtype=torch.uint8)
    features = extractor(colour)
    assert features.shape == (2, extractor.dim)
    assert torch.equal(features, network(colour)[0])
    assert not torch.equal(features[0], features[1])
    grey = colour[:, :1]
    assert torch.equal(extractor(grey), network(grey.repeat(1, 3, 1, 1))[0])
    with pytest.raises(UserError, match=r"takes uint8 \[n, 1 or 3, H, W\]"):
        extractor(colour[:, :2])

    missing = network.state_dict()
    del missing["fc.bias"]
    torch.save(missing, path)
    with pytest.raises(UserError, match=r"Missing key.*fc\.bias"):
        InceptionFeatures(path)
