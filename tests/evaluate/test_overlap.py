"""The contingency table against counting by hand, and the sum over blocks against the whole."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from nucseg.evaluate.overlap import contingency, merge

elements = st.one_of(st.integers(0, 4), st.integers(2**64 - 4, 2**64 - 1))
volumes = hnp.arrays(np.uint64, (3, 5, 6), elements=elements)


def assert_same(a, b):
    for name, x, y in zip(a._fields, a, b, strict=True):
        assert x.dtype == y.dtype, name
        np.testing.assert_array_equal(x, y, err_msg=name)


@settings(max_examples=60, deadline=None)
@given(volumes, volumes)
def test_counts(truth, predicted):
    table = contingency(truth, predicted)
    assert table.true_ids.tolist() == sorted(set(truth.ravel().tolist()) - {0})
    assert table.predicted_ids.tolist() == sorted(set(predicted.ravel().tolist()) - {0})
    assert table.true_sizes.tolist() == [(truth == i).sum() for i in table.true_ids]
    assert table.predicted_sizes.tolist() == [(predicted == i).sum() for i in table.predicted_ids]
    pairs = {(int(t), int(p)) for t, p in zip(truth.ravel(), predicted.ravel(), strict=True) if t and p}
    found = [(int(table.true_ids[i]), int(table.predicted_ids[j])) for i, j in table.pairs]
    assert found == sorted(pairs)
    assert table.overlaps.tolist() == [((truth == t) & (predicted == p)).sum() for t, p in found]


@settings(max_examples=60, deadline=None)
@given(volumes, volumes, st.integers(1, 3), st.integers(1, 6))
def test_blocks_add_up(truth, predicted, dz, dx):
    blocks = [
        contingency(truth[z : z + dz, :, x : x + dx], predicted[z : z + dz, :, x : x + dx])
        for z in range(0, 3, dz)
        for x in range(0, 6, dx)
    ]
    assert_same(merge(blocks), contingency(truth, predicted))
    assert_same(merge([merge(blocks[:2]), *blocks[2:]]), contingency(truth, predicted))


def test_of_nothing():
    table = merge([])
    assert [len(x) for x in table] == [0] * 7
    assert_same(table, contingency(np.zeros((2, 2, 2), np.int32), np.zeros((2, 2, 2), np.uint8)))


def test_the_table_grows():
    """More pairs than the first table has slots for, with ids that all fall on the same low bits."""
    truth = (np.arange(20000, dtype=np.uint64) << np.uint64(40)).reshape(20, 1000)
    predicted = np.roll(truth, 7, axis=1)
    table = contingency(truth, predicted)
    assert len(table.true_ids) == 19999
    assert table.overlaps.sum() == np.count_nonzero((truth != 0) & (predicted != 0))
    np.testing.assert_array_equal(table.true_sizes, np.ones(19999))


@pytest.mark.parametrize("dtypes", [("uint8", "int64"), ("int32", "uint64"), ("uint16", "uint32")])
def test_mixed_dtypes(dtypes):
    rng = np.random.default_rng(3)
    truth, predicted = rng.integers(0, 9, (2, 4, 5, 6))
    assert_same(
        contingency(truth.astype(dtypes[0]), predicted.astype(dtypes[1])), contingency(truth, predicted)
    )
