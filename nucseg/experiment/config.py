"""`ExperimentConfig`: what an experiment TOML may say."""

from pathlib import Path
from typing import Any, Self

from pydantic import Field, field_validator, model_validator

from nucseg.experiment.dataset import Dataset, Section
from nucseg.heads.scenario import Scenario
from nucseg.network.mirrors import NONE, Mirrors
from nucseg.training.config import TrainConfig, absolute_volume
from nucseg.training.problems import read_toml, validated

STARDIST = "stardist"
"""Name of StarDist-3D's row."""

_OWN = {
    "scenario": "scenarios",
    "heads": "scenarios",
    "seed": "seeds",
    "data": "datasets",
    "threads": "threads (outside of training)",
}

Triple = tuple[int, int, int]


class Entry(Section):
    """One scenario of the matrix: a name, or a table with `name` and what is special about it."""

    name: str = Field(pattern=r"^\.*[A-Za-z0-9_+-][A-Za-z0-9_.+-]*$")
    """What its rows are called."""
    scenario: Scenario
    """Left out, the ready-made scenario of that name; `heads = [...]` gives heads one by one."""
    baseline: str | None = None
    """Entry that this one is compared with; None: `x` is the baseline of `x_cpv`."""
    training: dict[str, Any] = {}
    """Training settings for this scenario only, over those of the data set and of the experiment."""

    @model_validator(mode="before")
    @classmethod
    def _named(cls, value: Any) -> Any:
        if isinstance(value, str):
            value = {"name": value}
        if not isinstance(value, dict) or "scenario" in value or not isinstance(value.get("name"), str):
            return value
        value = dict(value)
        if "heads" in value:
            value["scenario"] = {"heads": value.pop("heads")}
        else:
            value["scenario"] = Scenario.named(value["name"])
        return value

    @field_validator("scenario", mode="before")
    @classmethod
    def _ready_made(cls, value: Any) -> Any:
        return Scenario.named(value) if isinstance(value, str) else value


class StarDistSettings(Section):
    """StarDist-3D beside the scenarios: on the same volumes, with the same normalisation and scoring."""

    seconds: float | None = Field(None, gt=0)
    """Training time; None: that of `training.seconds`."""
    patience: int | None = Field(None, ge=1)
    """Epochs without a lower validation loss after which training ends before its time; None: it does not."""
    epochs: int = Field(10_000, ge=1)
    """At most so many epochs."""
    steps_per_epoch: int = Field(100, ge=1)
    """Steps between two looks at the validation patches, as StarDist's own default."""
    rays: int = Field(96, ge=8)
    grid: Triple | None = None
    """Sub-sampling of its output; None: 2 along axes on which a median nucleus is 8 voxels or longer."""
    patch: Triple | None = None
    """Training patch in voxels; None: up to 64 a side, as far as the smallest training volume allows."""
    filters: int = Field(32, ge=1)
    """Feature maps of its U-Net's first convolution, as StarDist's own default."""
    depth: int = Field(2, ge=1)
    """Poolings of its U-Net."""
    batch: int = Field(1, ge=1)
    learning_rate: float = Field(3e-4, gt=0)
    augment: bool = True
    """Mirrors, transpositions and changes of intensity, with the ranges of `training.augment`."""
    nms_thresholds: tuple[float, ...] = Field((0.3, 0.4, 0.5), min_length=1)
    """Among which its `optimize_thresholds` looks; for each it searches the probability threshold."""
    threshold_steps: int = Field(20, ge=1)
    """Steps of that search."""


