"""Every command that opens a run, with a run of every task: it answers, or says in one sentence what it cannot do."""

import argparse
import dataclasses
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import flax.linen as nn
import jax
import numpy as np
import pytest
from PIL import Image

from experiments import evaluate, inspect, pictures, predict, report
from research.config import read_config
from research.errors import UserError
from research.reports.training import train
from research.runs.experiment import build_experiment, open_run
from research.runs.predictor import Predictor
from research.runs.standalone import export_standalone
from research.runs.tables import SOURCES, TASKS
from research.tasks.task import Task
from tests.image_masks import write_masks

MEASURED = {"splits": None, "samples": 2, "overrides": {}, "name": None, "heads": None, "alignments": None}
FEW = {"training.duration": "{'steps': 2}"}
RUNS = {
    "translation": ("configs/translation/phrasebook.py:tiny", "5 days"),
    "language_modeling": ("configs/language/shakespeare.py:tiny", "To be"),
    "next_token": ("configs/theory/grokking.py:tiny", None),
    "classification": ("configs/vision/digits.py:tiny", "IMAGE"),
    "sentences": ("configs/language/sentences.py:tiny", "5 days"),
    "masked_language": ("configs/language/bert_pretrain.py:tiny", "the [MASK] of"),
    "question_answering": ("configs/language/stories.py:tiny", "Where is Mary?\tMary went to the park."),
    "text_classification": ("configs/language/fine_tune.py:file=texts.csv,tiny", "good dogs"),
    "token_classification": ("configs/language/ud_ewt.py:folder=.,tiny", "good dogs"),
    "segmentation": ("configs/vision/membrane.py:tiny", "IMAGE"),
    "detection": ("configs/vision/detr_scenes.py:glyphs=shapes,tiny", "IMAGE"),
    "pretext": ("configs/vision/rotation.py:tiny", "IMAGE"),
    "masked_images": ("configs/vision/mae.py:tiny", "IMAGE"),
    "packed_classification": ("configs/vision/packed.py:tiny", "IMAGE"),
    "image_text": ("configs/multimodal/clip_scenes.py:tiny", "IMAGE"),
    "captioning": ("configs/multimodal/caption_scenes.py:tiny", "IMAGE"),
}


PLACES = {"detection", "segmentation"}
"""Tasks whose answers are places in an image: they are drawn. They came after `image.json`."""


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A function from a task's name to the folder of its run, made once, and an input for it."""
    root = tmp_path_factory.mktemp("tasks")
    (root / "text.txt").write_text("To be, or not to be, that is the question.\n" * 60)
    (root / "texts.csv").write_text("text,label\n" + "good dogs,yes\nbad cats,no\n" * 50)
    (root / "a.conllu").write_text("1\tgood\t_\tADJ\n2\tdogs\t_\tNOUN\n\n" * 50)
    write_masks(root / "masks")
    Image.fromarray(np.full((8, 8), 99, np.uint8)).save(root / "image.png")

    def made(name: str) -> tuple[Path, str]:
        spec, item = RUNS[name]
        folder = root / name
        if not folder.exists():
            data = {
                "language_modeling": "text.txt",
                "text_classification": "texts.csv",
                "token_classification": "a.conllu",
                "segmentation": "masks",
            }
            overrides = FEW | ({"data.path": str(root / data[name])} if name in data else {})
            overrides |= {"data.test_path": "none"} if name == "token_classification" else {}
            train(spec, folder, overrides)
        if item is None:
            report_of = json.loads((folder / "report.json").read_text())
            item = report_of["samples"][0]["source"]
        return folder, str(root / "image.png") if item == "IMAGE" else item

    return made


def test_every_task_is_here():
    assert set(RUNS) == set(TASKS)


