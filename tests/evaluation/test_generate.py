import pytest
import torch
from torch import Tensor

from carv_distill.data.digits import DIGITS
from carv_distill.data.sets import to_uint8
from carv_distill.errors import UserError
from carv_distill.evaluation.classifier import ClassifierFeatures
from carv_distill.evaluation.generate import generate_uint8, generated_features, image_latents
from carv_distill.processes import Processes


def elementwise(z: Tensor, labels: Tensor) -> Tensor:
    return torch.tanh(z + 0.1 * labels[:, None, None, None])


def test_an_image_is_its_own_seeds() -> None:
    latents, labels = image_latents(range(100), (1, 8, 8), 10)
    assert latents.dtype == torch.float32
    assert labels.dtype == torch.int64
    for seed in (0, 41, 99):
        alone, _ = image_latents([seed], (1, 8, 8), 10)
        label = image_latents([seed], (1, 8, 8), 10, "turn")[1]
        generator = torch.Generator().manual_seed(seed)
        assert torch.equal(alone[0], latents[seed])
        assert torch.equal(alone[0], torch.randn(1, 8, 8, generator=generator))
        assert label == seed % 10
        assert torch.randint(10, (), generator=generator) == labels[seed]


def test_latents_are_standard_normal_and_labels_in_turn_balanced() -> None:
    latents, labels = image_latents(range(4000), (1, 8, 8), 10, "turn")
    # 256,000 numbers: standard errors 0.0020 of the mean, 0.0014 of the deviation
    assert abs(latents.mean()) < 0.008
    assert abs(latents.std() - 1) < 0.006
    # neighbouring seeds must not give related images: standard error 0.0020
    assert abs((latents[1:] * latents[:-1]).mean()) < 0.008
    assert labels.bincount(minlength=10).tolist() == [400] * 10


def test_latents_do_not_depend_on_classes_or_on_the_global_state() -> None:
    torch.manual_seed(5)
    state = torch.random.get_rng_state()
    with_labels, _ = image_latents(range(10), (3, 4, 4), 10)
    without, zeros = image_latents(range(10), (3, 4, 4), 0)
    assert torch.equal(with_labels, without)
    assert zeros.tolist() == [0] * 10
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.parametrize("batch_size", [1, 7, 64])
def test_images_do_not_depend_on_the_batch_size(batch_size: int) -> None:
    batches = [range(i, min(i + batch_size, 50)) for i in range(0, 50, batch_size)]
    images = torch.cat([generate_uint8(elementwise, batch, DIGITS) for batch in batches])
    assert torch.equal(images, to_uint8(elementwise(*image_latents(range(50), DIGITS.shape, 10))))


@pytest.mark.parametrize("batch_size", [1, 7, 64])
def test_features_are_those_of_the_images(batch_size: int, digits_features: ClassifierFeatures) -> None:
    counts: list[int] = []
    features = generated_features(
        elementwise, range(20), DIGITS, digits_features, batch_size, progress=counts.append
    )
    assert sum(counts) == 20
    assert max(counts) == min(batch_size, 20)
    # float32 convolutions of another batch size differ in the last bits; features are of order 10
    whole = digits_features(generate_uint8(elementwise, range(20), DIGITS))
    torch.testing.assert_close(features, whole, rtol=0, atol=1e-4)


def test_two_processes_make_what_one_does() -> None:
    whole = generate_uint8(elementwise, range(20), DIGITS)
    shares = [generate_uint8(elementwise, range(rank, 20, 2), DIGITS) for rank in range(2)]
    assert torch.equal(torch.stack(shares, 1).flatten(0, 1), whole)


def test_no_gradient_is_recorded() -> None:
    weight = torch.ones((), requires_grad=True)
    seen: list[bool] = []

    def sample(z: Tensor, labels: Tensor) -> Tensor:
        images = weight * z
        seen.append(images.requires_grad)
        return images

    generate_uint8(sample, range(4), DIGITS)
    assert seen == [False]


def test_a_failing_generator_is_named() -> None:
    with pytest.raises(UserError, match="NaN or infinity in the images of seeds 8 to 9"):
        generate_uint8(lambda z, labels: z / (labels != labels[-1])[:, None, None, None], [8, 9], DIGITS)
    with pytest.raises(UserError, match=r"found images \[2, 1, 4, 4\]; digits has \[2, 1, 8, 8\]"):
        generate_uint8(lambda z, labels: z[..., :4, :4], [0, 1], DIGITS)


def test_random_labels_are_drawn_after_the_latent() -> None:
    """As EDM's StackedRandomGenerator: one generator per seed, randn and then randint."""
    turn, _ = image_latents(range(50), (1, 4, 4), 10, "turn")
    latents, labels = image_latents(range(50), (1, 4, 4), 10)
    assert torch.equal(latents, turn)
    for seed in range(50):
        generator = torch.Generator().manual_seed(seed)
        torch.randn(1, 4, 4, generator=generator)
        assert labels[seed] == torch.randint(10, (), generator=generator)
    assert image_latents(range(5), (1, 4, 4), 0, "random")[1].tolist() == [0] * 5
    seen: list[Tensor] = []

    def sample(z: Tensor, y: Tensor) -> Tensor:
        seen.append(y)
        return z

    generate_uint8(sample, range(8), DIGITS)
    assert torch.equal(seen[0], image_latents(range(8), DIGITS.shape, 10, "random")[1])


@pytest.mark.parametrize(("count", "calls"), [(600, 2), (200, 1), (512, 1)])
def test_every_process_calls_a_generator_as_often(
    count: int, calls: int, digits_features: ClassifierFeatures
) -> None:
    """Three batches of two processes, one, two: a sharded generator needs both in every call."""

    class Alone(Processes):
        def join(self, rows: Tensor, count: int, size: int) -> Tensor:
            return rows

    made = []
    for rank in range(2):
        seen: list[int] = []

        def sample(z: Tensor, labels: Tensor, seen: list[int] = seen) -> Tensor:
            seen.append(len(z))
            return elementwise(z, labels)

        rows = generated_features(sample, range(count), DIGITS, digits_features, processes=Alone(rank, 2))
        assert len(seen) == calls
        made.append(len(rows))
    assert sum(made) == count
