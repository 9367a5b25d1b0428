import itertools

import numpy as np
import pytest

from research.data.plans import Bucket, Bucketed, InOrder, Shuffled, make_buckets


def test_shuffled_reads_every_example_once_an_epoch_across_batch_borders():
    plan = Shuffled(num_examples=10, batch_size=4, seed=3)
    selections = [plan(step) for step in range(5)]  # 20 positions: two epochs
    indices = np.concatenate([selection.indices for selection in selections])
    epochs = np.concatenate([selection.epochs for selection in selections])
    assert epochs.tolist() == [0] * 10 + [1] * 10
    assert sorted(indices[:10]) == sorted(indices[10:]) == list(range(10))
    assert indices[:10].tolist() != indices[10:].tolist()


def test_a_batch_is_a_function_of_seed_and_step_alone():
    plan = Shuffled(num_examples=1000, batch_size=16, seed=7)
    forward = [plan(step).indices.tolist() for step in range(130)]
    backward = [Shuffled(1000, 16, 7)(step).indices.tolist() for step in reversed(range(130))][::-1]
    assert forward == backward
    assert Shuffled(1000, 16, 8)(0).indices.tolist() != forward[0]


def test_shuffled_handles_batches_larger_than_the_data():
    selection = Shuffled(num_examples=3, batch_size=8, seed=0)(0)
    assert np.bincount(selection.indices).tolist() in ([3, 3, 2], [3, 2, 3], [2, 3, 3])
    assert selection.epochs.tolist() == [0, 0, 0, 1, 1, 1, 2, 2]


@pytest.mark.parametrize("num_examples", [1, 7, 8, 9])
def test_in_order_pads_the_last_batch(num_examples):
    plan = InOrder(num_examples, 4)
    indices = np.concatenate([plan(step).indices for step in range(int(plan.steps_per_epoch))])
    assert indices[:num_examples].tolist() == list(range(num_examples))
    assert (indices[num_examples:] == -1).all() and len(indices) - num_examples < 4


def brute_force_padding(lengths, count):
    """The fewest padded tokens that any choice of `count` bucket lengths allows."""
    candidates = sorted(set(lengths))
    choices = itertools.combinations(candidates[:-1], min(count, len(candidates)) - 1)
    totals = []
    for choice in choices:
        ends = [*choice, candidates[-1]]
        totals.append(sum(min(end for end in ends if end >= length) for length in lengths))
    return min(totals)


@pytest.mark.parametrize("count", [1, 2, 3, 5, 20])
def test_bucket_lengths_waste_the_least(count):
    lengths = np.random.default_rng(count).integers(1, 12, 60)
    buckets = make_buckets(lengths, count, batch_size=4)
    ends = [bucket.length for bucket in buckets]
    padded = sum(min(end for end in ends if end >= length) for length in lengths)
    assert padded == brute_force_padding(lengths.tolist(), count) and len(buckets) <= count


def test_buckets_hold_about_as_many_tokens():
    buckets = make_buckets(np.array([5, 10, 20, 40]), 4, batch_tokens=200, multiple=4)
    assert [(bucket.length, bucket.batch_size) for bucket in buckets] == [(5, 40), (10, 20), (20, 8), (40, 4)]


def test_bucketed_reads_every_example_once_an_epoch():
    lengths = np.random.default_rng(0).integers(1, 30, 101)
    plan = Bucketed(lengths, make_buckets(lengths, 3, batch_size=8), seed=1)
    steps = int(plan.steps_per_epoch)
    epochs = [[plan(step) for step in range(epoch * steps, (epoch + 1) * steps)] for epoch in range(2)]
    orders = []
    for epoch in epochs:
        indices = np.concatenate([selection.indices for selection in epoch])
        orders.append(indices[indices >= 0].tolist())
        assert sorted(orders[-1]) == list(range(101))
        for selection in epoch:
            assert lengths[selection.indices[selection.indices >= 0]].max() <= selection.length
    assert orders[0] != orders[1] and plan.num_examples == 101
    assert [selection.length for selection in epochs[0]] != sorted(selection.length for selection in epochs[0])
    used = sum(len(s.indices) * s.length for s in epochs[0])
    assert plan.padding(lengths) == pytest.approx(1 - lengths.sum() / used)


def test_bucketed_evaluation_goes_by_length():
    lengths = np.array([5, 1, 9, 3])
    plan = Bucketed(lengths, make_buckets(lengths, 2, batch_size=2), None)
    read = np.concatenate([plan(step).indices for step in range(int(plan.steps_per_epoch))])
    assert read[read >= 0].tolist() == [1, 3, 0, 2]


def test_examples_longer_than_the_last_bucket_are_left_out():
    plan = Bucketed(np.array([5, 50, 7]), (Bucket(8, 2),), seed=0)
    assert plan.num_examples == 2 and sorted(plan(0).indices) == [0, 2]
