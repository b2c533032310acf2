"""A classifier's features: its sizes are read off its weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from carv_distill.data.sets import ImageSpec
from carv_distill.errors import UserError
from carv_distill.evaluation.classifier import WEIGHTS, Classifier, ClassifierFeatures
from carv_distill.evaluation.features import load_extractor


@pytest.mark.parametrize(
    ("shape", "channels", "dim", "classes"),
    [((1, 32, 32), (4, 6, 8), 5, 10), ((3, 16, 16), (4,), 7, 2), ((1, 28, 28), (3, 2), 4, 3)],
)
def test_any_network_comes_back_from_its_weights(
    shape: tuple[int, int, int], channels: tuple[int, ...], dim: int, classes: int, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    network = Classifier(shape, channels, dim, classes)
    save_file(network.state_dict(), tmp_path / WEIGHTS)
    images = torch.randint(256, (3, *shape), dtype=torch.uint8)
    extractor = load_extractor("classifier", str(tmp_path))
    assert (extractor.name, extractor.dim) == ("classifier", dim)
    assert torch.equal(extractor(images), network.features(images).detach())
    assert network(images).shape == (3, classes)
    assert extractor.takes(ImageSpec("x", shape[0], shape[1], classes))
    assert not extractor.takes(ImageSpec("x", shape[0], 2 * shape[1], classes))


@pytest.mark.parametrize(
    "change",
    [
        {"penultimate.weight": torch.zeros(4)},
        {"penultimate.weight": torch.zeros(4, 10)},
        {"conv1.weight": torch.zeros(4)},
        {"conv1.weight": torch.zeros(0, 1, 3, 3)},
        {"head.weight": None},
        {"conv1.weight": None},
        {"conv2.bias": None},
        {"other": torch.zeros(1)},
    ],
)
def test_other_networks_are_refused(change: dict[str, torch.Tensor | None], tmp_path: Path) -> None:
    state = Classifier((1, 8, 8), (2, 2), 4).state_dict() | change
    save_file({key: value for key, value in state.items() if value is not None}, tmp_path / WEIGHTS)
    said = r"model\.safetensors: not the weights of a Classifier .*; make them: python -m"
    with pytest.raises(UserError, match=said) as caught:
        ClassifierFeatures(tmp_path)
    assert "\n" not in str(caught.value)


def test_the_folder_must_be_given() -> None:
    with pytest.raises(UserError, match=r"fid\.weights: features classifier need the folder of one; python"):
        load_extractor("classifier")
