"""A part of `folder_fuzz`: damaged files of a run's folder give a sentence or the undisturbed result."""

from tests.experiments.folder_fuzz import faults

SPEC = "configs/translation/phrasebook.py:tiny"
PART = {
    ("config.json", "flipped", "evaluate"),
    ("config.json", "pipe", "train"),
    ("tokenizer.json", "flipped", "predict"),
    ("metrics.jsonl", "pipe", "train"),
}


def test_damaged_files_give_a_sentence_or_the_undisturbed_result(trained):
    assert list(faults(trained(SPEC), SPEC, {}, lambda *names: names in PART)) == []
