"""Distillation of text-to-image teachers: conditions by number, where a student starts, adapters, a run's
product."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DiffusionPipeline

from carv_distill.carv import stream
from carv_distill.distillation.building import build_module, load_data, load_with_prompts
from carv_distill.distillation.conditions import number_prompts
from carv_distill.distillation.module import FROZEN, DMDModule
from carv_distill.distillation.options import DMDConfig
from carv_distill.distillation.task import DMD
from carv_distill.errors import UserError
from carv_distill.tasks import load_config
from carv_distill.teachers.pipelines import table
from carv_distill.teachers.pipelines.encoder import PromptEncoder
from carv_distill.teachers.pipelines.folder import PipelineFolder
from carv_distill.teachers.schedule import FlowSchedule
from tests.helpers.tiny_latent import save_tiny_pipeline
from tests.helpers.tiny_pipelines import save_sd3

PROMPTS = ["a red torus", "a blue cube, side view", "a red torus"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("text")
    save_tiny_pipeline(place / "sd")
    save_sd3(place / "sd3")
    (place / "prompts.txt").write_text("\n".join(PROMPTS))
    (place / "cache").mkdir()
    return place


def config(folder: Path, *words: str, teacher: str = "sd") -> DMDConfig:
    loaded = load_config(
        "text_to_image/dmd_shapes",
        [
            f"teacher.path={folder / teacher}",
            f"prompts.path={folder / 'prompts.txt'}",
            f"prompts.cache={folder / 'cache'}",
            f"folder={folder}",
            "dmd.student_timestep=null",
            "estimator.upstream=3",
            "dmd.fake_batch=4",
            "fid.every=0",
            *words,
        ],
    )
    assert isinstance(loaded, DMDConfig)
    return loaded


def module_of(folder: Path, *words: str, teacher: str = "sd") -> DMDModule:
    options = config(folder, *words, teacher=teacher)
    return build_module(options, load_data(options))


def test_captions_come_first_and_prompts_keep_their_weight() -> None:
    texts, drawn = number_prompts(["a", "b"], ["b", "c", "c"])
    assert texts == ["a", "b", "c"]
    assert drawn.tolist() == [1, 2, 2]
    assert number_prompts(["a", "b"], [])[1].tolist() == [0, 1]


def test_a_prompt_that_is_there_twice_comes_twice_as_often(folder: Path) -> None:
    """Share of the first of 2 : 1, n = 3,000, SE = √(2/9 n)/n = 0.0086; four of them."""
    module = module_of(folder)
    numbers = module.objective.conditions.draw(3000, stream("numbers"))
    assert abs((numbers == 0).double().mean().item() - 2 / 3) < 4 * 0.0086


def test_conditions_are_the_prompts_own(folder: Path) -> None:
    module = module_of(folder)
    found = module.objective.conditions(torch.tensor([1, 0]))
    encoder = module.product.pipeline.encoder(torch.float32)  # type: ignore[union-attr]
    exact = encoder([PROMPTS[1], PROMPTS[0]])
    torch.testing.assert_close(found.embeddings, exact.embeddings)  # type: ignore[union-attr]


def test_text_models_are_read_once_for_a_list_of_prompts(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Embeddings lie on the disk; another run with the same prompts reads no text model."""
    calls: list[bool] = []
    plain = PipelineFolder.encoder

    def counted(self: PipelineFolder, *arguments: Any, models: bool = True, **others: Any) -> PromptEncoder:
        calls.append(models)
        return plain(self, *arguments, models=models, **others)

    monkeypatch.setattr(PipelineFolder, "encoder", counted)
    words = (f"prompts.cache={tmp_path}",)
    first, second = module_of(folder, *words), module_of(folder, *words)
    assert calls == [True, False, False]
    a, b = (m.objective.conditions(torch.tensor([0])).embeddings for m in (first, second))  # type: ignore[union-attr]
    assert torch.equal(a, b)


