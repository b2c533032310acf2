"""Text is text, numbers are numbers, and nothing from outside slips in."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from carv_distill.engine.config import load_config as load
from carv_distill.errors import UserError
from carv_distill.tasks import load_config
from tests.helpers.small import ROOT
from tests.helpers.texts import PROMPTS, TEXTS

DMD, SDS = ROOT / "configs/dmd_carv.yaml", ROOT / "configs/sds_carv.yaml"


@pytest.mark.parametrize("name", TEXTS)
def test_a_name_arrives_as_typed(name: str) -> None:
    assert load_config(DMD, [f"name={name}"]).name == name


@pytest.mark.parametrize("prompt", PROMPTS)
def test_a_prompt_arrives_as_typed(prompt: str) -> None:
    config: Any = load_config(SDS, [f"sds.prompt={prompt}"])
    assert config.sds.prompt == prompt


@pytest.mark.parametrize("word", ["", "null", "~"])
def test_text_that_may_be_left_out_is_left_out(word: str) -> None:
    config: Any = load_config(DMD, [f"fid.reference={word}"])
    assert config.fid.reference is None


@pytest.mark.parametrize(
    "scalar", ["695e0514", "007", "12:30:45", "no", "1e-4", "2026-11-26", "0x1F", ".nan"]
)
def test_a_yaml_scalar_that_is_no_text_is_refused_for_text(scalar: str, tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(re.sub("(?m)^name: .*$", f"name: {scalar}", DMD.read_text()))
    with pytest.raises(UserError) as caught:
        load_config(path)
    assert f'name: {scalar} is not text for YAML; write it in quotes, as "{scalar}"' in str(caught.value)
    assert str(path) in str(caught.value)
    path.write_text(re.sub("(?m)^name: .*$", f"name: '{scalar}'", DMD.read_text()))
    assert load_config(path).name == scalar


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("trainer=[0]", "trainer: [0] is not a section"),
        ("task=[dmd]", "task: '[dmd]' is not one of"),
        ("seed=012.5", "seed: '012.5' is not a whole number"),
        ("seed=1:30", "seed: '1:30' is not a whole number"),
        ("seed=4294967296", "seed: 4294967296 is above the greatest allowed value, 4294967295"),
        ("seed=1e400", "seed: '1e400' is not a whole number"),
        ("trainer.max_steps=99999999999999999999", "is not a whole number"),
        ("dmd.student_lr=inf", "dmd.student_lr: inf is not finite"),
        ("trainer.patience=.inf", "trainer.patience: '.inf' is not a number"),
        ("trainer.patience=inf", "trainer.patience: inf is not finite"),
        ("estimator.weights=[1,nan]", "estimator.weights: [1.0, nan] is not finite"),
        ("estimator.weights=[1,x]", "estimator.weights[1]: 'x' is not a number"),
        ("estimator.weights=[[1]]", "is not a number"),
        ("data.flips=maybe", "unknown key data.flips"),
        ("name=\udcff", "is not UTF-8; write it in a UTF-8 locale"),
        ("name=a\x1b[31mb", "holds the control character"),
        ("a\x1b=1", "unknown key"),
        ("=", "unknown key"),
        ("estimator.draws.x=1", "unknown key estimator.draws.x"),
        ("name[0]=x", "unknown key name[0]"),
    ],
)
def test_a_word_that_does_not_fit_is_one_line(override: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        load_config(DMD, [override])
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("override", "said"),
    [
        (
            "dmd.adapter.kind=lora",
            "unknown key dmd.adapter.kind (did you mean dmd.adapters.kind?) on the command line; known "
            "in dmd are adapters, ",
        ),
        (
            "dmd.gan.latent=x",
            "unknown key dmd.gan.latent (did you mean dmd.gan.latents?) on the command line; known "
            "in dmd.gan are latents, ",
        ),
        (
            "draws=16",
            "unknown key draws (did you mean estimator.draws?) on the command line; known are task,",
        ),
        ("dmd.gan.xyz=1", "unknown key dmd.gan.xyz on the command line; known in dmd.gan are "),
        ("dmd=3", "dmd: 3 is not a section (on the command line); its keys are dmd."),
        ("task=dms", "sds (on the command line)"),
        ("name=${oc.env:HOME}", "environment variables (on the command line)"),
    ],
)
def test_what_was_typed_on_the_command_line_is_said_to_be_there(override: str, said: str) -> None:
    with pytest.raises(UserError) as caught:
        load_config(DMD, [override])
    assert said in str(caught.value)


def test_what_stands_in_a_file_is_said_to_be_there(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    for text, said in (
        (
            "task: dmd\ndmd:\n  adapter:\n    kind: lora\n",
            "(did you mean dmd.adapters?) {}; known in dmd are ",
        ),
        ("task: dmd\nname: x\ndmd: 3\n", "dmd: 3 is not a section ({}); its keys are dmd."),
        ("task: dms\nname: x\n", "sds ({})"),
    ):
        path.write_text(text)
        with pytest.raises(UserError) as caught:
            load_config(path, ["estimator.draws=2"])
        assert said.format(f"in {path}") in str(caught.value)


@pytest.mark.parametrize(
    ("word", "value"), [("012", 12), ("1e3", 1000), (" 7", 7), ("4294967295", 2**32 - 1)]
)
def test_whole_numbers_are_decimal(word: str, value: int) -> None:
    assert load_config(DMD, [f"seed={word}"]).seed == value


@pytest.mark.parametrize(("word", "value"), [("yes", True), ("False", False), ("1", True), ("off", False)])
def test_truth_values_have_the_usual_words(word: str, value: bool) -> None:
    config: Any = load_config(DMD, [f"dmd.compile={word}"])
    assert config.dmd.compile is value


@pytest.mark.parametrize(
    "given", ["folder=${oc.env:NOPE}/runs", "teacher.path=${oc.env:NOPE}/t", "name=${nope}"]
)
def test_nothing_is_replaced_unasked(given: str) -> None:
    key = given.partition("=")[0]
    with pytest.raises(UserError, match=f"^{re.escape(key)}: .*--env allows"):
        load_config(DMD, [given])


def test_environment_variables_are_replaced_where_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from carv_distill.tasks import TASKS

    monkeypatch.setenv("CARV_PLACE", "/scratch")
    monkeypatch.setenv("CARV_SEED", "12")
    text = DMD.read_text() + "\nfolder: ${oc.env:CARV_PLACE}/${oc.env:CARV_NONE,runs}\n"
    path = tmp_path / "c.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=r"^folder: .*--env allows"):
        load(TASKS, path)
    config = load(TASKS, path, ["seed=${oc.env:CARV_SEED}"], environment=True)
    assert (config.folder, config.seed) == ("/scratch/runs", 12)
    with pytest.raises(UserError, match=r"^name: the environment variable CARV_NOT is not set"):
        load(TASKS, path, ["name=${oc.env:CARV_NOT}"], environment=True)
    with pytest.raises(UserError, match=r"^name: .*only \$\{oc\.env:NAME\}"):
        load(TASKS, path, ["name=${seed}"], environment=True)


def test_the_home_folder_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "teacher").mkdir()
    config: Any = load_config(DMD, ["folder=~/runs", "teacher.path=~/teacher"], complete=True)
    assert (config.folder, config.teacher.path) == (f"{tmp_path}/runs", f"{tmp_path}/teacher")


@pytest.mark.parametrize("word", ["[to_q,007]", "to_q, 007", "['to_q', \"007\"]"])
def test_a_list_of_text_arrives_as_typed(word: str) -> None:
    """Numbers among it too: text is text."""
    found = load_config("text_to_image/dmd_shapes", [f"dmd.adapters.targets={word}"])
    assert found.dmd.adapters.targets == ["to_q", "007"]  # type: ignore[attr-defined]
