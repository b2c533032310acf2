"""The store of features."""

from __future__ import annotations

import logging
import warnings
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from carv_distill.attribution.features.store import DIGESTED, FLAGS, FeatureStore, require_alike
from carv_distill.carv import stream
from carv_distill.errors import UserError
from tests.helpers.small import largest_file

FINGERPRINT: dict[str, Any] = {
    "model": "a1b2",
    "data": "digits",
    "parameters": 4810,
    "projection": {"kind": "countsketch", "size": 5, "seed": 0},
    "draws": [8, 4],
    "loss": None,
    "learning_rate": 0.1,
}
FEATURES = torch.randn(10, 2, 5, generator=stream("features"))


def opened(folder: Path, **other: Any) -> FeatureStore:
    """Ten samples in blocks of four: 4, 4 and 2."""
    settings = {"samples": 10, "groups": 2, "size": 5, "block": 4, "fingerprint": FINGERPRINT, **other}
    return FeatureStore(folder / "store", **settings)


def fill(store: FeatureStore, rank: int = 0, world_size: int = 1) -> None:
    for block in store.missing(rank, world_size):
        store.write(block, FEATURES[store.rows(block)])


def contents(store: FeatureStore) -> torch.Tensor:
    return torch.cat([features for _, features in store.blocks()])


def test_an_interrupted_store_goes_on(tmp_path: Path) -> None:
    store = opened(tmp_path)
    assert store.missing() == [0, 1, 2]
    store.write(1, FEATURES[4:8].double())
    with pytest.raises(UserError, match=r"store: 2 of 3 blocks .* missing; run the same command again"):
        store.blocks()
    with pytest.raises(UserError, match="block 0 is missing"):
        store.read(0)
    again = opened(tmp_path)
    assert again.missing() == [0, 2]
    fill(again)
    assert again.missing() == []
    assert torch.equal(contents(again), FEATURES)
    assert [rows for rows, _ in again.blocks()] == [slice(0, 4), slice(4, 8), slice(8, 10)]
    assert sorted(path.name for path in (tmp_path / "store").iterdir()) == [
        *(f"block-00000{b}.npy" for b in range(3)),
        "store.json",
    ]


def test_two_ranks_equal_one(tmp_path: Path) -> None:
    stores = [opened(tmp_path), opened(tmp_path)]
    assert [store.missing(rank, 2) for rank, store in enumerate(stores)] == [[0, 2], [1]]
    for rank, store in enumerate(stores):
        fill(store, rank, 2)
    assert torch.equal(contents(stores[0]), FEATURES)


@pytest.mark.parametrize("key", [*FINGERPRINT, "samples", "groups", "size", "block"])
def test_another_set_up_is_refused(tmp_path: Path, key: str) -> None:
    opened(tmp_path)
    if key in FINGERPRINT:
        other = {"fingerprint": {**FINGERPRINT, key: "other"}}
        found, asked = "", '"other"'
    else:
        other, found, asked = {key: 99}, {"samples": 10, "groups": 2, "size": 5, "block": 4}[key], 99
    with pytest.raises(UserError) as caught:
        opened(tmp_path, **other)
    words, name = str(caught.value), FLAGS.get(key, f"--{key}")
    assert words.startswith(f"{tmp_path / 'store'}: made with ")
    if key in DIGESTED:
        assert f"another {name} than is asked for now; give" in words
    else:
        assert f"{name} {found}" in words or key == "projection"
        again = f"ask for {name} {found}, " if key in {"groups", "size"} else ""
        assert key in {"projection", "draws"} or f"asked for now is {asked}; {again}give" in words
    assert words.endswith("give another folder with --store, or remove this one")
    assert "\n" not in words
    assert opened(tmp_path).missing() == [0, 1, 2]


def test_all_that_differs_is_named(tmp_path: Path) -> None:
    """Also an entry that one of the two lacks, and one with the name of a size."""
    opened(tmp_path, fingerprint={"model": "a", "loss": 1, "size": 7})
    with pytest.raises(
        UserError,
        match=r"made with --block 4, asked for now is 5; unlike are also --size, --output or levels",
    ):
        opened(tmp_path, fingerprint={"size": 8, "model": "a"}, block=5)


def test_a_part_that_is_known_before_the_rest_is_held_against_a_store(tmp_path: Path) -> None:
    """Nothing is made; other samples are other data, which is not said twice; of the draws what differs."""
    place = tmp_path / "store"
    draws = {"draws": 8, "noise": "iid"}
    require_alike(place, {"samples": 3, "fingerprint": {}}, whole=False)
    assert not place.exists()
    opened(tmp_path, fingerprint={**FINGERPRINT, "draws": draws})
    require_alike(place, {"samples": 10, "fingerprint": {"data": "digits", "draws": draws}}, whole=False)
    others: list[tuple[dict[str, Any], str]] = [
        (
            {"samples": 5, "fingerprint": {"data": "x"}},
            "made with --among or --data 10, asked for now is 5; give",
        ),
        ({"fingerprint": {"data": "x"}}, "made with another --data than is asked for now; give"),
        (
            {"fingerprint": {"draws": draws | {"draws": 9}}},
            "made with --draws 8, asked for now is 9; ask for --draws 8, give",
        ),
    ]
    for wanted, said in others:
        with pytest.raises(UserError, match=said):
            require_alike(place, wanted, whole=False)


