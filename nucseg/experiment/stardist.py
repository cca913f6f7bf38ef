"""StarDist-3D (Weigert et al., WACV 2020) on an experiment's volumes, by its own package.

Everything around the method is what the scenarios get: volumes, split, normalisation, number of threads, seconds
of training, mirrors, transpositions and changes of intensity, and the scoring. The method itself is StarDist's
own: network, sampling, losses, optimiser and its schedule, choice of the weights with the lowest validation loss,
`optimize_thresholds`.
"""

import shutil
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nucseg.errors import InputError
from nucseg.evaluate.matching import match
from nucseg.experiment.cell import image_results, summed_up, write_instances
from nucseg.experiment.cells import Cell
from nucseg.experiment.choice import GOALS, check_truth, read_truth
from nucseg.experiment.config import StarDistSettings, Triple
from nucseg.experiment.dataset import image_names, volumes_of
from nucseg.network.backend import use_threads
from nucseg.storage.normalization import zero_and_one
from nucseg.training import TrainConfig
from nucseg.training.config import Augment, Data, LabelledVolume
from nucseg.volume import open_volume

Log = Callable[[str], None]

_LARGEST_PATCH = 64
_COARSE_FROM = 8  # voxels of a median nucleus along an axis


@dataclass(frozen=True)
class Shape:
    """What follows from the nuclei and the volumes.

    Attributes:
        extent: Median sides of the nuclei's bounding boxes, voxels z, y, x.
        anisotropy: The longest of them over each, as StarDist's rays and distances take it.
        grid: Sub-sampling of the output.
        patch: Of a training step, voxels.
    """

    extent: tuple[float, float, float]
    anisotropy: tuple[float, float, float]
    grid: Triple
    patch: Triple


