"""check_head passes good heads and names each kind of mistake."""

from typing import ClassVar

import numpy as np
import pytest
from scipy.ndimage import binary_erosion
from test_scenario import Foreground

from nucseg.errors import InputError, NucsegError
from nucseg.heads.affinities import Affinities
from nucseg.heads.base import Head, weighted_mean
from nucseg.heads.center_vectors import CenterVectors
from nucseg.heads.gaussian_centers import GaussianCenters, gaussian_blobs
from nucseg.heads.three_label import ThreeLabel
from nucseg.testing import check_head
from nucseg.testing.head import ContractBroken


class WrongShape(Foreground):
    def target(self, labels, crop, scale_um, centers, mask=None):
        return super().target(labels, (slice(None),) * 3, scale_um, centers, mask)


class DoubleTarget(Foreground):
    def target(self, labels, crop, scale_um, centers, mask=None):
        target, weight = super().target(labels, crop, scale_um, centers, mask)
        return target.astype(np.float64), weight


class IgnoresMask(Foreground):
    def target(self, labels, crop, scale_um, centers, mask=None):
        return super().target(labels, crop, scale_um, centers)


class WritesLabels(Foreground):
    def target(self, labels, crop, scale_um, centers, mask=None):
        result = super().target(labels, crop, scale_um, centers, mask)
        labels[labels > 0] = 1
        return result


class IgnoresWeight(Foreground):
    def loss(self, output, target, weight):
        from keras import ops

        return super().loss(
            output, target, ops.ones_like(weight) * ops.cast(ops.max(weight) > 0, weight.dtype)
        )


class SumsLoss(Foreground):
    def loss(self, output, target, weight):
        from keras import ops

        return super().loss(output, target, weight) * ops.sum(weight)


class ForgetsChannel(CenterVectors):
    def loss(self, output, target, weight):
        return weighted_mean((output[..., 0] - target[..., 0]) ** 2, weight)


class Unstable(Foreground):
    def activation(self, output):
        with np.errstate(over="ignore"):
            return np.exp(output.astype(np.float32) * 10)


class LooksAround(Foreground):
    def activation(self, output):
        return output - output.mean()


class IntegerSeeds(Foreground):
    def seeds(self, prediction, threshold):
        return super().seeds(prediction, threshold).astype(np.uint8)


class UnsortedGrid(Foreground):
    @property
    def seed_thresholds(self):
        return (0.9, 0.7, 0.5)


class DefaultOutside(Foreground):
    @property
    def default_foreground_threshold(self):
        return 0.9


class NeverDilates(Foreground):
    @property
    def dilations(self):
        return (0,)


class NormalisedPeaks(GaussianCenters):
    def peaks(self, prediction):
        return prediction[0] - prediction[0].mean()


class HeightOutside(GaussianCenters):
    @property
    def default_peak_threshold(self):
        return 0.9


class PeaksOfAnyType(GaussianCenters):
    def peaks(self, prediction):
        return prediction[0].astype(np.float64)


class BlobsInTheArray(GaussianCenters):
    """Centres in coordinates of the array, as if the crop began at its first voxel."""

    def target(self, labels, crop, scale_um, centers, mask=None):
        blobs = gaussian_blobs(centers.centers, tuple(c.stop - c.start for c in crop), self.sigmas(scale_um))
        return blobs[None], super().target(labels, crop, scale_um, centers, mask)[1]


class VectorsInTheArray(CenterVectors):
    def target(self, labels, crop, scale_um, centers, mask=None):
        begin = np.array([c.start for c in crop])
        return super().target(labels, crop, scale_um, centers._replace(centers=centers.centers + begin), mask)


class LabelsAtTheWrongPlace(Foreground):
    def target(self, labels, crop, scale_um, centers, mask=None):
        weight = super().target(labels, crop, scale_um, centers, mask)[1]
        return (labels[tuple(slice(0, n) for n in weight.shape)] > 0)[None].astype(np.float32), weight


class TeachesUnknownCenters(GaussianCenters):
    def target(self, labels, crop, scale_um, centers, mask=None):
        return super().target(
            labels, crop, scale_um, centers._replace(known=np.ones(len(centers.ids), bool)), mask
        )


class TeachesZeroVectors(CenterVectors):
    """The target of an unknown centre is 0, and taught."""

    def target(self, labels, crop, scale_um, centers, mask=None):
        target, weight = super().target(labels, crop, scale_um, centers, mask)
        weight[(labels[crop] > 0) & (True if mask is None else mask[crop])] = 1
        return target, weight


class Negated(Foreground):
    def loss(self, output, target, weight):
        return -super().loss(output, target, weight)


class NegatedFromAHeight(Foreground):
    """Positive for usual outputs; its gradient leads away from the target."""

    def loss(self, output, target, weight):
        from keras import ops

        per_voxel = 3e4 - ops.square(output[..., 0] - target[..., 0])
        return weighted_mean(per_voxel, weight)


class VectorsThatDoNotTurn(CenterVectors):
    """As a lab's own head with a direction and without the method."""

    mirrored = Head.mirrored


class VectorsThatTurnAnotherWay(CenterVectors):
    """x, y, z instead of z, y, x."""

    def mirrored(self, prediction, axes):
        flipped, valid = Head.mirrored(self, prediction, axes)
        signs = np.ones((3, 1, 1, 1), np.float32)
        signs[[2 - axis for axis in axes]] = -1
        return flipped * signs, valid


class AffinitiesOfTheOtherSide(Affinities):
    mirrored = Head.mirrored


