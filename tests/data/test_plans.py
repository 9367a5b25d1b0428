import itertools

import numpy as np
import pytest

from research.data.plans import Bucket, Bucketed, ByLength, InOrder, Shuffled, make_buckets, size_groups


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


def test_repeats_are_copies_as_of_other_epochs_and_apart():
    plan, once = Shuffled(num_examples=10, batch_size=12, seed=3, repeats=3), Shuffled(10, 4, 3)
    assert plan.steps_per_epoch == 10 / 12 and plan.num_examples == 10
    seen = []
    for step in range(15):
        selection, single = plan(step), once(step)
        copies = selection.indices.reshape(3, 4)
        assert (copies == single.indices).all()  # far apart: the neighbour that an image is mixed with is another one
        assert (selection.epochs.reshape(3, 4) == 3 * single.epochs + np.arange(3)[:, None]).all()
        seen += zip(selection.indices.tolist(), selection.epochs.tolist(), strict=True)
    assert len(set(seen)) == len(seen) == 180  # never the same example as of the same epoch
    assert np.bincount([index for index, _ in seen]).tolist() == [18] * 10


def test_repeats_that_do_not_divide_the_batch_leave_out_the_last_copies():
    selection = Shuffled(num_examples=100, batch_size=8, seed=0, repeats=3)(2)
    assert sorted(np.bincount(selection.indices)[np.unique(selection.indices)]) == [2, 3, 3]
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
    buckets = make_buckets(np.array([5, 10, 20, 40]), 4, batch_tokens=200)
    assert [(bucket.length, bucket.batch_size) for bucket in buckets] == [(5, 40), (10, 20), (20, 10), (40, 5)]


def test_bucketed_reads_every_example_once_an_epoch_in_full_batches():
    lengths = np.random.default_rng(0).integers(1, 30, 101)
    plan = Bucketed(lengths, lengths, make_buckets(lengths, 3, batch_size=8), seed=1)
    selections = [plan(step) for step in range(int(40 * plan.steps_per_epoch))]
    counts = np.zeros((41, 101), int)
    for selection in selections:
        assert selection.indices.min() >= 0 and lengths[selection.indices].max() <= selection.length
        np.add.at(counts, (selection.epochs, selection.indices), 1)
    assert (counts[:39] == 1).all() and counts[39:].max() == 1
    assert plan.num_examples == 101 and plan.steps_per_epoch == pytest.approx(101 / 8)
    order = [selection.length for selection in selections[:12]]
    assert order != sorted(order) and len(set(order)) == 3
    used = sum(len(s.indices) * s.length for s in selections)
    read = sum(lengths[s.indices].sum() for s in selections)
    assert plan.padding == pytest.approx(1 - read / used, abs=0.005)


def test_bucketed_is_a_function_of_seed_and_step_alone():
    lengths = np.random.default_rng(0).integers(1, 30, 101)
    buckets = make_buckets(lengths, 3, batch_tokens=64)
    forward = [Bucketed(lengths, lengths, buckets, 5)(step).indices.tolist() for step in range(60)]
    backward = [Bucketed(lengths, lengths, buckets, 5)(step).indices.tolist() for step in reversed(range(60))][::-1]
    assert forward == backward
    assert Bucketed(lengths, lengths, buckets, 6)(0).indices.tolist() != forward[0]


def test_evaluation_goes_by_length():
    lengths = np.array([5, 1, 9, 3, 9])
    plan = ByLength(lengths, make_buckets(lengths, 2, batch_size=2))
    selections = [plan(step) for step in range(int(plan.steps_per_epoch))]
    read = np.concatenate([selection.indices for selection in selections])
    assert lengths[read[read >= 0]].tolist() == [1, 3, 5, 9, 9] and sorted(read[read >= 0]) == list(range(5))
    assert all(lengths[s.indices[s.indices >= 0]].max() <= s.length for s in selections)


def test_examples_longer_than_the_last_bucket_are_left_out():
    lengths = np.array([5, 50, 7])
    plan = Bucketed(lengths, lengths, (Bucket(8, 2),), seed=0)
    assert plan.num_examples == 2 and sorted(plan(0).indices) == [0, 2]


def sizes_of_photos(seed, count=300):
    """Heights and widths: landscapes, portraits and squares, of many sizes."""
    random = np.random.default_rng(seed)
    shapes = np.array([[480, 640], [640, 480], [600, 600], [427, 640]])[random.integers(4, size=count)]
    return np.maximum((shapes * random.uniform(0.3, 1.0, (count, 1))).astype(np.int64), 1)