class Augmenter:
    """Mirrors, transpositions of axes with voxels of one size, contrast and brightness, as StarDist calls it.

    Args:
        augment: The ranges.
        scale_um: Voxel size; None: cubes.
        seed: Of all that it draws.
    """

    def __init__(self, augment: Augment, scale_um: Sequence[float] | None, seed: int) -> None:
        self.augment = augment
        from nucseg.nodes.scale import exchangeable_axes

        z, y, x = scale_um or (1.0, 1.0, 1.0)
        self.groups = exchangeable_axes((z, y, x))
        self.rng = np.random.default_rng(seed)

    def __call__(self, raw: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """A raw patch (z, y, x) and its labels, changed alike; the shape stays."""
        order = self._order(labels.shape) if self.augment.transpose else (0, 1, 2)
        mirrored = self.rng.integers(0, 2, 3) if self.augment.mirror else (0, 0, 0)
        steps = tuple(slice(None, None, -1) if flip else slice(None) for flip in mirrored)
        raw, labels = raw.transpose(order)[steps], labels.transpose(order)[steps]
        factor = self.rng.uniform(*(self.augment.scale or (1.0, 1.0)))
        shift = self.rng.uniform(*(self.augment.shift or (0.0, 0.0)))
        mean = raw.mean()
        return ((raw - mean) * factor + mean + shift).astype(np.float32), np.ascontiguousarray(labels)

    def _order(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """A random order of axes; only axes of one length and one voxel size change places."""
        order = np.arange(3)
        for group in self.groups:
            for length in {shape[axis] for axis in group}:
                alike = [axis for axis in sorted(group) if shape[axis] == length]
                order[alike] = self.rng.permutation(alike)
        return tuple(int(axis) for axis in order)


def run_stardist(cell: Cell, root: Path, log: Log) -> dict[str, Any]:
    """Train StarDist-3D, let it choose its thresholds on the validation volumes, and score the test volumes.

    A training that was interrupted begins anew: what it may use is a time.

    Args:
        cell: Which one.
        root: The experiment's folder.
        log: Takes lines about what goes on.

    Returns:
        As `nucseg.experiment.cell.run_cell`. Its one way to segment stands for both goals.

    Raises:
        InputError: The package is not installed, or the volumes are too small for a patch.
    """
    try:
        from stardist.models import Config3D, StarDist3D
    except ImportError as error:
        raise InputError(
            "stardist",
            expected="the package stardist, for its row of the tables",
            received=f"not installed ({error})",
            remedy="pip install 'nucseg[stardist]', or remove stardist from the configuration",
        ) from error
    import keras

    settings = cell.config.stardist or StarDistSettings()
    shared = cell.config.settings_of(cell.dataset, None)
    seconds = float(settings.seconds or shared["seconds"])
    volumes = volumes_of(cell.dataset, root)
    data = Data.model_validate(volumes.data)
    use_threads(cell.config.threads)
    keras.utils.set_random_seed(cell.seed)

    truth = [_truth(volume, data) for volume in data.train]
    raw = [_raw(volume, data) for volume in data.train]
    check = [_raw(volume, data) for volume in data.validation], [_truth(v, data) for v in data.validation]
    scale = open_volume(data.train[0].raw).scale_um if data.scale_um is None else data.scale_um
    shape = shape_for(truth, settings, smallest=np.min([x.shape for x in [*truth, *check[1]]], axis=0))
    augment = TrainConfig.model_validate(
        {"scenario": "three_label", "data": volumes.data, "augment": shared.get("augment", {})}
    ).augment
    shutil.rmtree(cell.folder / "stardist", ignore_errors=True)
    model = StarDist3D(
        Config3D(
            rays=_rays(settings.rays, shape.anisotropy),
            grid=shape.grid,
            anisotropy=shape.anisotropy,
            n_channel_in=1,
            unet_n_filter_base=settings.filters,
            unet_n_depth=settings.depth,
            train_patch_size=shape.patch,
            train_batch_size=settings.batch,
            train_learning_rate=settings.learning_rate,
            train_steps_per_epoch=settings.steps_per_epoch,
            train_epochs=settings.epochs,
            train_tensorboard=False,
        ),
        name="stardist",
        basedir=str(cell.folder),
    )
    log(f"training StarDist-3D for {seconds:g} s: patch {shape.patch}, grid {shape.grid}")
    begun = time.perf_counter()
    stop = _stop_after(seconds, begun)
    model.prepare_for_training()
    model.callbacks.append(stop)
    if settings.patience is not None:
        model.callbacks.append(keras.callbacks.EarlyStopping("val_loss", patience=settings.patience))
    augmenter = Augmenter(augment, scale, cell.seed) if settings.augment else None
    with warnings.catch_warnings():
        # Keras 3 tells StarDist, which feeds it a generator, that it will not shuffle it.
        warnings.filterwarnings("ignore", "`shuffle=True` was passed", UserWarning)
        model.train(raw, truth, validation_data=check, augmenter=augmenter, seed=cell.seed)
    trained_s = time.perf_counter() - begun

    log(f"{stop.steps} steps; optimising its thresholds")
    begun = time.perf_counter()
    thresholds = model.optimize_thresholds(
        *check,
        nms_threshs=list(settings.nms_thresholds),
        optimize_kwargs={"maxiter": settings.threshold_steps, "verbose": 0},
    )
    validated = summed_up(
        [match(t, _labels(model, x), min_size=cell.config.min_size) for x, t in zip(*check, strict=True)]
    )
    selected_s = time.perf_counter() - begun
    begun = time.perf_counter()
    scores, names = [], image_names(volumes.test)
    for number, volume in enumerate(volumes.test):
        log(f"testing on {names[number]}")
        labels = _labels(model, _raw(volume, data))
        write_instances(cell.folder / "instances" / str(number), "main", labels, volume)
        true = read_truth(volume, data)
        scores.append(match(true.labels, labels, min_size=cell.config.min_size, annotated=true.annotated))
    images = image_results(scores, volumes.test)
    decoding = {"prob_threshold": thresholds["prob"], "nms_threshold": thresholds["nms"]}
    result = {"seeds": "main", "checkpoint": stop.steps, "decoding": decoding, "validation": validated}
    return {
        "network": f"StarDist-3D, {settings.rays} rays, grid {' '.join(map(str, shape.grid))}",
        "parameters": int(model.keras_model.count_params()),
        "iterations": stop.steps,
        "trained_s": trained_s,
        "seconds": {"train": trained_s, "select": selected_s, "test": time.perf_counter() - begun},
        "results": [{"for": goal, **result, **summed_up(scores), "images": images} for goal in GOALS],
    }


def shape_for(
    truth: Sequence[np.ndarray], settings: StarDistSettings, smallest: Sequence[int] | np.ndarray
) -> Shape:
    """Anisotropy, grid and patch that fit the nuclei.

    Args:
        truth: Labels of the training volumes.
        settings: May give grid and patch.
        smallest: Shortest side of all training and validation volumes along z, y, x, voxels.

    Raises:
        InputError: The volumes are smaller than the smallest patch.
    """
    from stardist import calculate_extents

    extent = np.asarray(calculate_extents(list(truth)), float)
    coarse = [2 if side >= _COARSE_FROM else 1 for side in extent]
    grid = settings.grid or (coarse[0], coarse[1], coarse[2])
    step = np.array(grid) * 2**settings.depth
    patch = np.minimum(smallest, _LARGEST_PATCH) // step * step
    if settings.patch is None and not patch.all():
        raise InputError(
            "volumes for stardist",
            expected=f"at least {tuple(int(n) for n in step)} voxels, its smallest patch",
            received=str(tuple(int(n) for n in smallest)),
            remedy="lower stardist.depth or stardist.grid, or use larger volumes",
        )
    z, y, x = settings.patch or (int(patch[0]), int(patch[1]), int(patch[2]))
    sides, ratios = [float(n) for n in extent], [float(n) for n in extent.max() / extent]
    return Shape((sides[0], sides[1], sides[2]), (ratios[0], ratios[1], ratios[2]), grid, (z, y, x))


def _rays(number: int, anisotropy: tuple[float, float, float]) -> Any:
    from stardist import Rays_GoldenSpiral

    return Rays_GoldenSpiral(number, anisotropy=anisotropy)


def _labels(model: Any, raw: np.ndarray) -> np.ndarray:
    labels, _ = model.predict_instances(raw, n_tiles=model._guess_n_tiles(raw), show_tile_progress=False)
    return np.asarray(labels, np.uint32)


def _raw(volume: LabelledVolume, data: Data) -> np.ndarray:
    """The image (z, y, x), normalised as for the scenarios."""
    opened = open_volume(volume.raw, channel=data.channel)
    if opened.channels > 1:
        raise InputError(
            volume.raw,
            expected="one channel for stardist",
            received=f"{opened.channels}",
            remedy="choose one with the data set's channel",
        )
    raw = opened.read().astype(np.float32)
    raw = raw[0] if raw.ndim == 4 else raw
    limits = zero_and_one(opened, data.normalize)
    if limits is None:
        return raw
    low, high = limits
    return (raw - np.float32(low)) / np.float32(high - low)


def _truth(volume: LabelledVolume, data: Data) -> np.ndarray:
    """Labels int32 (z, y, x) of the whole volume, numbered from 1: StarDist draws with them."""
    labels = check_truth(volume, data, whole=True)[0].read()
    ids, index = np.unique(labels, return_inverse=True)
    return (index.reshape(labels.shape) + (ids[0] != 0)).astype(np.int32)


def _stop_after(seconds: float, begun: float) -> Any:
    """A Keras callback that ends training when its time is spent, and counts the steps."""
    import keras

    class StopAfter(keras.callbacks.Callback):
        steps = 0

        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            self.steps += 1
            if time.perf_counter() - begun >= seconds:
                self.model.stop_training = True

    return StopAfter()
