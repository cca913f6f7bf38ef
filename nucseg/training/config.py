"""`TrainConfig`: what a training TOML may say."""

import os
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from nucseg.annotation import is_name
from nucseg.heads.scenario import Scenario
from nucseg.network.optimizer import Optimizer
from nucseg.network.training_copy import Precision
from nucseg.network.unet import DEFAULT_PRESET, UNet, preset_fields
from nucseg.storage.normalization import Normalization
from nucseg.training.problems import read_toml, validated

Float3 = tuple[float, float, float]
Interval = tuple[float, float]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class LabelledVolume(_Section):
    """One volume to learn from: with labels, or with points at the centres of its nuclei."""

    raw: str
    """Path of the image, as `nucseg.open_volume` reads it."""
    labels: str | None = None
    """Path of a label file of the same shape; None: the label image `data.labels` inside the OME-Zarr
    `raw`, unless `points` are given."""
    points: str | None = None
    """Instead of labels: path of a table with columns z, y, x in voxels (`.csv` or `.parquet`), an OME-Zarr whose
    `tables/centers` is meant, or the bare name of a table inside the OME-Zarr `raw`. Only heads that need not
    know how far nuclei reach learn from points."""
    mask: str | None = None
    """What of the volume is annotated: path of an array of the same shape, or the bare name of a label image inside
    the OME-Zarr `raw`; 0 or False where nothing is annotated. None: all is."""

    @model_validator(mode="after")
    def _one_annotation(self) -> Self:
        if self.labels is not None and self.points is not None:
            raise ValueError("labels or points of a volume, not both")
        return self


class Data(_Section):
    """Which volumes are learned from, and what is known about them."""

    train: tuple[LabelledVolume, ...] = Field(min_length=1)
    """Volumes: paths of OME-Zarr images with labels inside, or tables `{raw = ..., labels = ...}`, `{raw = ..., points
    = ...}`, each with a `mask` if only a part is annotated."""
    validation: tuple[LabelledVolume, ...] = ()
    """Volumes for `nucseg select`, which scores them where they are annotated; training does not look at them."""
    labels: str = "nuclei"
    """Name of the label image inside an OME-Zarr."""
    ignore_label: int | None = None
    """A label that means "not annotated here", such as -1, 255 or 65535."""
    channel: int | None = Field(None, ge=0)
    """The one channel of the images to take; None takes all."""
    scale_um: Float3 | None = None
    """Voxel size z, y, x where the files do not say it, or say it wrongly."""
    normalize: Normalization = (1.0, 99.8)
    """Percentiles of a volume's intensities that become 0 and 1; `{values = [0, 120]}`: these intensities do, in
    every volume, also in those that are predicted; `false`: the raw values are taken as they are."""
    nucleus_um: float | None = Field(None, gt=0)
    """Largest diameter of a nucleus; None: measured in the labels. Must be given where no volume has labels."""
    mark_um: float | None = Field(None, gt=0)
    """Radius of the ball that stands for a nucleus where a point is all that is annotated; smaller where two points
    are near. None: a quarter of the largest diameter of a nucleus, what most nuclei are sure to fill."""
    in_memory: bool | None = None
    """Whether volumes are read once and kept; None: those below 512 MiB are."""

    @field_validator("ignore_label")
    @classmethod
    def _background_counts(cls, value: int | None) -> int | None:
        if value == 0:
            raise ValueError(
                "another label than 0, which is background; give a mask if background is not annotated"
            )
        return value

    @field_validator("normalize", mode="before")
    @classmethod
    def _off(cls, value: Any) -> Any:
        return None if value is False else value

    @field_validator("train", "validation", mode="before")
    @classmethod
    def _paths(cls, volumes: Any) -> Any:
        if isinstance(volumes, (str, Path)):
            volumes = [volumes]
        if not isinstance(volumes, (list, tuple)):
            return volumes
        return tuple({"raw": os.fspath(v)} if isinstance(v, (str, Path)) else v for v in volumes)


class Patch(_Section):
    """What one training step sees."""

    output: tuple[int, int, int] = (32, 32, 32)
    """Shape of the network's output, z, y, x, voxels."""
    batch: int = Field(1, ge=1)
    """Patches a step."""
    min_foreground: float = Field(0.0, ge=0, lt=1)
    """Share of the output that must be nuclei; places with less are drawn again. Where points are annotated, as
    many nuclei of the largest diameter."""