@pytest.mark.parametrize("name", RUNS)
def test_commands_of_a_trained_run(folders, name, capsys):
    folder, item = folders(name)
    chosen = {"workdir": str(folder), "checkpoint": None, "options": {}}
    shown = json.loads((folder / "report.json").read_text())
    assert shown["samples"] and all({"answer", "label"} & set(sample) for sample in shown["samples"])
    capsys.readouterr()
    evaluate.main(argparse.Namespace(**chosen, **MEASURED))
    results = json.loads((folder / "results.json").read_text())
    lines = capsys.readouterr().out.splitlines()
    assert all(f"{metric} {value:.4f}" in lines for metric, value in results.items())
    predict.main(argparse.Namespace(**chosen, inputs=[item, item], format="jsonl", pictures=None))
    first, second = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert {"text", "label"} & set(first) and (first == second or name in ("language_modeling", "masked_images"))
    report.main(argparse.Namespace(runs=[str(folder)], samples=True, output=None))
    assert "<dl class=sample>" in (page := (folder / "report.html").read_text()) or "<img src" in page
    if name in ("masked_images", "packed_classification"):
        with pytest.raises(Exception, match="there is nothing to draw of this run's answers"):
            pictures.main(argparse.Namespace(**chosen, item=item, data=True, rows=None, layer=None, head=None))
    else:
        pictures.main(argparse.Namespace(**chosen, item=item, data=True, rows=None, layer=None, head=None))
        assert any((folder / name).exists() for name in ("attention", "relevance.png", "answer.png"))
    overrides = json.loads((folder / "config.json").read_text())["data"]
    changed = {"data.path": overrides["path"]} if "path" in overrides else {}
    changed |= {"data.test_path": "none"} if name == "token_classification" else {}
    capsys.readouterr()
    shown = {"split": "train", "count": 1, "step": 0, "format": "text", "audit": False}
    inspect.main(argparse.Namespace(config=RUNS[name][0], overrides=changed, **shown))
    assert "the training batch of step 0" in capsys.readouterr().out


def without_dropout(model: nn.Module) -> nn.Module:
    fields = [field.name for field in dataclasses.fields(model) if field.name not in ("parent", "name")]
    parts = {name: without_dropout(each) for name in fields if isinstance(each := getattr(model, name), nn.Module)}
    rates = {name: 0.0 for name in fields if name in ("dropout", "attention_dropout", "stochastic_depth")}
    return model.clone(**parts, **rates)


WITHOUT_LOGITS = {"sentences", "detection", "pretext", "masked_images", "image_text"}


@pytest.mark.parametrize("name", RUNS)
def test_every_task_with_logits_learns_from_a_run_of_its_own(folders, name, tmp_path):
    """A student that starts with the teacher's parameters, without dropout, has nothing to learn from it."""
    folder, _ = folders(name)
    config = read_config(folder / "config.json")
    config.distillation = {"teacher": str(folder), "weight": 1.0}
    config.transfer = {"source": str(folder), "new": ()}
    experiment = build_experiment(config, tmp_path)
    if name in WITHOUT_LOGITS:
        with pytest.raises(UserError, match=r"has no logits to distil: leave the section distillation out"):
            _ = experiment.run
        assert not (tmp_path / "teacher.json").exists()
        return
    experiment = dataclasses.replace(experiment, model=without_dropout(experiment.model))
    run = experiment.run
    with jax.set_mesh(run.mesh):
        _, metrics = jax.jit(run.step.train)(run.create_state(), run.place(run.batches[0]), run.taught)
    total, weight = map(float, metrics["distillation_loss"])
    assert weight > 0 and np.isfinite(total)
    if not run.abstract_state.model_state:  # the statistics of a batch are not those of evaluation
        assert total / weight == pytest.approx(0, abs=1e-4)


@pytest.mark.parametrize(("name", "metric"), [("text_classification", "accuracy"), ("question_answering", "f1")])
def test_what_each_head_is_worth(folders, name, metric, capsys):
    """A metric of the loss, and a score of whole answers."""
    folder, _ = folders(name)
    asked = {"workdir": str(folder), "checkpoint": None, "options": {}, **MEASURED}
    evaluate.main(argparse.Namespace(**asked | {"heads": metric}))
    found = json.loads((folder / "heads.json").read_text())
    results = json.loads((folder / "results.json").read_text())
    assert found["whole"] == pytest.approx(results[f"test/{metric}"]) and found["metric"] == f"test/{metric}"
    ((layer, values),) = found["without"].items()
    assert layer == "encoder/layer_0/self_attention" and len(values) == 2
    curves = found["removed"]
    assert [*curves] == ["importance", "random 0", "random 1", "random 2"] and (folder / "heads.png").exists()
    for curve in curves.values():
        assert [count for count, _ in curve] == [0, 1, 2] and curve[0][1] == pytest.approx(found["whole"])
        assert any(curve[1][1] == pytest.approx(value) for value in values)
    assert len({curve[2][1] for curve in curves.values()}) == 1
    changes = " | ".join(f"{value - found['whole']:+.4f}" for value in values)
    assert f"| {layer} | {changes} |" in capsys.readouterr().out
    with pytest.raises(UserError, match="--heads=x is not measured: use one of "):
        evaluate.main(argparse.Namespace(**asked | {"heads": "x"}))


