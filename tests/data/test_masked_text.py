import types

import numpy as np
import pytest

from research.data.masked_text import Marks, MaskedRows, windows_of

PAD, UNK, CLS, SEP, MASK = range(5)
WORDS = 95
MARKS = Marks(CLS, SEP, MASK, 0, 5 + WORDS, None)


def texts(lengths):
    """Tokens of texts in which no token is a mark, and each token says in which text and where it stands."""
    stream = []
    for number, length in enumerate(lengths):
        stream += [5 + (number * 31 + place) % WORDS for place in range(length)] + [SEP]
    return np.array(stream, np.uint16)


def rows(lengths=(300, 200, 250), *, marks=MARKS, pairs=False, length=64, masked=0.15):
    stream = texts(lengths)
    found = windows_of(stream, SEP, length - (3 if pairs else 2))
    return MaskedRows(stream, *found, marks, masked=masked, pairs=pairs, seed=3, length=length)


def batch_of(data, epoch=0):
    everything = np.arange(len(data))
    return data.batch(everything, np.full(len(data), epoch), None)


def test_windows_cover_every_text_and_span_none():
    stream = texts([7, 3, 20])
    starts, ends, numbers = windows_of(stream, SEP, 8)
    pieces = [stream[a:b].tolist() for a, b in zip(starts, ends, strict=True)]
    assert not any(SEP in piece for piece in pieces) and numbers.tolist() == [0, 2, 2, 2]
    assert pieces[0] == stream[:7].tolist()
    assert [token for piece in pieces[1:] for token in piece] == stream[-21:-1].tolist()
    assert all(len(part) == 0 for part in windows_of(np.zeros(0, np.uint16), SEP, 8))


def test_masked_tokens_are_replaced_as_published():
    """Over 50 epochs: 15 % of the tokens, of which 80 % are [MASK], 10 % random and 10 % kept, in new places."""
    data = rows()
    counts, places = {"mask": 0, "kept": 0, "other": 0}, set()
    for epoch in range(50):
        batch = batch_of(data, epoch)
        for row in range(len(data)):
            count = int(batch["masked"][row].sum())
            real = int(data.ends[row] - data.starts[row])
            assert count == max(1, round(0.15 * real)) and not batch["masked"][row, count:].any()
            where, labels = batch["places"][row, :count], batch["labels"][row, :count]
            assert (np.diff(where) > 0).all()
            now = batch["tokens"][row].copy()
            for token, label in zip(now[where], labels, strict=True):
                counts["mask" if token == MASK else "kept" if token == label else "other"] += 1
            now[where] = labels
            original = data.stream[data.starts[row] : data.ends[row]]
            assert now[: real + 2].tolist() == [CLS, *original, SEP] and not now[real + 2 :].any()
            places.add(tuple(where))
    total = sum(counts.values())
    assert counts["mask"] / total == pytest.approx(0.8, abs=0.02)
    assert counts["kept"] / total == pytest.approx(0.1 + 0.1 / (5 + WORDS), abs=0.015)
    assert len(places) > 45 * len(data)


def test_a_batch_depends_on_seed_epoch_and_index_alone():
    data = rows(pairs=True)
    everything, again = batch_of(data), data.batch(np.array([2, 0]), np.zeros(2, int), None)
    for name, array in again.items():
        np.testing.assert_array_equal(array, everything[name][[2, 0]])
    assert any((array != batch_of(data, 1)[name]).any() for name, array in everything.items())


def test_half_of_the_second_segments_are_of_another_text():
    data, others, same = rows(pairs=True), [], 0
    for epoch in range(60):
        batch = batch_of(data, epoch)
        for row in range(len(data)):
            tokens, segments = batch["tokens"][row].copy(), batch["segments"][row]
            count = int(batch["masked"][row].sum())
            tokens[batch["places"][row, :count]] = batch["labels"][row, :count]
            first_end, last = np.flatnonzero(tokens == SEP)
            assert segments.tolist() == [0] * (first_end + 1) + [1] * (last - first_end) + [0] * (63 - last)
            joined = [*tokens[1:first_end], *tokens[first_end + 1 : last]]
            original = data.stream[data.starts[row] : data.ends[row]].tolist()
            assert joined[: first_end - 1] == original[: first_end - 1]
            assert batch["other"][row] or joined == original
            same += batch["other"][row] and joined == original  # a short one may be the same by chance
        others.append(batch["other"].mean())
    assert np.mean(others) == pytest.approx(0.5, abs=0.06) and same < 10


def test_whole_words_are_masked_together():
    continues = np.arange(5 + WORDS) % 3 == 0
    data = rows(marks=Marks(CLS, SEP, MASK, 0, 5 + WORDS, continues), masked=0.3)
    for epoch in range(10):
        batch = batch_of(data, epoch)
        for row in range(len(data)):
            original = [CLS, *data.stream[data.starts[row] : data.ends[row]], SEP]
            masked = {int(place) for place, one in zip(batch["places"][row], batch["masked"][row], strict=True) if one}
            assert 0.2 * len(original) < len(masked) <= round(0.3 * (len(original) - 2))
            for place in range(2, len(original) - 1):
                if continues[original[place]]:
                    assert (place in masked) == (place - 1 in masked)


def test_marks_of_a_vocabulary():
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "play", "##ing"]
    ids = {"pad": 0, "start_token": 2, "end_token": 3, "mask": 4}
    vocabulary = types.SimpleNamespace(id_to_token=tokens.__getitem__, vocab_size=7, **ids)
    marks = Marks.of(vocabulary, True)
    assert marks.continues.tolist() == [False] * 6 + [True] and Marks.of(vocabulary, False).continues is None
