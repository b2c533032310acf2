"""Whatever is typed or written into a file, the answer is one line or the work itself; never a traceback.

Each property runs on 100 inputs, and in the slow suite on thousands (10,000 in all).
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Sequence
from pathlib import Path
from unittest import mock

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from carv_distill.commands import evaluate, train
from carv_distill.engine.values import _keys
from carv_distill.errors import UserError
from carv_distill.tasks import TASKS
from carv_distill.teachers import convert
from tests.helpers.edm_pickles import content, inject, write
from tests.helpers.small import ROOT

FAST, SLOW = 100, pytest.mark.slow
NAMES = sorted(
    str(p.relative_to(ROOT / "configs").with_suffix("")) for p in (ROOT / "configs").rglob("*.yaml")
)
TEXTS = {name: (ROOT / f"configs/{name}.yaml").read_text() for name in NAMES}
KEYS = sorted({key for task in TASKS.values() for key in _keys(task.config)})
# what YAML, a shell, a path, a number or a terminal would take for something else
NASTY = st.sampled_from(
    [
        *("", "null", "~", "???", "nan", "inf", "-1", "0", "1e999", "9" * 40, "true", "größe", "\n", "\x00"),
        *(
            "[",
            "]",
            "{",
            "[]",
            "[1,",
            "[1,2]",
            "{a: 1}",
            "*a",
            "&a",
            "- x",
            "#",
            "a: b",
            "!!python/name:os.x",
        ),
        *("${x}", "${oc.env:HOME}", "\x1b[31m", "\udcff", "a" * 300),
        *("../..", "/", ".", "..", "~nobody", "/dev/null"),
    ]
)
VALUES = NASTY | st.text(max_size=20) | st.integers().map(str) | st.floats().map(str)
WORDS = st.builds("{}={}".format, st.sampled_from(KEYS) | st.text(max_size=12), VALUES)


def many(count: int) -> settings:
    """Settings for so many inputs, the same ones at every run."""
    return settings(
        max_examples=count,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )


def answer(main: Callable[[Sequence[str]], int], words: Sequence[str]) -> int:
    """The exit status; a refusal is one line."""
    error = io.StringIO()
    with contextlib.redirect_stderr(error), contextlib.redirect_stdout(io.StringIO()):
        try:
            status = main(words)
        except SystemExit as leave:  # argparse: help, or words that are none
            status = int(leave.code or 0)
    said = error.getvalue()
    assert status in (0, 2), said
    if status == 2:
        lines = [line for line in said.splitlines() if line.startswith("error: ")]
        assert len(lines) == 1, said
        assert not any(ord(c) < 32 or ord(c) == 127 for c in lines[0]), said
    assert "Traceback" not in said
    return status


@contextlib.contextmanager
def unworked():  # type: ignore[no-untyped-def]
    """Everything up to the work itself, which is left out."""
    reached = UserError("reached the work")
    with (
        mock.patch.object(train, "train", side_effect=reached),
        mock.patch.object(train, "quiet_libraries"),
        mock.patch.object(train, "show_messages"),
        mock.patch("carv_distill.commands.command.show_messages"),
        mock.patch("carv_distill.commands.command.quiet_libraries", side_effect=reached),
    ):
        yield


def overrides(name: str, words: list[str], resume: str | None) -> None:
    # "--" so that a word which begins with a dash is one
    again = [resume] if resume else []
    with unworked():
        answer(train.main, ["--config", name, *again, "folder=/tmp/nowhere/runs", "--", *words])


OVERRIDES = given(
    st.sampled_from(NAMES),
    st.lists(WORDS, max_size=3),
    st.sampled_from([None, "--resume", "--requeue", "--env"]),
)


@pytest.mark.slow
@many(FAST)
@OVERRIDES
@example("dmd_carv", ["trainer=[0]"], None)
@example("dmd_carv", ["task=[dmd]"], None)
@example("dmd_carv", ["name=${oc.env:NOPE}"], "--env")
@example("sds_carv", ["sds.prompt=a red torus #3"], None)
@example("dmd_carv", ["estimator=1", "estimator.draws=2"], None)
def test_overrides(name: str, words: list[str], resume: str | None) -> None:
    overrides(name, words, resume)


@SLOW
@pytest.mark.timeout(1800)
@many(4000)
@OVERRIDES
def test_many_overrides(name: str, words: list[str], resume: str | None) -> None:
    overrides(name, words, resume)


@st.composite
def damaged_files(draw: st.DrawFn) -> bytes:
    """A shipped configuration with some lines or bytes changed."""
    lines = TEXTS[draw(st.sampled_from(NAMES))].splitlines()
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(lines) - 1))
        line = lines[at]
        change = draw(st.sampled_from(["drop", "twice", "value", "indent", "insert"]))
        value = draw(VALUES)
        lines[at : at + 1] = {
            "drop": [],
            "twice": [line, line],
            "value": [f"{line.partition(':')[0]}: {value}"],
            "indent": [f"  {line}"],
            "insert": [line, value],
        }[change] or [""]
    whole = bytearray("\n".join(lines).encode(errors="surrogatepass"))
    for at, byte in draw(st.lists(st.tuples(st.integers(0, len(whole)), st.integers(0, 255)), max_size=2)):
        whole[at : at + draw(st.integers(0, 1))] = bytes([byte])
    return bytes(whole)


def files(place: Path, text: bytes) -> None:
    place.write_bytes(text)
    with unworked():
        answer(train.main, ["--config", str(place), "folder=/tmp/nowhere/runs"])


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz") / "c.yaml"


@pytest.mark.slow
@many(FAST)
@given(text=damaged_files())
@example(text=b"\xff\xfe")
@example(text=b"")
@example(text=b"a: &a [*a]")
@example(text=b"x: " + b"[" * 900)
def test_files(place: Path, text: bytes) -> None:
    files(place, text)


@SLOW
@pytest.mark.timeout(1800)
@many(3000)
@given(text=damaged_files() | st.binary(max_size=200))
def test_many_files(place: Path, text: bytes) -> None:
    files(place, text)


FIELDS = {name for command in evaluate.COMMANDS.values() for name in command.options.__annotations__}
FLAGS = sorted(f"--{name.replace('_', '-')}" for name in FIELDS)
KNOWN = st.sampled_from([*evaluate.COMMANDS, *FLAGS, "--run", "--runs", "--out", "--device", "cpu", "digits"])
ARGUMENTS = given(words=st.lists(KNOWN | VALUES, max_size=6))


def arguments(place: Path, words: list[str]) -> None:
    with contextlib.chdir(place.parent), unworked():
        answer(evaluate.main, words)


@pytest.mark.slow
@many(FAST)
@ARGUMENTS
@example(words=["fid", "--run", "\x00"])
@example(words=["reference", "--data", "digits", "--out", "x.npz"])
@example(words=["influence", "--teacher", "nowhere", "--data", "digits"])
def test_words_of_evaluate(place: Path, words: list[str]) -> None:
    arguments(place, words)


@SLOW
@pytest.mark.timeout(1800)
@many(2000)
@ARGUMENTS
def test_many_words_of_evaluate(place: Path, words: list[str]) -> None:
    arguments(place, words)


@pytest.fixture(scope="module")
def pickle(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A published file of a tiny network."""
    with pytest.MonkeyPatch.context() as patch:
        inject(patch)
        return write(tmp_path_factory.mktemp("pickle") / "edm.pkl", content()).read_bytes()