@pytest.mark.parametrize("count", [1, 2, 3, 7, 40])
def test_each_size_fits_into_one_of_few_groups(count):
    for sizes in (sizes_of_photos(count), np.random.default_rng(count).integers(1, 900, (200, 2))):
        groups = np.array(size_groups(sizes, count))
        assert len(groups) <= count and (groups % 32 == 0).all()
        assert (sizes[:, None] <= groups).all(axis=2).any(axis=1).all()
        assert all((sizes > group - 32).any(axis=0).all() for group in groups)  # none is larger than what it holds


def test_landscapes_portraits_and_squares_are_apart():
    sizes = np.array([[480, 640], [470, 630], [640, 480], [640, 470], [640, 640], [610, 620]])
    assert size_groups(sizes, 3) == [(480, 640), (640, 480), (640, 640)]
    assert size_groups(sizes, 1) == [(640, 640)]
    assert size_groups(sizes, 9, multiple=1) == sorted({tuple(size) for size in sizes.tolist()})


def test_one_union_wastes_as_little_as_any():
    for seed in range(20):
        sizes = np.random.default_rng(seed).integers(1, 6, (4, 2)) * 32
        groups = sorted({tuple(size) for size in sizes.tolist()})

        def padded(ends, sizes=sizes):
            return sum(min(h * w for h, w in ends if h >= height and w >= width) for height, width in sizes)

        unions = [
            [*(group for group in groups if group not in pair), tuple(np.max(pair, axis=0).tolist())]
            for pair in itertools.combinations(groups, 2)
        ]
        if unions:
            assert padded(size_groups(sizes, len(groups) - 1)) <= min(map(padded, unions))


def test_many_sizes_are_grouped_in_little_time():
    sizes = np.random.default_rng(0).integers(1, 8192, (20_000, 2))
    groups = np.array(size_groups(sizes, 5))
    assert len(groups) == 5 and (sizes[:, None] <= groups).all(axis=2).any(axis=1).all()


def test_sizes_are_bucketed_once_an_epoch_and_fit():
    sizes = sizes_of_photos(0, 101)
    area = sizes.prod(axis=1)
    buckets = make_buckets(sizes, 4, batch_tokens=2_000_000)
    assert all(2_000_000 - bucket.slots < bucket.batch_size * bucket.slots <= 2_000_000 for bucket in buckets)
    plan = Bucketed(sizes, area, buckets, seed=1)
    steps = int(12 * plan.steps_per_epoch)
    counts, seen = np.zeros((13, 101), int), set()
    for step in range(steps):
        selection = plan(step)
        assert (sizes[selection.indices] <= selection.length).all()
        assert Bucket(selection.length, len(selection.indices)) in buckets
        np.add.at(counts, (selection.epochs, selection.indices), 1)
        seen.add(selection.length)
        again = Bucketed(sizes, area, buckets, seed=1)(step)
        assert (again.indices == selection.indices).all() and again.length == selection.length
    assert (counts[:11] == 1).all() and counts[11:].max() == 1 and len(seen) == len(buckets)
    assert plan.num_examples == 101 and 0 < plan.padding < 0.5


def test_evaluation_reads_every_size_once_in_the_smallest_bucket_that_holds_it():
    sizes = sizes_of_photos(3, 57)
    buckets = make_buckets(sizes, 5, batch_size=4)
    plan = ByLength(sizes, buckets)
    read = []
    for step in range(int(plan.steps_per_epoch)):
        selection = plan(step)
        for index in selection.indices[selection.indices >= 0]:
            fitting = [bucket for bucket in buckets if (sizes[index] <= bucket.length).all()]
            assert selection.length == min(fitting, key=lambda bucket: bucket.slots).length
            read.append(index)
    assert sorted(read) == list(range(57))


def test_sizes_that_fit_into_no_bucket_are_left_out():
    sizes = np.array([[10, 10], [40, 5], [5, 40]])
    plan = Bucketed(sizes, sizes.prod(axis=1), (Bucket((32, 32), 1), Bucket((10, 64), 1)), seed=0)
    assert plan.num_examples == 2 and {int(plan(step).indices[0]) for step in range(2)} == {0, 2}
