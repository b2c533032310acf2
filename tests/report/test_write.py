"""The page of a run's folder, whatever is missing from it."""

from __future__ import annotations

import base64
import io
import json
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image

from carv_distill.commands.evaluate import main as evaluate
from carv_distill.engine.environment import LAYOUT
from carv_distill.errors import UserError
from carv_distill.evaluation.grids import save_captioned_grid
from carv_distill.report.run_sections import BYTES, SHOWN, chosen_grids
from carv_distill.report.write import keep_report, write_report
from carv_distill.tasks import load_config
from tests.helpers.pages import plain_words
from tests.helpers.runs import as_run
from tests.helpers.small import ROOT

VARIANCE = ROOT / "results/digits/variance.json"
FID = ROOT / "results/digits/fid.json"
OF_STUDENT = json.loads(FID.read_text())["student, 1 step"]["summary"]["fid"]
FID_OF_STUDENT = f"{OF_STUDENT['mean']:.3f} ± {OF_STUDENT['std']:.3f}"


def make_run(folder: Path, name: str = "dmd_carv", rows: int = 5, words: tuple[str, ...] = ()) -> Path:
    """A distillation that was never trained, with curves and measurements."""
    config = load_config(ROOT / "configs/dmd_carv.yaml", [f"folder={folder}", f"name={name}", *words])
    run = as_run(config)
    lines = [
        "step,seconds,loss/student,fid/fid,variance/carv/total,variance/carv/total_low,variance/carv/total_high"
    ]
    lines += [
        f"{i},{2 * i}.5,{1 / (i + 1)},{10 / (i + 1)},{100 / (i + 1)},{90 / (i + 1)},{120 / (i + 1)}"
        for i in range(rows)
    ]
    (run / "metrics.csv").write_text("\n".join(lines) + "\n")
    for file in (VARIANCE, FID):
        shutil.copy(file, run / file.name)
    (run / "samples").mkdir()
    for step in (0, 100, 200):
        shutil.copy(ROOT / "docs/solids.png", run / f"samples/{step:06d}.png")
    return run


class Tags(HTMLParser):
    """What a page is made of."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))


def tags(page: str) -> list[tuple[str, dict[str, str | None]]]:
    parser = Tags()
    parser.feed(page)
    return parser.tags


def written(*runs: Path) -> str:
    place = runs[0].parent / "page.html"
    write_report(runs, place)
    return place.read_text()


def test_a_run_s_page_has_all_its_parts(tmp_path: Path) -> None:
    page = written(make_run(tmp_path))
    titles = re.findall(r"<h2 id=\"([^\"]+)\">", page)
    assert titles == ["samples", "what-was-run", "curves", "quality-of-samples", "variance", "settings"]
    assert "vegaEmbed" in page
    said = plain_words(page)
    assert FID_OF_STUDENT in said
    assert "Use R = " in said  # of the measured variance
    assert "dmd_carv/config.yaml --resume" in said
    assert "python evaluate.py influence" not in said
    assert len(page) < 5_000_000


def test_a_measurement_between_two_logged_updates_has_its_seconds(tmp_path: Path) -> None:
    """Runs of earlier versions have them in logged rows alone; before the first update there are none."""
    run = make_run(tmp_path)
    (run / "metrics.csv").write_text(
        "step,seconds,loss/student,fid/fid\n0,,,9\n20,10.0,1.0,\n25,,,8\n40,30.0,0.5,\n50,,,7\n"
    )
    charts = re.findall(r'<script type="application/json">(.*?)</script>', written(run), flags=re.DOTALL)
    values = json.loads(next(c for c in charts if '"title": "FID"' in c))["data"]["values"]
    assert [(row["step"], row["seconds"]) for row in values] == [(0, 0), (25, 15), (50, 30)]


def test_what_was_measured_once_is_said_with_its_interval(tmp_path: Path) -> None:
    """No curve, and no blank either: of a run shorter than variance.every, say."""
    run = make_run(tmp_path)
    head = "step,loss/student,fid/fid,variance/carv/total,variance/carv/total_low,variance/carv/total_high"
    (run / "metrics.csv").write_text(f"{head}\n0,,9,,,\n50,1,,,,\n60,1,3.5,238.2,116.4,861\n")
    said = plain_words(written(run))
    once = "Measured once, variance of the gradient at update 60"
    assert f"{once}: (32, 4) stratified: total 238 [116, 861]" in said
    assert "Measured once, FID" not in said
    (run / "metrics.csv").write_text("step,fid/fid\n60,3.5\n")
    said = plain_words(written(run))
    assert "Measured once, FID at update 60: 3.5." in said
    assert once not in said


def test_a_finished_run_goes_on_with_what_measures_it(tmp_path: Path) -> None:
    """The command knows these, and refuses what a run's configuration does not allow."""
    run = make_run(tmp_path, rows=5, words=("trainer.max_steps=4",))
    for name in ("fid", "variance"):
        (run / f"{name}.json").unlink()
    assert evaluate(["report", "--run", str(run)]) == 0
    said = plain_words((run / "report.html").read_text())
    for name in ("fid", "variance", "influence"):
        assert f"python evaluate.py {name} --run {run}" in said
    assert "evaluate.py clip" not in said  # digits have no prompts
    assert "--resume" not in said.split("To go on")[1]