class ShiftedAffinities(Affinities):
    """What is missing is taken from the neighbour: right but for the last plane."""

    def mirrored(self, prediction, axes):
        flipped, valid = Head.mirrored(self, prediction, axes)
        flipped = flipped.copy()
        for axis in axes:
            flipped[axis] = np.roll(flipped[axis], 1, axis)
        return flipped, valid


class NotTurnedBack(Foreground):
    def mirrored(self, prediction, axes):
        return prediction, np.ones(len(prediction), bool)


class TurnsTwoClasses(ThreeLabel):
    """The target is a class number; the loss tells that interior and boundary are exchanged."""

    def mirrored(self, prediction, axes):
        flipped, valid = super().mirrored(prediction, axes)
        return (flipped[[0, 2, 1]] if axes else flipped), valid


class NeverValid(Foreground):
    def mirrored(self, prediction, axes):
        return super().mirrored(prediction, axes)[0], np.zeros(1, bool)


class OneAnswerForAll(ThreeLabel):
    def mirrored(self, prediction, axes):
        return super().mirrored(prediction, axes)[0], True


class SeedThresholdsAsAMethod(Foreground):
    def seed_thresholds(self):
        return (0.5, 0.7)


class NumpyLoss(Foreground):
    """Has a value, and no gradient that Keras could find."""

    def loss(self, output, target, weight):
        output, target, weight = (np.asarray(value) for value in (output, target, weight))
        total = weight.sum()
        return np.float32((weight * (output[..., 0] - target[..., 0]) ** 2).sum() / total if total else 0)


class MeanOverAllVoxels(Foreground):
    """sum(w * e) / n instead of sum(w * e) / sum(w)."""

    def loss(self, output, target, weight):
        from keras import ops

        return ops.mean(weight * ops.square(output[..., 0] - target[..., 0]))


class ErodesInsideTheCrop(Foreground):
    def target(self, labels, crop, scale_um, centers, mask=None):
        weight = super().target(labels, crop, scale_um, centers, mask)[1]
        return binary_erosion(labels[crop] > 0)[None].astype(np.float32), weight


class SmallRange(ThreeLabel):
    value_range: ClassVar[tuple[float, float] | None] = (0.0, 0.95)


class NeedsAScale(Foreground):
    def target(self, labels, crop, scale_um, centers, mask=None):
        assert scale_um[0] > 0
        return super().target(labels, crop, scale_um, centers, mask)


class OneArray(Foreground):
    def target(self, labels, crop, scale_um, centers, mask=None):
        return super().target(labels, crop, scale_um, centers, mask)[0]


class WithoutTarget(Foreground):
    target = Head.target


BROKEN = {
    NumpyLoss: r"made of keras\.ops",
    MeanOverAllVoxels: "twice the weights, the same",
    ErodesInsideTheCrop: "does not depend on the crop",
    SmallRange: "value_range",
    NeedsAScale: "target: it works on any patch; found TypeError",
    OneArray: "target returns target and weight",
    WithoutTarget: "target: a subclass writes it",
    WrongShape: "crop's shape",
    DoubleTarget: "float32",
    IgnoresMask: "mask is False",
    WritesLabels: "leaves its inputs alone",
    IgnoresWeight: "weight",
    SumsLoss: "two equal patches",
    ForgetsChannel: "output channel 1",
    Unstable: "finite",
    LooksAround: "voxel by voxel",
    IntegerSeeds: "seeds is bool",
    UnsortedGrid: "seed_thresholds ascend",
    DefaultOutside: "default_foreground_threshold",
    NeverDilates: "default_dilate",
    NormalisedPeaks: "peaks is voxel by voxel",
    HeightOutside: "default_peak_threshold",
    PeaksOfAnyType: "peaks is float32",
    BlobsInTheArray: "does not depend on the crop",
    VectorsInTheArray: "does not depend on the crop",
    LabelsAtTheWrongPlace: "does not depend on the crop",
    TeachesUnknownCenters: "centre is not known",
    TeachesZeroVectors: "centre is not known",
    Negated: "never negative",
    NegatedFromAHeight: "never negative, wherever",
    VectorsThatDoNotTurn: r"mirrored along z, the target of mirrored labels.*write `mirrored`.*of channel 0",
    VectorsThatTurnAnotherWay: "mirrored along z, the target of mirrored labels",
    AffinitiesOfTheOtherSide: "mirrored along z, the target of mirrored labels",
    ShiftedAffinities: "mirrored is voxel by voxel",
    NotTurnedBack: "mirrored is voxel by voxel",
    TurnsTwoClasses: "mirrored along z, an output costs with mirrored labels as much as",
    NeverValid: "mirrored along no axis, a prediction is as it was, all of it valid",
    OneAnswerForAll: "mirrored says of each channel whether it is valid",
    SeedThresholdsAsAMethod: "seed_thresholds is a @property",
}


def test_a_lab_s_own_head_passes():
    check_head(Foreground())


@pytest.mark.parametrize("kind", BROKEN, ids=lambda kind: kind.__name__)
def test_each_mistake_is_named(kind):
    with pytest.raises(ContractBroken, match=BROKEN[kind]):
        check_head(kind())


def test_a_class_that_cannot_be_found_again_is_named():
    class Local(Foreground):
        pass

    with pytest.raises(Exception, match="no such head"):
        check_head(Local())


def test_a_head_that_says_it_detects_has_to_say_how():
    class Silent(Foreground):
        detects: ClassVar[bool] = True

    with pytest.raises(NucsegError, match="Silent"):
        Silent().peaks(np.zeros((1, 2, 2, 2), np.float32))
    with pytest.raises(InputError, match="decodes to points"):
        Foreground().peaks(np.zeros((1, 2, 2, 2), np.float32))