def test_a_manifest_that_is_none_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "store" / "store.json"
    path.parent.mkdir()
    for text in ('{"samples": 10', "[]", "{}"):
        path.write_text(text)
        with pytest.raises(UserError, match=r"store\.json: not the manifest"):
            opened(tmp_path)
    path.write_bytes(b"\xff")
    with pytest.raises(UserError, match=r"store\.json: cannot be read"):
        opened(tmp_path)


def test_blocks_without_a_manifest_and_files_are_refused(tmp_path: Path) -> None:
    fill(opened(tmp_path))
    (tmp_path / "store" / "store.json").unlink()
    with pytest.raises(UserError, match=r"blocks of features without their store\.json"):
        opened(tmp_path)
    (tmp_path / "file").mkdir()
    (tmp_path / "file" / "store").touch()
    with pytest.raises(UserError, match="not a folder"):
        opened(tmp_path / "file")


@pytest.mark.parametrize("damage", ["truncated", "empty", "text", "shape", "type", "pickle"])
def test_a_damaged_block_is_made_anew(tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: str) -> None:
    """One warning names it, and nothing is unpickled."""
    store = opened(tmp_path)
    fill(store)
    path = tmp_path / "store" / "block-000001.npy"
    if damage in ("truncated", "empty", "text"):
        whole = path.read_bytes()
        path.write_bytes({"truncated": whole[:-1], "empty": b"", "text": b"x" * len(whole)}[damage])
    else:
        array = FEATURES[4:8].numpy()
        np.save(
            path, {"shape": array[:3], "type": array.astype("f8"), "pickle": array.astype(object)}[damage]
        )
    with caplog.at_level(logging.WARNING):
        assert store.missing() == [1]
        assert store.missing() == [1]
    assert [str(path) in record.getMessage() for record in caplog.records] == [True]
    fill(store)
    assert torch.equal(contents(store), FEATURES)


def test_a_full_disk_leaves_the_store_usable(tmp_path: Path) -> None:
    store = opened(tmp_path)
    store.write(0, FEATURES[:4])
    with (
        largest_file(200),
        pytest.raises(UserError, match=r"block-000001.npy: could not be written \(File too"),
    ):
        store.write(1, FEATURES[4:8])
    assert store.missing() == [1, 2]
    assert len(list((tmp_path / "store").iterdir())) == 2
    fill(store)
    assert torch.equal(contents(store), FEATURES)
    with largest_file(10), pytest.raises(UserError, match=r"store: could not be written \(File too"):
        opened(tmp_path / "new")
    assert opened(tmp_path / "new").missing() == [0, 1, 2]


def test_features_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    """A number beyond float32 is an infinity."""
    store = opened(tmp_path)
    with pytest.raises(ValueError, match=r"block 2 has features \[2, 2, 5\], found \[4, 2, 5\]"):
        store.write(2, FEATURES[:4])
    for bad in (float("nan"), float("inf"), 1e300):
        features = FEATURES[4:8].double()
        features[2:, 1, 3] = bad
        with pytest.raises(UserError, match=r"^training sample 6: its gradient holds NaN or infinity$"):
            store.write(1, features)
    for block in (-1, 3):
        with pytest.raises(IndexError, match=f"block {block} of a store with 3"):
            store.rows(block)
    with pytest.raises(ValueError, match="at least 1, found 10, 2, 0, 4"):
        opened(tmp_path, size=0)
    assert store.missing() == [0, 1, 2]


def test_features_are_mapped_and_the_file_cannot_be_changed(tmp_path: Path) -> None:
    store = opened(tmp_path)
    fill(store)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        store.read(0).zero_()
    assert torch.equal(store.read(0), FEATURES[:4])


def _create(folder: Path, model: str) -> str:
    try:
        store = opened(folder, fingerprint={**FINGERPRINT, "model": model})
    except UserError:
        return "refused"
    store.write(0, FEATURES[:4])
    return model


@pytest.mark.parametrize("models", ["a", "ab"])
def test_several_processes_may_create_it(tmp_path: Path, models: str) -> None:
    """All of one set-up succeed; of two set-ups one does."""
    with ProcessPoolExecutor(4, mp_context=get_context("fork")) as pool:
        for attempt in range(20):
            asked = models * (8 // len(models))
            made = list(pool.map(_create, [tmp_path / str(attempt)] * 8, asked))
            (winner,) = set(made) - {"refused"}
            assert made == [winner if model == winner else "refused" for model in asked]
            assert len(list((tmp_path / str(attempt) / "store").iterdir())) == 2


def test_the_seconds_of_all_samples_are_those_of_some_in_proportion(tmp_path: Path) -> None:
    """Of ten samples six took 3 s in two goes: all take 5 s, to whoever opens the store."""
    store = opened(tmp_path)
    assert store.seconds is None
    store.timed(4, 2.5)
    store.timed(2, 0.5)
    assert opened(tmp_path).seconds == pytest.approx(5.0)
    for text, said in (("{}", "not the seconds"), ("x", "is not JSON"), ('{"samples": "4"}', "remove it")):
        (tmp_path / "store" / "seconds.json").write_text(text)
        with pytest.raises(UserError, match=rf"seconds\.json.*{said}"):
            _ = store.seconds