def test_attention_is_compared_with_the_links_of_people(folders, tmp_path, capsys):
    folder, _ = folders("translation")
    asked = {"workdir": str(folder), "checkpoint": None, "options": {}, **MEASURED}
    count = json.loads((folder / "manifest.json").read_text())["data"]["test"]["examples"]
    (tmp_path / "links.txt").write_text("0-0\n" * count)
    evaluate.main(argparse.Namespace(**asked | {"alignments": str(tmp_path / "links.txt")}))
    found = json.loads((folder / "alignment.json").read_text())
    assert found["split"] == "test" and all("cross" in layer for layer in found["layers"])
    printed = capsys.readouterr().out
    for layer, scores in found["layers"].items():
        assert f"{layer} alignment_error_rate {scores['alignment_error_rate']:.4f}" in printed
        assert 0 <= scores["alignment_error_rate"] <= 1
    (tmp_path / "links.txt").write_text("0-0\n")
    with pytest.raises(UserError, match=f"has 1 lines for {count} pairs of the test split"):
        evaluate.main(argparse.Namespace(**asked | {"alignments": str(tmp_path / "links.txt")}))
    with pytest.raises(UserError, match=r"nowhere.txt does not exist: check the path"):
        evaluate.main(argparse.Namespace(**asked | {"alignments": "nowhere.txt"}))
    with pytest.raises(UserError, match="--heads and --name are different measurements: give one"):
        evaluate.main(argparse.Namespace(**asked | {"heads": "loss", "name": "x"}))
    other = asked | {"workdir": str(folders("text_classification")[0]), "alignments": str(tmp_path / "links.txt")}
    with pytest.raises(UserError, match="--alignments is for translations"):
        evaluate.main(argparse.Namespace(**other))


def test_images_of_another_source_are_classified_by_the_names_of_their_labels(folders, tmp_path):
    """As often right as the predictor is, image by image."""
    folder, _ = folders("image_text")
    random = np.random.default_rng(0)
    for name in ("bars", "stars"):
        (tmp_path / "pictures" / name).mkdir(parents=True)
        for number in range(6):
            pixels = random.integers(0, 256, (16, 16, 3), np.uint8)
            Image.fromarray(pixels).save(tmp_path / "pictures" / name / f"{number}.png")
    data = {"name": "image_folder", "path": str(tmp_path / "pictures"), "size": "16", "validation_fraction": "0.5"}
    asked = {"workdir": str(folder), "checkpoint": None, "options": {"classes": ["a blue bar", "a red star"]}}
    asked |= MEASURED | {"overrides": {f"data.{name}": value for name, value in data.items()}, "name": "zero_shot"}
    evaluate.main(argparse.Namespace(**asked))
    found = json.loads((folder / "evaluations" / "zero_shot.json").read_text())["results"]
    source = SOURCES["image_folder"](data["path"], size=16, validation_fraction=0.5)
    examples = [source.examples("validation")[index] for index in range(6)]
    answers = Predictor.open(folder).answers(examples, **asked["options"])
    right = [
        answer["label"] == asked["options"]["classes"][each["label"]]
        for answer, each in zip(answers, examples, strict=True)
    ]
    assert found["validation/zero_shot_accuracy"] == pytest.approx(np.mean(right))


def test_on_a_terminal_a_continuation_is_shown_as_it_is_written(folders, capsys, monkeypatch):
    folder, item = folders("language_modeling")
    capsys.readouterr()
    asked = argparse.Namespace(
        workdir=str(folder), checkpoint=None, options={}, inputs=[item], format="text", pictures=None
    )
    predict.main(asked)
    whole = capsys.readouterr().out
    flushed = []
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setattr(sys.stdout, "flush", lambda: flushed.append(1))
    predict.main(asked)
    assert capsys.readouterr().out == whole and len(flushed) > 3


@pytest.mark.parametrize("name", sorted({name for name in RUNS if RUNS[name][1] == "IMAGE"} - PLACES))
def test_runs_from_before_the_shape_of_images_was_kept(folders, name, tmp_path):
    """Their answers are the same, and nothing is written into their folder."""
    folder, item = folders(name)
    older = tmp_path / "older"
    shutil.copytree(folder, older)
    (older / "image.json").unlink()
    before = sorted(path.name for path in older.iterdir())
    answers = [Predictor.open(each).answer([item]) for each in (folder, older)]
    assert answers[0] == answers[1] and sorted(path.name for path in older.iterdir()) == before