def test_what_is_open_comes_first_and_what_is_done_is_done(tmp_path: Path) -> None:
    """The commands of results as they were typed; one of an earlier product is open again."""
    run = make_run(tmp_path, rows=5, words=("trainer.max_steps=4",))
    typed = ["/somewhere/evaluate.py", "fid", "--images", "300"]
    content = json.loads(FID.read_text()) | {"command": typed, "trained": {"product_step": 4}}
    (run / "fid.json").write_text(json.dumps(content))
    (run / "variance.json").unlink()
    for step, is_open in ((4, False), (8, True)):
        (run / "summary.json").write_text(json.dumps({"last": {}, "product_step": step}))
        assert evaluate(["report", "--run", str(run)]) == 0
        said = plain_words((run / "report.html").read_text())
        ahead, _, done = (
            said.split("To go on:")[1].split("Curves")[0].partition("Done, with its results below")
        )
        assert f"evaluate.py influence --run {run}" in ahead
        assert (f"evaluate.py fid --run {run}" in ahead) is is_open
        assert ("python evaluate.py fid --images 300" in done) is not is_open
        assert ("What fid measured is below, of an earlier update" in ahead) is is_open


def test_each_capability_has_its_own_words(tmp_path: Path) -> None:
    """Text-to-3D shows an object, of renders; a distillation samples."""
    config = load_config(ROOT / "configs/sds_carv.yaml", [f"folder={tmp_path}", "sds.prompt=a red cube"])
    sds = as_run(config)
    (sds / "samples").mkdir()
    shutil.copy(ROOT / "docs/solids.png", sds / "samples/000100.png")
    dmd = make_run(tmp_path)
    said = {}
    for run in (sds, dmd):
        assert evaluate(["report", "--run", str(run)]) == 0
        said[run] = plain_words((run / "report.html").read_text())
    assert "Text-to-3D (task sds), “a red cube”" in said[sds]
    assert "Previews The object from around" in said[sds]
    assert "renders R × draws K 1 × 8" in said[sds]
    for words in ("Samples", "noise, update", "samples R"):
        assert words not in said[sds]
        assert words in said[dmd]
    assert "One-step distillation (task dmd)" in said[dmd]


def test_a_run_shorter_than_its_log_is_finished(tmp_path: Path) -> None:
    run = make_run(tmp_path, rows=0, words=("trainer.max_steps=4",))
    (run / "summary.json").write_text(json.dumps({"last": {}, "product_step": 4}))
    page = plain_words(written(run))
    assert "4 of 4 updates." in page
    assert "--resume" not in page


def test_nothing_is_fetched_and_every_picture_has_words(tmp_path: Path) -> None:
    """No address but data and places on the page itself; one heading of the first order; a language."""
    found = tags(written(make_run(tmp_path)))
    for tag, attributes in found:
        for name in ("src", "href", "poster"):
            assert (attributes.get(name) or "data:").startswith(("data:", "#")), (tag, attributes)
        if tag == "img":
            assert attributes["alt"]
    assert [tag for tag, _ in found].count("h1") == 1
    assert ("html", {"lang": "en"}) in found


def test_names_and_prompts_are_no_markup(tmp_path: Path) -> None:
    evil = "<script>alert('x')</script> \"quoted\" & <b>"
    run = make_run(tmp_path)
    config = yaml.safe_load((run / "config.yaml").read_text())
    config["sds"] = {"prompt": evil}
    config["data"]["name"] = evil
    config["teacher"]["path"] = evil
    (run / "config.yaml").write_text(yaml.safe_dump(config, allow_unicode=True))
    environment = json.loads((run / "environment.json").read_text())
    environment["commands"] = [["train.py", evil]]
    (run / "environment.json").write_text(json.dumps(environment))
    page = written(run)
    assert "<script>alert" not in page
    assert "<b>" not in page


def test_a_run_that_has_only_begun(tmp_path: Path) -> None:
    run = make_run(tmp_path, rows=1)
    for name in ("fid.json", "variance.json", "environment.json"):
        (run / name).unlink()
    shutil.rmtree(run / "samples")
    page = written(run)
    assert "Nothing has been measured twice yet" in page
    assert "--resume" in page
    assert "vegaEmbed=" not in page  # no chart, no Vega