class Augment(_Section):
    """Deformation and intensity changes; see the nodes of the same names."""

    rotation_deg: float = Field(45.0, ge=0, le=180)
    rotate: Literal["isotropic", "all"] = "isotropic"
    spacing: float = Field(10.0, ge=1)
    jitter: float = Field(1.0, ge=0)
    mirror: bool = True
    transpose: bool = True
    reuse: int = Field(1, ge=1)
    """How many steps one deformed patch serves, each with its own mirroring and transposition. More than one spares
    the processors that make batches, but consecutive steps then see the same nuclei."""
    deform: float = Field(0.25, ge=0, le=1)
    """Probability of rotation and elastic deformation. Resampling smooths the noise, so that a network which sees
    deformed patches only does worse on the volumes as they are."""
    # `false` turns an intensity change off; those that are None are off unless given.
    scale: Interval | None = (0.9, 1.1)
    """Factor on the contrast."""
    shift: Interval | None = (-0.1, 0.1)
    """What is added, in normalised intensities."""
    gamma: Interval | None = None
    gaussian_noise: Interval | None = None
    poisson_noise: Interval | None = None
    blur: Interval | None = None

    @field_validator("scale", "shift", "gamma", "gaussian_noise", "poisson_noise", "blur", mode="before")
    @classmethod
    def _off(cls, value: Any) -> Any:
        return None if value is False else value


class TrainConfig(_Section):
    """A training run, as a TOML says it.

    >>> config = TrainConfig(scenario="three_label_cpv", data={"train": ["worm.zarr"]})
    >>> config.network.levels
    3
    """

    scenario: Scenario
    """A scenario's name, or heads: `[[heads]]` with `kind = "three_label"` and the head's own fields."""
    seed: int = Field(0, ge=0)
    """The same seed gives the same run."""
    iterations: int = Field(1200, ge=1)
    """Training steps."""
    checkpoint_every: int | None = Field(None, ge=1)
    """Steps between checkpoints; None: an eighth of the run, at most 10,000."""
    snapshot_every: int | None = Field(None, ge=1)
    """Steps between snapshots of a batch; None: as between checkpoints."""
    workers: int = Field(1, ge=0)
    """Processes that prepare batches; 0 prepares them in the training process."""
    threads: int | None = Field(None, ge=1)
    """Threads of the Keras backend; None: its own choice."""
    precision: Precision = "float32"
    """What the network computes in while it trains. `bfloat16` is 1.5 to 2 times as fast on processors and GPUs with
    units for it (`amx_bf16` in /proc/cpuinfo), slower on others; `auto` takes it on such a processor. Checkpoints and
    predictions are float32 either way."""
    tensorboard: bool = True
    """Whether to write TensorBoard events."""
    network: UNet = UNet.preset(DEFAULT_PRESET)
    """A `preset`, fields of the network, or both."""
    data: Data
    patch: Patch = Patch()
    augment: Augment = Augment()
    optimizer: Optimizer = Optimizer()

    @classmethod
    def from_toml(cls, path: str | Path) -> Self:
        """Read a configuration; relative paths in it are relative to its folder.

        Raises:
            InputError: It cannot be read, a key is misspelt (the nearest right one is named) or a value is
                wrong.
        """
        values = read_toml(path)
        _resolve(values.get("data"), Path(path).absolute().parent)
        return validated(cls, values, path)

    @model_validator(mode="before")
    @classmethod
    def _heads(cls, values: Any) -> Any:
        if not isinstance(values, dict) or "heads" not in values:
            return values
        if "scenario" in values:
            raise ValueError("a scenario or [[heads]], not both: they are two ways to say one thing")
        return {"scenario": {"heads": values["heads"]}} | {k: v for k, v in values.items() if k != "heads"}

    @field_validator("scenario", mode="before")
    @classmethod
    def _named(cls, value: Any) -> Any:
        return Scenario.named(value) if isinstance(value, str) else value

    @field_validator("network", mode="before")
    @classmethod
    def _preset(cls, value: Any) -> Any:
        if isinstance(value, str):
            value = {"preset": value}
        if isinstance(value, dict) and "preset" in value:
            return preset_fields(value["preset"]) | {k: v for k, v in value.items() if k != "preset"}
        return value


def _resolve(data: Any, folder: Path) -> None:
    """Make a TOML's relative paths absolute, in place; what is not as it should be is left to validation."""
    if not isinstance(data, dict):
        return
    for name in ("train", "validation"):
        volumes = data.get(name)
        if isinstance(volumes, str):
            data[name] = volumes = [volumes]
        if isinstance(volumes, list):
            data[name] = [absolute_volume(volume, folder) for volume in volumes]


def absolute_volume(volume: Any, folder: Path) -> Any:
    """A volume as a TOML gives it, with its relative paths joined to the TOML's folder.

    Bare names of `points` and `mask` stay: they are parts of the image. What is no volume is left to validation.
    """
    if isinstance(volume, str):
        return os.path.join(folder, volume)
    if isinstance(volume, dict):
        return {k: _absolute_path(k, v, folder) if isinstance(v, str) else v for k, v in volume.items()}
    return volume


def _absolute_path(key: str, value: str, folder: Path) -> str:
    inside = key in ("points", "mask") and is_name(
        value
    )  # names a part of the volume, not a file beside the TOML
    return value if inside else os.path.join(folder, value)