@pytest.mark.parametrize("stored", ["[8, 8]", "[4, 4, 1]", "[null, null, null]", '["a", 8, 1]', "[0, 8, 1]"])
def test_a_shape_of_images_that_was_changed_changes_no_answer(folders, stored, tmp_path):
    folder, item = folders("classification")
    changed = tmp_path / "changed"
    shutil.copytree(folder, changed)
    (changed / "image.json").write_text(stored)
    try:
        answers = Predictor.open(changed).answer([item])
    except UserError as error:
        assert "image.json is not what the checkpoint" in str(error)
    else:
        assert answers == Predictor.open(folder).answer([item])


def test_later_answers_compile_nothing_and_read_no_files(folders, monkeypatch):
    predictor, compiled = Predictor.open(folders("translation")[0]), []
    jax.monitoring.register_event_duration_secs_listener(lambda event, *_, **__: compiled.append(event))
    first = predictor.answer(["5 days"])
    assert any("compile" in event for event in compiled)
    compiled.clear()
    monkeypatch.setattr("builtins.open", None)
    assert predictor.answer(["5 days"]) == first and predictor.answer(["15 days"])
    assert not [event for event in compiled if "compile" in event]


@pytest.mark.parametrize("name", sorted(PLACES))
def test_answers_that_are_places_are_drawn(folders, name, tmp_path):
    folder, item = folders(name)
    chosen = {"workdir": str(folder), "checkpoint": None, "options": {}, "inputs": [item, item], "format": "text"}
    predict.main(argparse.Namespace(**chosen, pictures=str(tmp_path / "a" / "b")))
    assert [Image.open(tmp_path / "a" / "b" / f"{n}.png").size for n in (1, 2)] == [(20, 8)] * 2  # image, gap, answer
    chosen["workdir"] = str(folders("classification")[0])
    with pytest.raises(UserError, match="there is nothing to draw of this run's answers: leave --pictures out"):
        predict.main(argparse.Namespace(**chosen, pictures=str(tmp_path)))


ALONE = {name for name in RUNS if TASKS[name].standalone is not Task.standalone}
LONGER = {
    "translation": "15 days",
    "text_classification": "bad\tgood cats " + "bad dogs " * 40,
    "token_classification": "good dogs " * 60,
    "sentences": "12 hours and 3 feet " * 9,
    "language_modeling": "be, or not",
}
"""Further inputs, of more than one row or cut where a task does that."""
ISOLATED = """
import runpy, sys
sys.modules["research"] = None  # an import of it fails
sys.argv = sys.argv[1:]
sys.path.insert(0, sys.argv[0].rpartition("/")[0])
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.mark.parametrize("name", sorted(ALONE))
def test_an_exported_run_answers_as_the_run_does(folders, name, tmp_path):
    """In a process that cannot import this project, from another folder: the self-test, then answers to two inputs."""
    pytest.importorskip("flatbuffers")
    folder, item = folders(name)
    items = [item, LONGER.get(name, item)]
    if Path(item).suffix == ".png":
        items[1] = str(tmp_path / "other.png")
        pixels = np.random.default_rng(1).integers(0, 256, (37, 50, 4), np.uint8)
        Image.fromarray(pixels).save(items[1])
    export_standalone(open_run(folder), tmp_path / "exported")
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    command = [sys.executable, "-c", ISOLATED, str(tmp_path / "exported" / "run.py"), "--check", "--json", *items]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    checked, *found = done.stdout.splitlines()
    assert checked == "the answers are those that the model gave when it was exported"
    for line, wanted in zip(found, Predictor.open(folder).answer(items), strict=True):
        assert_alike(json.loads(line), wanted)


def assert_alike(found, wanted):
    """Equal texts and labels, and numbers that are as near as float32 has them."""
    if isinstance(wanted, dict):
        assert found.keys() == wanted.keys()
        for name in wanted:
            if name != "text" or "vector" not in wanted:  # whose text has the numbers
                assert_alike(found[name], wanted[name])
    elif isinstance(wanted, list):
        assert len(found) == len(wanted)
        for one, other in zip(found, wanted, strict=True):
            assert_alike(one, other)
    else:
        assert found == (pytest.approx(wanted, rel=1e-4, abs=1e-5) if isinstance(wanted, float) else wanted)


@pytest.mark.parametrize("name", sorted(RUNS.keys() - ALONE))
def test_a_run_that_cannot_stand_alone(folders, name, tmp_path):
    with pytest.raises(UserError, match=f"a run of {name} cannot stand alone: export one of captioning, "):
        export_standalone(open_run(folders(name)[0]), tmp_path / "exported")
    assert not (tmp_path / "exported").exists()