def test_a_large_table_is_read_row_by_row(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    held = module_of(folder).objective.conditions
    monkeypatch.setattr(table, "IN_MEMORY", 0)
    read = module_of(folder).objective.conditions
    numbers = torch.tensor([1, 0, 1])
    assert torch.equal(held(numbers).embeddings, read(numbers).embeddings)  # type: ignore[union-attr]


@pytest.mark.parametrize("teacher", ["sd", "sd3"])
def test_the_student_starts_where_the_network_sees_noise(teacher: str, folder: Path) -> None:
    """x = x̂ at y = z and the last level: of a flow, t = 1, it is z − F."""
    module = module_of(folder, teacher=teacher)
    o = module.objective
    z, numbers = o.upstream_noise(3, stream("z"))
    with torch.no_grad():
        x = o.generate(o.student, z, numbers)
        network = o.student.network
        level = torch.full((3,), float(o.schedule.sigma_max))
        c = o.student.coefficients(z, level)
        raw = network(z, c.c_noise, o.conditions(numbers))
    flow = isinstance(o.schedule, FlowSchedule)
    expected = z - raw if flow else c.skip * z + c.out * raw
    assert torch.isfinite(x).all()
    torch.testing.assert_close(x, expected)


@pytest.mark.parametrize("teacher", ["sd", "sd3"])
@pytest.mark.parametrize("words", [(), ("dmd.adapters.kind=lora",)])
def test_an_update_moves_what_learns_and_nothing_else(
    words: tuple[str, ...], teacher: str, folder: Path
) -> None:
    module = module_of(folder, *words, "dmd.gan.fake_weight=0", teacher=teacher)
    student, fake, *_ = module.configure_optimizers()
    frozen = {n: p.clone() for n, p in module.objective.teacher.state_dict().items() if ".lora_" not in n}
    before = module.student_vector.theta.clone(), module.fake_vectors[0].theta.clone()
    for step in range(2):
        assert torch.isfinite(module.fake_updates([fake], step))
        assert torch.isfinite(module.student_update(student, step))  # type: ignore[arg-type]
    assert not torch.equal(before[0], module.student_vector.theta)
    assert not torch.equal(before[1], module.fake_vectors[0].theta)
    after = module.objective.teacher.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in frozen.items())


def test_a_checkpoint_of_adapters_holds_nothing_of_the_base(folder: Path) -> None:
    module = module_of(folder, "dmd.adapters.kind=lora", "dmd.adapters.rank=2")
    kept = [name for name in module.state_dict() if not name.startswith(FROZEN)]
    parameters = sum(p.numel() for n, p in module.state_dict().items() if n in kept)
    assert all(".lora_" in name or name == "clipped" for name in kept)
    assert parameters < 0.4 * sum(
        p.numel() for p in module.objective.teacher.network.shared.model.parameters()
    )


@pytest.mark.parametrize("words", [(), ("dmd.adapters.kind=lora",)])
def test_the_folder_is_a_pipeline_that_makes_the_students_pictures(
    words: tuple[str, ...], folder: Path, tmp_path: Path
) -> None:
    """After two updates, plain diffusers in one step against the student's average, to 1e-4."""
    module = module_of(folder, *words)
    student, fake, *_ = module.configure_optimizers()
    for step in range(2):
        module.fake_updates([fake], step)
        module.student_update(student, step)  # type: ignore[arg-type]
    module.save(tmp_path / "student", 2)
    pipeline = DiffusionPipeline.from_pretrained(tmp_path / "student", safety_checker=None)
    z = torch.randn(1, *module.objective.shape, generator=stream("z"))
    found = pipeline(
        PROMPTS[1], num_inference_steps=1, height=8, width=8, latents=z, output_type="latent"
    ).images
    with torch.no_grad():
        o = module.objective
        expected = o.generate(o.student_ema, z, torch.tensor([1]))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert (tmp_path / "student/lora").is_dir() == bool(words)


