import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from carv_distill.data.digits import load_digits_images
from carv_distill.evaluation.classifier import Classifier, ClassifierFeatures
from carv_distill.teacher_training.classifier import main, random_shift, train_classifier
from tests.helpers.fashion_files import save_fashion_mnist


def test_shapes_and_input_scaling() -> None:
    torch.manual_seed(0)
    network = Classifier()
    images = torch.randint(256, (5, 1, 8, 8), dtype=torch.uint8)
    assert network.features(images).shape == (5, 64)
    assert network(images).shape == (5, 10)
    assert torch.equal(network(images), network(images.float()))


def test_random_shift_moves_by_at_most_one_pixel() -> None:
    images = torch.zeros(2000, 1, 8, 8)
    images[:, 0, 3, 4] = 1
    where = random_shift(images, torch.Generator().manual_seed(0)).nonzero()
    rows, columns = where[:, 2], where[:, 3]
    assert len(where) == 2000
    assert rows.unique().tolist() == [2, 3, 4]
    assert columns.unique().tolist() == [3, 4, 5]
    still = ((rows == 3) & (columns == 4)).double().mean()
    # 1/2 + 1/2 · 1/9 = 0.556, standard error 0.011
    assert abs(still - 5 / 9) < 0.044


def test_training_is_a_function_of_the_seed_and_leaves_the_random_state_alone() -> None:
    data = load_digits_images()
    state = torch.random.get_rng_state()
    first, outcome = train_classifier(data, seed=3, epochs=2)
    torch.manual_seed(99)
    second, again = train_classifier(data, seed=3, epochs=2)
    other, _ = train_classifier(data, seed=4, epochs=2)
    for key, value in first.state_dict().items():
        assert torch.equal(value, second.state_dict()[key])
    assert not torch.equal(first.head.weight, other.head.weight)
    assert outcome.accuracy == again.accuracy
    assert outcome.train + outcome.held_out == len(data)
    torch.random.set_rng_state(state)
    train_classifier(data, seed=3, epochs=1)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_main_writes_weights_config_and_card(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["--data", "digits", "--out", str(tmp_path / "net"), "--epochs", "3"])
    config = json.loads((tmp_path / "net/config.json").read_text())
    card = (tmp_path / "net/README.md").read_text()
    network = Classifier()
    network.load_state_dict(load_file(tmp_path / "net/model.safetensors"))
    # three epochs are enough to tell digits apart, chance is 10 %
    assert config["accuracy"] > 0.7
    assert f"{config['accuracy']:.2%}" in card
    assert "--epochs 3" in card
    assert f"{config['accuracy']:.2%}" in capsys.readouterr().out
    assert sorted(p.name for p in (tmp_path / "net").iterdir()) == [
        "README.md",
        "SHA256SUMS",
        "config.json",
        "model.safetensors",
    ]


def test_a_set_with_a_half_to_test_by_holds_that_out(tmp_path: Path) -> None:
    save_fashion_mnist(tmp_path)
    out, path = tmp_path / "net", str(tmp_path)
    words = ["--data", "fashion_mnist", "--path", path, "--out", str(out), "--epochs", "1", "--batch", "20"]
    assert main(words) == 0
    config, card = json.loads((out / "config.json").read_text()), (out / "README.md").read_text()
    assert (config["train"], config["held_out"]) == (40, 20)
    assert "--data fashion_mnist" in card
    assert "split at random" not in card
    assert ClassifierFeatures(out).shape == (1, 32, 32)


def test_files_that_are_missing_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    where = ["--path", str(tmp_path), "--out", str(tmp_path / "net")]
    assert main(["--data", "fashion_mnist", *where]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: --path: neither ")
    assert said.count("\n") == 1
    assert not (tmp_path / "net").exists()


def test_no_epochs_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--data", "digits", "--out", str(tmp_path), "--epochs", "0"]) == 2
    assert capsys.readouterr().err == "error: --epochs 0, --batch 64: both must be at least 1\n"
