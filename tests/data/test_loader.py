import re
import time

import numpy as np
import pytest

from research.data import loader
from research.data.loader import Batches, load
from research.data.plans import Bucket, Bucketed, ByLength, InOrder, Shuffled, make_buckets
from research.data.rows import Rows
from research.errors import UserError


class Squares(Rows):
    """A dataset whose arrays can be told from the index."""

    def __init__(self, count):
        self.count = count

    def __len__(self):
        return self.count

    def batch(self, indices, epochs, length):
        return {"square": indices**2, "epoch": epochs}


@pytest.mark.parametrize("workers", [0, 2])
def test_reading_from_a_later_step_gives_the_rest_of_the_stream(workers):
    batches = Batches(Squares(50), Shuffled(50, 8, seed=5), num_steps=9)
    everything = list(load(batches, 0, dict))
    rest = list(load(batches, 6, dict, workers=workers))
    assert len(everything) == 9 and len(rest) == 3
    for one, other in zip(everything[6:], rest, strict=True):
        assert {name: array.tolist() for name, array in one.items()} == {k: v.tolist() for k, v in other.items()}


def test_padding_rows_weigh_nothing():
    batches = list(load(Batches(Squares(5), InOrder(5, 4), 2), 0, dict))
    assert batches[1]["weight"].tolist() == [1, 0, 0, 0]
    assert batches[1]["square"][0] == 16
    assert sum(batch["weight"].sum() for batch in batches) == 5


def test_an_error_in_a_dataset_reaches_the_caller():
    class Broken(Squares):
        def batch(self, indices, epochs, length):
            raise ValueError("image 7 is broken")

    with pytest.raises(ValueError, match="image 7 is broken"):
        list(load(Batches(Broken(5), InOrder(5, 4), 2), 0, dict))


def test_processes_share_a_batch():
    plan = Shuffled(40, 8, seed=0)
    whole = Batches(Squares(40), plan, 1)[0]["square"]
    halves = [Batches(Squares(40), plan, 1, share=(process, 2))[0]["square"] for process in range(2)]
    assert np.concatenate(halves).tolist() == whole.tolist()


class Slow(Squares):
    """Hangs in the batch that holds example 20."""

    def batch(self, indices, epochs, length):
        if 20 in indices:
            time.sleep(3)
        return super().batch(indices, epochs, length)


def test_a_hung_reader_is_named(monkeypatch, capsys):
    monkeypatch.setattr(loader, "WARN_AFTER", 0.2)
    monkeypatch.setattr(loader, "GIVE_UP_AFTER", 0.4)
    batches = load(Batches(Slow(40), InOrder(40, 8), 5), 0, dict)
    with pytest.raises(
        UserError, match=r"the batch of step 2 \(examples 16, 17, .*\) has not come .* training.workers"
    ):
        list(batches)
    assert "warning: the batch of step 2 (examples 16" in capsys.readouterr().err


def test_a_hung_worker_process_is_named(monkeypatch, capsys):
    monkeypatch.setattr(loader, "WARN_AFTER", 1.0)
    batches = list(load(Batches(Slow(40), InOrder(40, 8), 5), 0, dict, workers=2, ahead=1))
    assert len(batches) == 5
    warned = capsys.readouterr().err
    assert re.search(r"batch of step 2 .*, read by worker 0 \(process \d+\), has not come", warned), warned


class Pictures(Rows):
    """Pictures of ones, of many sizes, with zeros below and to the right of them."""

    def __init__(self, sizes):
        self.sizes = sizes

    def __len__(self):
        return len(self.sizes)

    def lengths(self):
        return self.sizes

    def batch(self, indices, epochs, length):
        canvas = np.zeros((len(indices), *length), np.uint8)
        for picture, (height, width) in zip(canvas, self.sizes[indices], strict=True):
            picture[:height, :width] = 1
        return {"image": canvas, "index": indices}


def test_pictures_of_a_bucket_are_padded_to_its_height_and_width():
    sizes = np.random.default_rng(0).integers(1, 100, (50, 2))
    pictures = Pictures(sizes)
    buckets = make_buckets(sizes, 4, batch_size=6)
    training = Batches(pictures, Bucketed(sizes, pictures.tokens(), buckets, seed=0), 12)
    evaluation = ByLength(sizes, buckets)
    shapes, read = set(), []
    for batches in (training, Batches(pictures, evaluation, evaluation.steps_per_epoch)):
        read.clear()
        for batch in load(batches, 0, dict):
            assert (batch["image"].sum(axis=(1, 2)) == pictures.tokens()[batch["index"]]).all()  # nothing is cut off
            shapes.add(batch["image"].shape)
            read += batch["index"][batch["weight"] > 0].tolist()
    assert shapes == {(6, *bucket.length) for bucket in buckets} and len(shapes) == 4
    assert sorted(read) == list(range(50))


def test_heights_and_widths_are_filled_up_to_what_devices_share():
    plan = ByLength(np.array([[30, 50]]), (Bucket((32, 50), 2),))
    batch = Batches(Pictures(np.array([[30, 50]])), plan, 1, length_multiple=3)[0]
    assert batch["image"].shape == (2, 33, 51) and batch["weight"].tolist() == [1, 0]
