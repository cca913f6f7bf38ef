"""Heads as a lab writes them on a bad day, for the tests of what is said about them."""

import numpy as np

from nucseg.heads.base import Head


class Working(Head):
    """P(nucleus), squared error."""

    @property
    def channels(self):
        return 1

    def target(self, labels, crop, scale_um, centers, mask=None):
        inside = labels[crop] != 0
        return inside[None].astype(np.float32), np.ones(inside.shape, np.float32)

    def loss(self, output, target, weight):
        from keras import ops

        return ops.mean(ops.square(output - target))


class BrokenTarget(Working):
    """Divides by zero."""

    def target(self, labels, crop, scale_um, centers, mask=None):
        return super().target(labels, crop, scale_um, centers), 1 / 0


class BrokenLoss(Working):
    """Asks for a channel that there is not."""

    def loss(self, output, target, weight):
        return {"a": output}["b"]


class WrongShape(Working):
    """Forgets the channel axis of its target."""

    def target(self, labels, crop, scale_um, centers, mask=None):
        target, weight = super().target(labels, crop, scale_um, centers)
        return target[0], weight


class Unwritten(Head):
    """Has no loss."""

    @property
    def channels(self):
        return 1

    target = Working.target