def test_the_discriminator_reads_latents_of_captioned_images(folder: Path) -> None:
    words = (
        "prompts.path=null",
        "data.size=8",
        "data.views=2",
        "dmd.gan.fake_weight=0.1",
        "dmd.gan.student_weight=0.1",
        "dmd.gan.latents=encoded",
    )
    module = module_of(folder, *words)
    student, fake, *_ = module.configure_optimizers()
    batch = next(iter(module.train_dataloader()))
    assert batch[0].shape == (4, 3, 8, 8)
    module.fake_updates([fake], 0, batch)
    module.student_update(student, 0)  # type: ignore[arg-type]
    assert module.objective.latest_discriminator is not None
    assert torch.isfinite(module.objective.latest_discriminator)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ("dmd.student_timestep=1000",),
            r"dmd\.student_timestep: 1000, but the teacher's last timestep is 49",
        ),
        (
            ("data.size=16", "prompts.path=null"),
            r"data\.size: shapes has 16×16 images, but .* 8×8",
        ),
        (("prompts.path=nowhere.txt",), r"nowhere\.txt does not exist"),
        (
            ("dmd.adapters.kind=lora", 'dmd.adapters.targets=["nothing"]'),
            r"dmd\.adapters\.targets: 'nothing'",
        ),
        (("teacher.size=[9,8]",), r"teacher\.size: 9 is no multiple of 2 pixels"),
    ],
)
def test_what_does_not_fit_is_one_line(words: tuple[str, ...], said: str, folder: Path) -> None:
    with pytest.raises(UserError, match=said) as caught:
        module_of(folder, *words)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "word",
    [
        "dmd.student_timestep=3",
        "teacher.negative_prompt=x",
        "teacher.size=[8,8]",
        "dmd.adapters.kind=lora",
        "dmd.gradient_checkpointing=true",
        "teacher.precision=float16",
    ],
)
def test_what_is_of_prompts_alone_is_refused_for_labels(word: str) -> None:
    with pytest.raises(UserError, match=rf"^{word.partition('=')[0]}: .* is for teachers with prompts"):
        load_config("dmd_carv", [word])


def test_a_prompt_that_is_cut_is_said(folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "long.txt").write_text("a red torus\n" + "a red cube " * 20)
    module_of(folder, f"prompts.path={tmp_path / 'long.txt'}")
    assert "1 of 2 are longer than the 10 tokens of the text model" in caplog.text


def test_only_prompts_of_the_users_own_are_warned_of(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The tiny tokenizer spells most words of the rendered captions; nobody can shorten those."""
    captions, long = ["a yellow cylinder, overhead view"], "a red cube " * 20
    with caplog.at_level(logging.INFO):
        load_with_prompts(config(folder), captions)
    (record,) = (r for r in caplog.records if "are longer than" in r.message)
    assert record.levelno == logging.INFO
    assert record.message.startswith("captions of shapes: 1 of 1 are longer than the 10 tokens")
    caplog.clear()
    (tmp_path / "long.txt").write_text(f"{long}\na red torus")
    with caplog.at_level(logging.WARNING):
        load_with_prompts(config(folder, f"prompts.path={tmp_path / 'long.txt'}"), captions)
        load_with_prompts(config(folder, "data.name=captioned", "data.path=x", "data.views=66"), captions)
    said = [r.message.partition(" tokens")[0] for r in caplog.records if "are longer than" in r.message]
    assert said == ["prompts: 1 of 2 are longer than the 10", "prompts: 1 of 3 are longer than the 10"]


def test_samples_of_a_text_student_are_not_ranked(folder: Path) -> None:
    said = DMD.no_model(config(folder))
    assert said.startswith(
        "samples of a text-to-image student are not ranked, but those of its teacher are: "
    )
    assert "python evaluate.py influence --teacher" in said