class ExperimentConfig(Section):
    """An experiment, as a TOML says it.

    >>> data = {"name": "a", "train": ["a.zarr"], "validation": ["b.zarr"], "test": ["c.zarr"]}
    >>> config = ExperimentConfig(scenarios=["three_label"], seeds=[1, 2], datasets=[data])
    >>> len(config.names) * len(config.seeds)
    2
    """

    title: str = "nucseg experiment"
    """Heading of the report."""
    datasets: tuple[Dataset, ...] = Field(min_length=1)
    """`[[datasets]]`: volumes by path, or `synthetic = {...}`."""
    scenarios: tuple[Entry, ...] = ()
    """Names of scenarios, or tables; see `Entry`."""
    seeds: tuple[int, ...] = Field(min_length=1)
    """Every scenario is trained once for each."""
    training: dict[str, Any] = {}
    """What a training TOML says, without scenario, seed and data; `seconds` may stand for `iterations`."""
    stardist: StarDistSettings | None = None
    """StarDist-3D as one more row; needs `pip install 'nucseg[stardist]'`."""
    min_size: int = Field(0, ge=0)
    """Objects of fewer voxels are left out of all scores."""
    checkpoints: int = Field(3, ge=1)
    """Among how many of the newest checkpoints of a training is selected."""
    mirrors: Mirrors = NONE
    """Mirrored views to average in the predictions of validation and test volumes: `none`, `all`, or axes such as
    `yx`; n axes take 2^n times as long to predict. StarDist's predictions are as they are."""
    parallel: int = Field(1, ge=0)
    """Cells at a time, each a process of its own; 0 runs them in this process, one after another."""
    threads: int | None = Field(None, ge=1)
    """Threads of each cell; None: the cores shared out."""
    keep_predictions: bool = False
    """Whether predictions stay on disk once they are scored."""
    overlay: str | None = None
    """Scenario whose best and worst test volume are drawn; None: `three_label_cpv`, or else the first."""

    @field_validator("stardist", mode="before")
    @classmethod
    def _default_stardist(cls, value: Any) -> Any:
        return {} if value is True else None if value is False else value

    @field_validator("seeds")
    @classmethod
    def _distinct(cls, seeds: tuple[int, ...]) -> tuple[int, ...]:
        if len(set(seeds)) != len(seeds) or min(seeds) < 0:
            raise ValueError("different numbers from 0 on")
        return seeds

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        for what, names in (("datasets", [d.name for d in self.datasets]), ("scenarios", self.names)):
            if len(set(names)) != len(names):
                raise ValueError(f"{what} of different names, not {', '.join(names)}")
        if not self.names:
            raise ValueError("at least one scenario, or stardist")
        for where in (
            self.training,
            *(d.training for d in self.datasets),
            *(e.training for e in self.scenarios),
        ):
            if wrong := sorted(set(where) & set(_OWN)):
                raise ValueError(f"no {wrong[0]!r} in training: it is the experiment's own {_OWN[wrong[0]]}")
        for entry in self.scenarios:
            if entry.baseline is not None and entry.baseline not in self.names:
                raise ValueError(
                    f"one of {', '.join(self.names)} as the baseline of {entry.name}, not {entry.baseline!r}"
                )
        if self.overlay is not None and self.overlay not in self.names:
            raise ValueError(f"one of {', '.join(self.names)} as the overlay, not {self.overlay!r}")
        if self.stardist and not self.stardist.seconds:
            for dataset in self.datasets:
                if "seconds" not in merged(self.training, dataset.training):
                    raise ValueError(
                        "stardist.seconds or training.seconds, which say how long StarDist trains"
                    )
        return self

    @classmethod
    def from_toml(cls, path: str | Path) -> Self:
        """Read a configuration; relative paths in it are relative to its folder.

        Raises:
            InputError: It cannot be read, a key is misspelt (the nearest right one is named) or a value is
                wrong.
        """
        values = read_toml(path)
        _resolve(values.get("datasets"), Path(path).absolute().parent)
        config = validated(cls, values, path)
        config.check(str(path))
        return config

    def check(self, source: str = "experiment") -> None:
        """See that every training of the matrix has settings that a training takes.

        Raises:
            InputError: A key is misspelt or a value is wrong, in the words of a training configuration.
        """
        for dataset in self.datasets:
            for entry in self.scenarios:
                self.training_of(dataset, entry, self.seeds[0], {"train": ["unread"]}, source=source)

    @property
    def names(self) -> list[str]:
        """Names of the rows: the scenarios, then StarDist."""
        return [*(entry.name for entry in self.scenarios), *([STARDIST] if self.stardist else [])]

    def baseline_of(self, name: str) -> str | None:
        """The scenario that another is compared with, if there is one in the matrix."""
        entry = next((entry for entry in self.scenarios if entry.name == name), None)
        if entry is not None and entry.baseline:
            return entry.baseline
        plain = name.removesuffix("_cpv")
        return plain if plain != name and plain in self.names else None

    def settings_of(self, dataset: Dataset, entry: Entry | None) -> dict[str, Any]:
        """Training settings: the experiment's, over them the data set's, over them the scenario's."""
        settings = merged(self.training, dataset.training)
        return merged(settings, entry.training) if entry else settings

    def training_of(
        self,
        dataset: Dataset,
        entry: Entry,
        seed: int,
        data: dict[str, Any],
        *,
        iterations: int | None = None,
        source: str = "experiment",
    ) -> TrainConfig:
        """The training of one cell.

        Args:
            dataset: Of the cell.
            entry: Of the cell.
            seed: Of the cell.
            data: Values of `nucseg.training.config.Data`.
            iterations: Instead of the settings' number or seconds.
            source: What errors name.

        Raises:
            InputError: The settings are none of a training.
        """
        settings = self.settings_of(dataset, entry)
        settings.pop("seconds", None)
        settings = (
            {"tensorboard": False} | settings | {"scenario": entry.scenario, "seed": seed, "data": data}
        )
        if iterations is not None:
            settings["iterations"] = iterations
        settings["threads"] = self.threads
        return validated(TrainConfig, settings, f"{source}, training of {entry.name}")


def merged(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """`base` with the values of `over`; tables that both have are merged, too."""
    result = dict(base)
    for key, value in over.items():
        both = isinstance(value, dict) and isinstance(result.get(key), dict)
        result[key] = merged(result[key], value) if both else value
    if "seconds" in over and "iterations" not in over:
        result.pop("iterations", None)
    if "iterations" in over and "seconds" not in over:
        result.pop("seconds", None)
    return result


def _resolve(datasets: Any, folder: Path) -> None:
    """Make the relative paths of data sets absolute, in place; what is not as it should be is left alone."""
    for dataset in datasets if isinstance(datasets, list) else []:
        for name in ("train", "validation", "test") if isinstance(dataset, dict) else ():
            volumes = dataset.get(name)
            if isinstance(volumes, (str, dict)):
                volumes = [volumes]
            if isinstance(volumes, list):
                dataset[name] = [absolute_volume(volume, folder) for volume in volumes]
