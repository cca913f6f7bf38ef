"""One deformed patch serves several batches, each in another orientation."""

from itertools import permutations, product

import gunpowder as gp
import numpy as np
import pytest
from cases import crowded
from node_cases import LABELS, PLACES, RAW, ask, source

from nucseg.nodes.deform import Deform
from nucseg.nodes.random_patch import RandomPatch

CUBE = {key: ((0, 0, 0), (12, 12, 12)) for key in (RAW, PLACES, LABELS)}


class Count(gp.BatchFilter):
    """Counts the requests that pass."""

    def setup(self):
        self.requests = 0

    def prepare(self, request):
        self.requests += 1

    def process(self, batch, request):
        pass


def pipeline(count, node):
    return source(crowded(2, (30, 32, 34))) + RandomPatch((8, 8, 8)) + count + node


def orientations(data):
    """The 48 orientations of a cube (c, z, y, x)."""
    for order, flips in product(permutations(range(3)), product((False, True), repeat=3)):
        turned = data.transpose(0, *(axis + 1 for axis in order))
        yield np.flip(turned, [axis + 1 for axis in range(3) if flips[axis]])


def test_k_batches_share_a_patch_in_different_orientations():
    count = Count()
    with gp.build(pipeline(count, Deform([RAW, PLACES], LABELS, reuse=4))) as built:
        made = [ask(built, CUBE, seed) for seed in range(12)]
    assert count.requests == 3
    for group in range(3):
        first, *others = [
            np.concatenate([batch[PLACES], batch[RAW][None], batch[LABELS][None]])
            for batch in made[4 * group : 4 * group + 4]
        ]
        turns = list(orientations(first))
        for other in others:
            assert sum(np.array_equal(other, turn) for turn in turns) == 1
        assert any(not np.array_equal(first, other) for other in others)
    assert not any(np.array_equal(turn, made[4][PLACES]) for turn in orientations(made[0][PLACES]))


@pytest.mark.parametrize("boxes", [((4, 4, 4), (9, 6, 7)), ((3, 5, 4), (6, 6, 6))])
def test_boxes_that_are_not_cubes_or_not_centred(boxes):
    """Every batch equals what the fresh transformation with the same orientation gives: positions fit raw."""
    labels = crowded(2, (40, 40, 40))
    data = source(labels)
    rois = {PLACES: boxes, RAW: boxes, LABELS: ((0, 2, 1), (16, 12, 14))}
    node = Deform([RAW, PLACES], LABELS, reuse=5, rotation_deg=0, jitter=0)
    with gp.build(data + gp.Pad(LABELS, None) + node) as built:
        for seed in range(25):
            out = ask(
                built, {key: (tuple(b + 12 for b in box[0]), box[1]) for key, box in rois.items()}, seed
            )
            at = tuple(out[PLACES].astype(int))
            np.testing.assert_array_equal(out[RAW], data.arrays[RAW][at])
            begin = np.array(boxes[0]) - rois[LABELS][0]
            end = np.minimum(begin + boxes[1], rois[LABELS][1])  # one of the boxes reaches beyond the labels
            part = out[LABELS][tuple(slice(b, e) for b, e in zip(begin, end, strict=True))]
            assert part.size
            np.testing.assert_array_equal(part, labels[at][tuple(slice(0, n) for n in part.shape)])


def test_another_request_gets_a_patch_of_its_own():
    count = Count()
    with gp.build(pipeline(count, Deform([RAW, PLACES], LABELS, reuse=3))) as built:
        ask(built, CUBE, 0)
        ask(built, {RAW: ((0, 0, 0), (10, 10, 10))}, 1)
        ask(built, CUBE, 2)
        assert count.requests == 2


def test_changing_a_batch_does_not_change_the_next():
    with gp.build(
        pipeline(Count(), Deform([RAW, PLACES], LABELS, reuse=2, mirror=False, transpose=False))
    ) as built:
        first = ask(built, CUBE, 0)[LABELS]
        before = first.copy()
        first[:] = 0
        np.testing.assert_array_equal(ask(built, CUBE, 1)[LABELS], before)
