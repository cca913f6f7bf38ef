"""The worst cases of an image, cut out and enlarged."""

from typing import cast

import numpy as np

from nucseg.evaluate.streaming import Int3
from nucseg.report.drawing import Picture, data_uri, round_length, to_bytes, window
from nucseg.report.image import THRESHOLD, ReportImage
from nucseg.report.outlines import Slice, outlined
from nucseg.report.projections import States

_VIEW = 220  # pixels of one slice
_GAP = 4
_OUTSIDE = (70, 74, 82)  # where a slice leaves the volume


def worst_cases(image: ReportImage, count: int) -> tuple[list[Picture], list[Picture]]:
    """The true objects that were met worst, and the largest false positives.

    Args:
        image: With truth.
        count: How many of each, at most.

    Returns:
        True objects without a match at an IoU of .5, lowest best IoU first (of equal ones the largest first);
        false positives, largest first. Both may be empty.
    """
    scores = image.scores
    if scores is None or scores.objects is None:
        return [], []
    objects, states = scores.objects, States(image)
    sizes = _values(image.true_centers.ids, image.true_centers.sizes, objects.true_ids)
    missed = np.isin(objects.true_ids, objects.false_negatives(THRESHOLD))
    order = [i for i in np.lexsort((-sizes, objects.best_iou)) if missed[i]]
    true = [
        _cut_out(
            image,
            states,
            int(objects.true_ids[i]),
            int(objects.best_predicted[i]),
            float(objects.best_iou[i]),
        )
        for i in order[:count]
    ]
    false_ids = objects.false_positives(THRESHOLD)
    false_sizes = _values(image.predicted_centers.ids, image.predicted_centers.sizes, false_ids)
    false = [
        _cut_out(image, states, 0, int(i), 0.0)
        for i in false_ids[np.argsort(-false_sizes, kind="stable")][:count]
    ]
    return true, false


def _values(ids: np.ndarray, values: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    return values[np.searchsorted(ids, wanted)]


def _cut_out(image: ReportImage, states: States, true: int, predicted: int, iou: float) -> Picture:
    """Slices along z, y and x through an object's centre: the true one, or the false positive (`true` 0)."""
    found, label = (image.true_centers, true) if true else (image.predicted_centers, predicted)
    at = int(np.searchsorted(found.ids, np.uint64(label)))
    center, size = found.centers[at], int(found.sizes[at])
    scale = np.array(image.voxel_um or (1.0, 1.0, 1.0))
    radius = (3 * size * scale.prod() / (4 * np.pi)) ** (
        1 / 3
    )  # of a ball of that volume, in the scale's unit
    side = max(6 * radius, 16 * scale.min())
    half = np.maximum(np.rint(side / scale / 2), 1).astype(int)
    begin = cast(Int3, tuple(int(b) for b in np.rint(center).astype(int) - half))
    shape = cast(Int3, tuple(int(n) for n in 2 * half + 1))
    low = np.maximum(np.array(begin), 0) - begin
    high = np.minimum(np.array(begin) + shape, image.shape) - begin
    inside = np.zeros(shape, np.bool_)
    inside[tuple(slice(a, b) for a, b in zip(low, high, strict=True))] = True
    sources = (image.raw_source, image.truth_source, image.predicted_source)
    raw, truth, prediction = (np.zeros(shape) if s is None else s.read(begin, shape) for s in sources)
    shown = window([raw[inside]], 1, 99.9)
    pixels = np.full((_VIEW, 3 * _VIEW + 2 * _GAP, 3), 255, np.uint8)
    for axis in range(3):
        planes = [_enlarged(volume.take(half[axis], axis)) for volume in (raw, truth, prediction, inside)]
        view = outlined(Slice(*planes[:3]), states, shown, 2, (true, predicted))
        view[~planes[3]] = _OUTSIDE
        left = axis * (_VIEW + _GAP)
        pixels[:, left : left + _VIEW] = to_bytes(view)
    if true and iou:
        title = f"Nucleus {true}: best IoU {iou:.2f}"
    else:
        title = f"Nucleus {true}: not met" if true else f"Prediction {predicted}"
    um = image.voxel_um
    volume = f"{size * float(scale.prod()):.3g} µm³" if um else f"{size} voxels"
    caption = f"{volume}, at z, y, x = {', '.join(f'{c:.0f}' for c in center)}"
    percent, bar = None, ""
    if um:
        um_a_pixel = shape[2] * um[2] / _VIEW
        length = round_length(0.45 * _VIEW * um_a_pixel)
        percent, bar = 100 * length / um_a_pixel / pixels.shape[1], f"{length:g} µm"
    width, height = pixels.shape[1], pixels.shape[0]
    return Picture(title, caption, data_uri(pixels), width, height, (), percent, bar)


def _enlarged(plane: np.ndarray) -> np.ndarray:
    """A square of `_VIEW` pixels by nearest neighbour."""
    rows, columns = (((np.arange(_VIEW) + 0.5) / _VIEW * n).astype(int) for n in plane.shape)
    return plane[rows[:, None], columns]
