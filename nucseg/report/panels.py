"""The pictures of one image: projections as in the paper's Figure 5, and slices with outlines."""

from typing import cast

import numpy as np

from nucseg.evaluate.streaming import Int3
from nucseg.report.colors import (
    FALSE_BOTH,
    FALSE_NEGATIVE,
    FALSE_POSITIVE,
    OVERLAP,
    PREDICTION,
    TRUTH,
    Swatch,
    instance_colors,
)
from nucseg.report.drawing import (
    Layout,
    Picture,
    contours,
    data_uri,
    disc_mask,
    gray,
    tinted,
    window,
)
from nucseg.report.image import ReportImage
from nucseg.report.outlines import LEGEND, Slice, outlined
from nucseg.report.projections import BOTH, NONE, Projection, States, project
from nucseg.report.projections import PREDICTION as ONLY_PREDICTION
from nucseg.report.projections import TRUTH as ONLY_TRUTH


def panels(image: ReportImage) -> list[Picture]:
    """The pictures of an image: against the truth if there is one, else of the prediction alone."""
    layout = Layout(image.shape, image.voxel_um)
    views = project(image)
    shown = window([view.raw for view in views])
    light = [gray(layout.enlarged(view.raw, axis), shown) for axis, view in enumerate(views)]
    if image.truth is None:
        return [
            _picture(layout, [np.repeat(255 * x, 3, axis=2) for x in light], "Image", "Maximum projections."),
            _instances(layout, light, views),
            _slices(image, layout, views),
        ]
    return [
        _detections(image, layout, light),
        _matched(layout, light, views),
        _errors(layout, light, views),
        _slices(image, layout, views),
    ]


def _picture(layout: Layout, views: list[np.ndarray], title: str, caption: str, *legend: Swatch) -> Picture:
    percent, text = layout.bar()
    pixels = layout.joined(views)
    return Picture(
        title,
        caption,
        data_uri(pixels),
        pixels.shape[1],
        pixels.shape[0],
        legend,
        percent,
        text,
    )


def _detections(image: ReportImage, layout: Layout, light: list[np.ndarray]) -> Picture:
    found = image.detections()
    radius = 2.5 if layout.zoom.min() < 2 else 3.5
    views = []
    for axis, background in enumerate(light):
        view = np.repeat(190 * background, 3, axis=2)
        shape = view.shape[:2]
        true = disc_mask(shape, layout.pixels_of(found.found_true, axis), radius)
        predicted = disc_mask(shape, layout.pixels_of(found.found, axis), radius)
        view[true] = TRUTH.rgb
        view[predicted] = PREDICTION.rgb
        view[true & predicted] = OVERLAP.rgb
        view[disc_mask(shape, layout.pixels_of(found.missed, axis), radius + 0.5)] = FALSE_NEGATIVE.rgb
        view[disc_mask(shape, layout.pixels_of(found.false, axis), radius + 0.5)] = FALSE_POSITIVE.rgb
        views.append(view)
    caption = (
        f"Centres of mass: {len(found.found)} of {len(found.found) + len(found.missed)} nuclei hold a predicted "
        f"centre, {len(found.false)} predicted centres are false."
    )
    return _picture(layout, views, "Detections", caption, *LEGEND)


def _matched(layout: Layout, light: list[np.ndarray], projections: tuple[Projection, ...]) -> Picture:
    colors = np.zeros((4, 3), np.float32)
    colors[BOTH], colors[ONLY_TRUTH], colors[ONLY_PREDICTION] = OVERLAP.rgb, TRUTH.rgb, PREDICTION.rgb
    views = []
    for axis, (background, projection) in enumerate(zip(light, projections, strict=True)):
        kind = layout.enlarged(projection.kind, axis)
        view = tinted(background, colors[kind], kind != NONE)
        view[contours(layout.enlarged(projection.labels, axis))] *= 0.45
        views.append(view)
    caption = (
        "Instances that match at an IoU of .5 or more; each pixel shows the brightest matched voxel along the "
        "line of sight."
    )
    return _picture(layout, views, "True positives", caption, TRUTH, PREDICTION, OVERLAP)


def _errors(layout: Layout, light: list[np.ndarray], projections: tuple[Projection, ...]) -> Picture:
    views = []
    for axis, (background, projection) in enumerate(zip(light, projections, strict=True)):
        false, missed = (
            layout.enlarged(mask, axis) for mask in (projection.false_positive, projection.false_negative)
        )
        color = np.zeros((*false.shape, 3), np.float32)
        color[false], color[missed], color[false & missed] = (
            FALSE_POSITIVE.rgb,
            FALSE_NEGATIVE.rgb,
            FALSE_BOTH.rgb,
        )
        views.append(tinted(background, color, false | missed))
    caption = (
        "All instances without a match at an IoU of .5. Orange: a nucleus was found there, but its outline is "
        "too far off, or it was merged or split."
    )
    return _picture(
        layout,
        views,
        "False positives and false negatives",
        caption,
        FALSE_POSITIVE,
        FALSE_NEGATIVE,
        FALSE_BOTH,
    )


def _instances(layout: Layout, light: list[np.ndarray], projections: tuple[Projection, ...]) -> Picture:
    views = []
    for axis, (background, projection) in enumerate(zip(light, projections, strict=True)):
        labels = layout.enlarged(projection.labels, axis)
        view = tinted(background, instance_colors(labels), labels != 0)
        view[contours(labels)] *= 0.45
        views.append(view)
    return _picture(
        layout,
        views,
        "Instances",
        "Every instance in a colour of its own; each pixel shows the brightest instance along the line of sight.",
    )


def _slices(image: ReportImage, layout: Layout, projections: tuple[Projection, ...]) -> Picture:
    """The plane with the most object voxels along each axis, with outlines."""
    states = States(image)
    planes = [int(projection.planes.argmax()) for projection in projections]
    raw_source, truth_source, predicted_source = image.raw_source, image.truth_source, image.predicted_source
    raws: list[np.ndarray] = []
    truths: list[np.ndarray] = []
    predictions: list[np.ndarray] = []
    for axis, place in enumerate(planes):
        begin = cast(Int3, tuple(place if i == axis else 0 for i in range(3)))
        shape = cast(Int3, tuple(1 if i == axis else n for i, n in enumerate(image.shape)))
        for source, kept in ((raw_source, raws), (truth_source, truths), (predicted_source, predictions)):
            if source is not None:
                kept.append(source.read(begin, shape).squeeze(axis))
    shown = window(raws)
    views = []
    for axis, raw in enumerate(raws):
        truth = layout.enlarged(truths[axis], axis) if truths else None
        plane = Slice(layout.enlarged(raw, axis), truth, layout.enlarged(predictions[axis], axis))
        views.append(outlined(plane, states, shown, thickness=1 if layout.zoom.min() < 3 else 2))
    where = ", ".join(f"{name} = {place}" for name, place in zip("zyx", planes, strict=True))
    legend = () if truth_source is None else LEGEND
    return _picture(layout, views, "Slices", f"The fullest plane along each axis: {where}.", *legend)
