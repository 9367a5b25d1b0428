import numpy as np
import pytest

from research.data.text import Prompts, Ragged, SentencePairs, TokenWindows
from research.data.tokenizer import BOS, EOS, PAD
from research.errors import UserError


def test_ragged_pads_and_cuts():
    ragged = Ragged.from_lists([[4, 5, 6], [], [7]])
    assert ragged.lengths().tolist() == [3, 0, 1]
    assert ragged.padded(np.array([0, 1, 2]), 2).tolist() == [[4, 5], [PAD, PAD], [7, PAD]]


def test_ragged_of_nothing():
    assert Ragged.from_lists([[], []]).padded(np.array([1, 0]), 2).tolist() == [[PAD, PAD]] * 2


def test_sentence_pairs_shift_the_target_by_one():
    pairs = SentencePairs.from_lists([[5, 6], [7]], [[8], [9, 10, 11]], max_length=5)
    batch = pairs.batch(np.array([0, 1]), np.zeros(2), None)
    assert batch["source"].tolist() == [[5, 6, EOS, PAD, PAD], [7, EOS, PAD, PAD, PAD]]
    assert batch["target_input"].tolist() == [[BOS, 8, PAD, PAD, PAD], [BOS, 9, 10, 11, PAD]]
    assert batch["target_output"].tolist() == [[8, EOS, PAD, PAD, PAD], [9, 10, 11, EOS, PAD]]
    assert pairs.lengths().tolist() == [3, 4]


def test_markers_of_other_vocabularies():
    markers = {"source_eos": 102, "bos": 2, "eos": 3, "pad": 9}
    pairs = SentencePairs.from_lists([[0, 6], [7]], [[0], [9, 10, 11]], 4, **markers)
    batch = pairs.batch(np.array([0, 1]), np.zeros(2), None)
    assert batch["source"].tolist() == [[0, 6, 102, 9], [7, 102, 9, 9]]
    assert batch["target_input"][0].tolist() == [2, 0, 9, 9] and batch["target_output"][0].tolist() == [0, 3, 9, 9]
    prompts = Prompts.from_lists([[5], [6, 7]], 3, pad=9).batch(np.array([0]), np.zeros(1), None)
    assert prompts["tokens"].tolist() == [[5, 9, 9]]


def test_evaluation_windows_predict_every_token_once():
    tokens = np.arange(100, 123)
    windows = TokenWindows(tokens, tokens % 7, length=5, seed=None)
    arrays = windows.batch(np.arange(len(windows)), np.zeros(len(windows)), None)
    batch = arrays["tokens"]
    inputs, targets = batch[:, :-1], batch[:, 1:]
    assert targets[targets >= 0].tolist() == tokens[1:].tolist()
    assert (targets[targets >= 0] == inputs[targets >= 0] + 1).all()
    assert arrays["bytes"].dtype == np.int32 and (arrays["bytes"] == np.where(batch >= 0, batch % 7, 0)).all()


def test_training_windows_stay_inside_and_move_with_the_epoch():
    tokens = np.arange(1000)
    windows = TokenWindows(tokens, tokens, length=10, seed=1)
    firsts = []
    for epoch in range(20):
        batch = windows.batch(np.arange(len(windows)), np.full(len(windows), epoch), None)["tokens"]
        assert batch.min() >= 0 and (np.diff(batch, axis=1) == 1).all()
        firsts.append(batch[0, 0])
    assert len(set(firsts)) > 5 and max(firsts) < 10
    again = TokenWindows(tokens, tokens, 10, 1).batch(np.array([3]), np.array([19]), None)["tokens"]
    assert again[0, 0] == firsts[19] + 30


def test_a_text_too_short_for_its_windows_is_refused():
    with pytest.raises(UserError, match=r"task\.length 64 does not fit a text of 70 tokens"):
        TokenWindows(np.arange(70), np.arange(70), length=64, seed=0)


def test_prompts():
    batch = Prompts.from_lists([[5], [6, 7]], 3).batch(np.array([1, 0]), np.zeros(2), None)
    assert batch["tokens"].tolist() == [[6, 7, PAD], [5, PAD, PAD]]
    assert batch["prompt_length"].tolist() == [2, 1]


def test_tokens_are_what_is_not_padding():
    pairs = SentencePairs.from_lists([[5, 6], [7] * 9], [[8], [9, 10, 11]], max_length=5)
    arrays = pairs.batch(np.array([0, 1]), np.zeros(2), None)
    real = sum((arrays[name] != PAD).sum(axis=1) for name in ("source", "target_output")) / 2
    assert pairs.tokens().tolist() == real.tolist() == [2.5, 4.5]