def test_files_that_cannot_be_read_are_named_and_the_rest_is_there(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    (run / "variance.json").write_text("{")
    (run / "metrics.csv").write_text("step,seconds\n1\n")
    page = written(run)
    assert "variance.json" in page
    assert "metrics.csv is not as it was written" in page
    assert FID_OF_STUDENT in plain_words(page)


def test_a_newer_version_s_run_is_refused(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    (run / "environment.json").write_text(json.dumps({"layout": LAYOUT + 1}))
    with pytest.raises(UserError, match="a run of a newer version"):
        written(run)


def test_ten_thousand_rows_make_a_small_page(tmp_path: Path) -> None:
    page = written(make_run(tmp_path, rows=10_000))
    assert len(page) < 5_000_000


def test_runs_side_by_side(tmp_path: Path) -> None:
    """Curves of both, and the settings that differ alone."""
    a, b = make_run(tmp_path, "a"), make_run(tmp_path, "b", words=("estimator.draws=16",))
    page = written(a, b)
    settings = page.split('id="settings-that-differ"')[1]
    assert "estimator.draws" in settings
    assert "dmd.fake_lr" not in settings
    assert "a: student, 1 step" in page
    assert re.findall(r"<h1>(.*?)</h1>", page) == ["2 runs side by side"]


def test_the_command_writes_into_the_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = make_run(tmp_path)
    assert evaluate(["report", "--run", str(run)]) == 0
    assert (run / "report.html").read_text().startswith("<!doctype html>")
    assert "open it in a browser" in capsys.readouterr().out
    assert evaluate(["report", "--run", str(run), str(run)]) == 2
    assert "--out: several runs need a file of their own" in capsys.readouterr().err


def test_grids_are_chosen_within_limits() -> None:
    """First and last, evenly between; fewer of large ones, the last one always."""
    assert chosen_grids(dict.fromkeys(range(0, 1000, 100), 10)) == list(range(0, 1000, 100))
    many = chosen_grids(dict.fromkeys(range(1000), 10))
    assert (len(many), many[0], many[-1]) == (SHOWN, 0, 999)
    assert chosen_grids(dict.fromkeys(range(10), BYTES // 3)) == [0, 4, 9]
    assert chosen_grids(dict.fromkeys(range(10), BYTES + 1)) == [9]


def test_a_grid_that_is_too_large_alone_is_shrunk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whole in its own shape, and the reader is told where it has all its pixels."""
    monkeypatch.setattr("carv_distill.report.run_sections.BYTES", 30_000)
    run = make_run(tmp_path)
    page = written(run)
    (png,) = re.findall(r'<figure class="slider"><img src="data:image/png;base64,([^"]*)"', page)
    content = base64.b64decode(png)
    assert len(content) <= 30_000
    with Image.open(io.BytesIO(content)) as small, Image.open(run / "samples/000200.png") as whole:
        assert small.width > 50
        assert small.width / small.height == pytest.approx(whole.width / whole.height, rel=0.05)
    assert "all its pixels are in samples/000200.png, which has 0.4 MB" in plain_words(page)


def test_what_keeps_the_page_from_being_written_does_not_end_a_run(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk, or a chart that cannot be drawn."""
    run = make_run(tmp_path)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("carv_distill.report.write.write_text", full)
    keep_report(run)
    assert "report.html is not written: [Errno 28] No space left on device" in caplog.text


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("variance", {"rows": [{"sampler": "x", "draws": 1}]}),
        ("clip", {"runs": [{"score": 3}]}),
        ("influence", {"queries": 5}),
    ],
)
def test_results_of_another_version_cost_their_section_alone(
    name: str, content: object, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = make_run(tmp_path)
    (run / f"{name}.json").write_text(json.dumps(content))
    place = keep_report(run)
    assert place is not None
    assert "is left out: " in caplog.text
    page = place.read_text()
    assert page.count("is not as this version writes it") == 1
    assert '<h2 id="curves">Curves</h2>' in page


def test_prompts_above_samples_can_be_read(tmp_path: Path) -> None:
    """A grid with captions scrolls instead of being shrunk, and its prompts stand below it, escaped."""
    run = make_run(tmp_path)
    captions = ["a red <b>cube</b>", "a blue torus"]
    save_captioned_grid(torch.zeros(4, 3, 16, 16), captions, run / "samples/000200.png")
    page = written(run)
    assert 'class="slider words whole"' in page
    assert "<b>" not in page
    assert "the prompts, in order prompt 1. a red <b>cube</b> 2. a blue torus" in plain_words(page)
    shutil.copy(run / "samples/000000.png", run / "samples/000200.png")
    assert 'class="slider"' in (page := written(run))
    assert "prompts, in order" not in page


def test_a_page_of_a_run_in_training_says_so(tmp_path: Path) -> None:
    """Written while it trains, and by a command while another process owns it."""
    run = make_run(tmp_path, rows=5, words=("trainer.max_steps=9",))
    trains = "It was in training when this page was written."
    assert keep_report(run, None) is not None
    assert trains in plain_words((run / "report.html").read_text())
    assert evaluate(["report", "--run", str(run)]) == 0
    said = plain_words((run / "report.html").read_text())
    assert "To go on, where it has stopped:" in said
    assert trains not in said
    hold = "import sys; from pathlib import Path; from carv_distill.engine.lock import owned\n"
    hold += "with owned(Path(sys.argv[1])): print('held', flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", hold, str(run)], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as owner:
        assert owner.stdout is not None
        assert owner.stdout.readline() == b"held\n"
        assert evaluate(["report", "--run", str(run)]) == 0
        owner.communicate()
    said = plain_words((run / "report.html").read_text())
    assert trains in said
    assert "--resume" in said.split(trains)[1]
