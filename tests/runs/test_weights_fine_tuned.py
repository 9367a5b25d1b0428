"""Published encoders with the new layer of a task as runs that answer as transformers does, and the way back."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import research.runs
from experiments.train import train
from research.errors import UserError
from research.runs.experiment import open_run
from research.runs.exported import export_model
from research.runs.imported import import_model
from tests.runs.test_weights import CONFIG, arrays_of, changed, command

FIXTURES = Path(__file__).resolve().parents[1] / "fixtures"
KINDS = ("classes", "tags", "answers")


@pytest.fixture
def published(tmp_path):
    """`published("bert", "classes")`: a folder as it would be published, and what the reference library answers."""

    def copy(name, kind):
        folder, heads = tmp_path / f"{name}_{kind}", FIXTURES / "texts" / f"{name}_heads"
        golden = FIXTURES / "transformers" / folder.name
        shutil.copytree(golden, folder)
        if name == "bert":
            shutil.copy(heads / "vocab.txt", folder)
        else:  # the same layers on the encoder that has a tokenizer
            source = FIXTURES / "texts" / name
            for file in ("vocab.json", "merges.txt"):
                shutil.copy(source / file, folder)
            encoder = load_file(source / "model.safetensors")
            arrays = {key: array for key, array in encoder.items() if key.startswith("roberta.")}
            layers = load_file(heads / "heads.safetensors")
            arrays |= {key.removeprefix(f"{kind}/"): layers[key] for key in layers if key.startswith(kind)}
            save_file(arrays, folder / "model.safetensors")
            changed(folder, vocab_size=300, max_position_embeddings=66)
        return folder, json.loads((heads / "answers.json").read_text())

    return copy


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["bert", "roberta"])
def test_answers_are_those_of_pipelines(name, kind, published, tmp_path):
    source, expected = published(name, kind)
    run, out = tmp_path / "run", tmp_path / "out"
    reference = ["--reference", source / "answers.safetensors"] if name == "bert" else []
    command("import", source, run, *reference)
    command("verify", run)
    if kind == "answers":
        answers = research.runs.open(run).answer(["\t".join(pair) for pair in expected["questions"]])
        assert [[answer["text"], answer["answer_start"]] for answer in answers] == expected["spans"]
    elif kind == "tags":
        for text, answer, tags in zip(
            expected["texts"], research.runs.open(run).answer(expected["texts"]), expected["tags"], strict=True
        ):
            places = np.cumsum([0, *(len(word) + 1 for word in text.split(" ")[:-1])])
            starts = [place for place, _ in tags]
            # A byte-level token begins with the space before its word.
            first = [starts.index(place if place in starts else place - 1) for place in places.tolist()]
            assert answer["tags"] == [tags[place][1] for place in first]
    else:
        answers = research.runs.open(run).answer([*expected["texts"], *map("\t".join, expected["pairs"])])
        for answer, chances in zip(answers, expected["classes"], strict=True):
            assert answer["label"] == max(chances, key=chances.get)
            assert answer["probability"] == pytest.approx(max(chances.values()), abs=1e-5)
        task = open_run(run).task
        rows = task.questions([task.example("\t".join(pair)) for pair in expected["pairs"]]).first(2)["tokens"]
        found = [[int(token) for token in row if token != task.pad] for row in rows]
        assert found == expected["pair_ids"]
    command("export", run, out)
    before, after = (load_file(folder / "model.safetensors") for folder in (source, out))
    assert before.keys() == after.keys() and all(np.array_equal(before[key], after[key]) for key in before)
    configs = [json.loads((folder / "config.json").read_text()) for folder in (source, out)]
    assert {key: configs[1].get(key) for key in configs[0]} == configs[0]
    command("import", out, tmp_path / "again")
    first, again = arrays_of(run), arrays_of(tmp_path / "again")
    assert first.keys() == again.keys() and all(np.array_equal(first[path], again[path]) for path in first)


@pytest.mark.parametrize(
    ("problem", "kind", "answer"),
    [("multi_label_classification", "labels", "labels"), ("regression", "number", "value"), (None, "number", "value")],
)
def test_other_kinds_of_labels(problem, kind, answer, published, tmp_path):
    source, expected = published("bert", "classes")
    if kind == "number":
        arrays = load_file(source / "model.safetensors")
        arrays = {key: array[:1] if key.startswith("classifier") else array for key, array in arrays.items()}
        save_file(arrays, source / "model.safetensors")
        changed(source, id2label={"0": "LABEL_0"}, label2id={"LABEL_0": 0})
    changed(source, problem_type=problem)
    command("import", source, tmp_path / "run")
    assert open_run(tmp_path / "run").task.kind == kind
    assert answer in research.runs.open(tmp_path / "run").answer(expected["texts"])[0]
    command("export", tmp_path / "run", tmp_path / "out")
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["problem_type"] == (problem or "regression")
    assert len(config["id2label"]) == (1 if kind == "number" else 3)


TEXTS = [f"{'abc'[number % 3]} be\t{'xyz'[number % 3]}" for number in range(12)]


def trained_here(tmp_path, source, **fields):
    """A run of labelled texts that starts from a published folder, or afresh; fields: those of the task."""
    model = {"name": "bert", "width": 16, "num_layers": 2, "num_heads": 2, "mlp_width": 32, "max_length": 12}
    config = {
        "model": {**model, "scan": source is not None, "head": "pooler" if fields["pool"] == "pooler" else "none"},
        "task": {"name": "text_classification", "length": 8, **fields},
        "data": {"name": "table", "path": str(tmp_path / "texts.tsv")},
        "optimizer": {"name": "adamw", "learning_rate": 1e-3},
        "training": {"batch_size": 4, "duration": {"steps": 2}},
    }
    if source:
        config["transfer"] = {"source": str(source)}
        config["task"]["tokenizer"] = {"path": str(source / "vocab.txt")}
    else:
        config["task"]["tokenizer"] = {"kind": "wordpiece", "vocab_size": 20}
    (tmp_path / "texts.tsv").write_text("\n".join(["text\tlabel", *TEXTS]))
    (tmp_path / "config.py").write_text(CONFIG.format(config=config))
    train(str(tmp_path / "config.py"), tmp_path / "run", {})
    return tmp_path / "run"


def test_a_classifier_that_was_trained_here(published, tmp_path):
    """From a fine-tuned model, whose layer is replaced, in scanned layers: its labels travel, its answers come back."""
    source, _ = published("bert", "classes")
    run = trained_here(tmp_path, source, pool="pooler")
    command("export", run, tmp_path / "out")
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["architectures"] == ["BertForSequenceClassification"] and config["pad_token_id"] == 0
    assert config["id2label"] == {"0": "x", "1": "y", "2": "z"} and config["label2id"] == {"x": 0, "y": 1, "z": 2}
    command("import", tmp_path / "out", tmp_path / "again")
    answers = [research.runs.open(folder).answer(["a be", "c be"]) for folder in (run, tmp_path / "again")]
    assert answers[0] == answers[1]


def test_another_pooling_has_no_class_there(tmp_path):
    run = trained_here(tmp_path, None, pool="mean")
    with pytest.raises(UserError, match=r"has task\.pool 'pooler', model\.head 'pooler': train with that to export it"):
        command("export", run, tmp_path / "out")
    assert not (tmp_path / "out").exists()


WRONG = {
    "three ends": ("answers", {"id2label": {"0": "a", "1": "b", "2": "c"}}, r"shapes differ|has 3 labels"),
    "two numbers": ("classes", {"problem_type": "regression"}, "gives 3 numbers for a text: only one is known here"),
    "one label too few": ("tags", {"id2label": {"0": "O", "1": "B-X"}}, r"classifier\.weight is \(3, 16\)"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_one_sentence(name, published, tmp_path):
    kind, values, sentence = WRONG[name]
    source, _ = published("bert", kind)
    changed(source, **values)
    with pytest.raises(UserError, match=sentence):
        command("import", source, tmp_path / "run")
    assert {path.name for path in tmp_path.iterdir()} == {source.name}


def test_what_is_exported_says_what_it_is(published, tmp_path):
    """Arrays of half precision come out as float32, texts are cut where the run cuts them, and a failure leaves
    nothing."""
    source, _ = published("bert", "classes")
    arrays = load_file(source / "model.safetensors")
    save_file({name: array.astype(np.float16) for name, array in arrays.items()}, source / "model.safetensors")
    changed(source, dtype="float16", torch_dtype="float16")
    run, out = tmp_path / "run", tmp_path / "out"
    command("import", source, run)
    command("export", run, out)
    config = json.loads((out / "config.json").read_text())
    assert config["dtype"] == config["torch_dtype"] == "float32"
    assert {array.dtype.name for array in load_file(out / "model.safetensors").values()} == {"float32"}
    assert json.loads((out / "tokenizer_config.json").read_text())["model_max_length"] == 12
    with pytest.MonkeyPatch.context() as patch, pytest.raises(OSError, match="disk full"):
        patch.setattr("research.runs.exported.write_json", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
        export_model(run, tmp_path / "again")
    assert not (tmp_path / "again").exists() and not list(tmp_path.glob(".again*"))


def test_an_unknown_kind_of_labels_is_refused(published, tmp_path):
    source, _ = published("bert", "classes")
    for problem in ("ranking", ["x"]):
        changed(source, problem_type=problem)
        with pytest.raises(
            UserError, match=r"config\.json has problem_type .*: use one of single_label_classification"
        ):
            import_model(source, tmp_path / "run")
