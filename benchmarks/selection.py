"""A grid of 80 decodings scored with what they share computed once, against each decoding by itself."""

from collections.abc import Iterator

import numpy as np
from scipy import ndimage

from benchmarks.comparison import Row, compare
from benchmarks.volumes import crowded
from nucseg.evaluate.grid import instances, score_decodings
from nucseg.evaluate.matching import match
from nucseg.evaluate.truth import Truth
from nucseg.heads.scenario import Scenario
from nucseg.heads.three_label import three_classes
from nucseg.instances.centroids import center_vectors, centroids


def rows() -> Iterator[Row]:
    """One comparison; both sides use one thread."""
    labels, rng = crowded(96, 140), np.random.default_rng(1)
    classes = three_classes(labels)
    blurred = [ndimage.gaussian_filter((classes == i).astype(np.float32), 0.8) for i in range(3)]
    probability = np.clip(np.stack(blurred) + rng.normal(0, 0.08, (3, *labels.shape)), 0.01, None)
    found = centroids(labels)
    vectors = center_vectors(labels, found.ids, found.centers) + rng.normal(0, 1.2, (3, *labels.shape))
    prediction = np.concatenate([probability / probability.sum(0), vectors]).astype(np.float32)
    scenario = Scenario.named("three_label_cpv")
    grid = scenario.decodings(reach=20)
    yield compare(
        f"scores of {len(grid)} decodings",
        lambda: score_decodings(prediction, Truth(labels), scenario, grid),
        "one by one",
        lambda: [match(labels, instances(prediction, scenario, decoding)) for decoding in grid],
        lambda ours, other: bool(ours == other),
        repeats=3,
    )