CHANGES = given(
    cut=st.none() | st.floats(0, 1),
    flips=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(1, 255)), max_size=4),
    head=st.binary(max_size=6),
)


def convert_damaged(
    place: Path, pickle: bytes, cut: float | None, flips: list[tuple[float, int]], head: bytes
) -> None:
    whole = bytearray(pickle if cut is None else pickle[: int(cut * len(pickle))])
    for share, bits in flips if whole else ():
        whole[int(share * len(whole))] ^= bits
    source, out = place.with_suffix(".pkl"), place.with_suffix(".out")
    source.write_bytes(head + whole)
    status = answer(convert.main, [str(source), str(out)])
    if status == 0:
        for file in sorted(out.rglob("*"), reverse=True):
            file.unlink() if file.is_file() else file.rmdir()


@many(FAST)
@CHANGES
@example(cut=0.0, flips=[], head=b"")
@example(cut=0.0, flips=[], head=b"PK\x03\x04")
def test_pickles(
    place: Path, pickle: bytes, cut: float | None, flips: list[tuple[float, int]], head: bytes
) -> None:
    convert_damaged(place, pickle, cut, flips, head)


@SLOW
@pytest.mark.timeout(1800)
@many(1000)
@CHANGES
def test_many_pickles(
    place: Path, pickle: bytes, cut: float | None, flips: list[tuple[float, int]], head: bytes
) -> None:
    convert_damaged(place, pickle, cut, flips, head)
