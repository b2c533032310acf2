import torch

from carv_distill.carv import stream


def test_a_stream_depends_on_its_key_alone() -> None:
    """Same key, same numbers, whatever was drawn before and whatever the global seed is."""
    first = torch.randn(5, generator=stream(1, "draws", 2))
    torch.manual_seed(3)
    torch.randn(7, generator=stream(4))
    assert torch.equal(torch.randn(5, generator=stream(1, "draws", 2)), first)


def test_the_numbers_do_not_change_between_versions() -> None:
    """The seed of a key is pinned: a resumed run continues the stream of an older version."""
    assert stream(0, "upstream").initial_seed() == 0x72621965B77695EC


def test_neighbouring_keys_differ() -> None:
    """Order, type and grouping of the key's parts all count."""
    keys = [(1, 2), (2, 1), (12,), ("1", 2), (1, "2"), ("12",), (1,), (1, 2, 0), ()]
    assert len({stream(*key).initial_seed() for key in keys}) == len(keys)


def test_streams_of_neighbouring_steps_are_uncorrelated() -> None:
    """Correlation of steps s and s + 1 is 0 within 4 SE, SE = 1/√n, n = 4000 pairs."""
    x = torch.stack([torch.randn(20, generator=stream(0, s), dtype=torch.float64) for s in range(201)])
    assert abs((x[1:] * x[:-1]).mean()) < 4 / 4000**0.5


def test_drawing_leaves_the_global_stream_alone() -> None:
    """torch's own stream is not touched."""
    state = torch.get_rng_state()
    torch.rand(3, generator=stream("own"))
    assert torch.equal(torch.get_rng_state(), state)
