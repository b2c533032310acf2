"""What a YAML may hold, and what of it stays as it was written."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from carv_distill.engine.yaml_files import Scalar, plain, read_yaml, yaml_text
from carv_distill.errors import UserError
from carv_distill.tasks import load_config
from tests.helpers.small import ROOT
from tests.helpers.texts import PROMPTS, TEXTS

DMD = ROOT / "configs/dmd_carv.yaml"


def changed(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "c.yaml"
    path.write_bytes(text.encode())
    return path


@pytest.mark.parametrize("text", [*TEXTS, *PROMPTS, "+1e5", "1_0e2", "~", "", "on", "'q'"])
def test_what_a_run_writes_it_reads_again(text: str, tmp_path: Path) -> None:
    """In its config.yaml, text that looks like a number is quoted; numbers are not."""
    values = {"name": text, "deep": {"rate": 1e-05, "steps": [1, 2], "on": True, "none": None, "big": 1e16}}
    assert plain(read_yaml(changed(tmp_path, yaml_text(values)))) == values


def test_a_byte_order_mark_and_a_short_float_are_read(tmp_path: Path) -> None:
    text = "\ufeff" + re.sub("student_lr: .*", "student_lr: 1e-4", DMD.read_text())
    config: Any = load_config(changed(tmp_path, text))
    assert config.dmd.student_lr == 1e-4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t + "\nname: other\n", "the key name twice"),
        (lambda t: t.replace("  path: ", "\tpath: "), "not a valid YAML"),
        (lambda t: t + "\n? [a]\n: 1\n", "a key that is no word"),
        (lambda t: t + "\n" + "x: " + "[" * 900 + "]" * 900, "nested too deeply"),
        (lambda t: t + "\nx: " + "{a: " * 900 + "1" + "}" * 900, "nested too deeply"),
        (lambda t: "#" * 2**20 + "\n" + t, "is larger than 1024 KiB"),
        (lambda t: t + "\nx: !!python/object/apply:os.system [ls]\n", "not a valid YAML"),
        (lambda t: t + "\nx: 2026-99-99\n", "not a valid YAML"),
        (lambda t: t + "\nx: &a [*a]\n", "not a valid YAML"),
        (lambda t: t.replace("task: dmd", "task: [dmd]"), "task: ['dmd'] is not one of"),
        (lambda t: t.replace("task: dmd", "task: 1"), "task: 1 is not one of"),
        (lambda t: t.replace("seed: 0", "seed: 1:30"), "seed: '1:30' is not a whole number"),
        (lambda t: t.replace("seed: 0", "seed: [0]"), "seed: [0] is not a whole number"),
        (lambda t: t.replace("seed: 0", "seed: true"), "seed: 'true' is not a whole number"),
        (lambda t: t.replace("name: dmd_carv", 'name: "a\\x1bb"'), "holds the control character"),
        (lambda t: t.replace("name: dmd_carv", 'name: "a\\0b"'), "holds the control character"),
        (lambda t: t + "\n<<: {name: x}\n", "unknown key <<"),
    ],
)
def test_a_file_that_is_no_configuration_is_one_line(change: Any, message: str, tmp_path: Path) -> None:
    path = changed(
        tmp_path, change(DMD.read_text() if "seed: 0" in DMD.read_text() else DMD.read_text() + "\nseed: 0\n")
    )
    with pytest.raises(UserError) as caught:
        load_config(path)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_bytes_that_are_no_utf8_are_one_line(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_bytes(DMD.read_bytes() + b"\n# \xff\xfe\n")
    with pytest.raises(UserError, match="not a valid YAML"):
        load_config(path)


def test_scalars_keep_their_words_and_their_value(tmp_path: Path) -> None:
    path = changed(tmp_path, "a: 007\nb: '007'\nc: [no, ~]\n")
    values = read_yaml(path)
    assert isinstance(values["a"], Scalar)
    assert not isinstance(values["b"], Scalar)
    assert values == {"a": "007", "b": "007", "c": ["no", None]}
    assert plain(values) == {"a": 7, "b": "007", "c": [False, None]}
