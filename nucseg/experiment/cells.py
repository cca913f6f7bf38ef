"""The cells of an experiment: which there are, in which order, and what lies in their folders."""

import json
import os
from pathlib import Path
from typing import Any, NamedTuple

from nucseg.errors import InputError
from nucseg.experiment.config import STARDIST, Entry, ExperimentConfig
from nucseg.experiment.dataset import Dataset
from nucseg.network.mirrors import NONE

RESULT = "cell.json"
"""Written last, in one step: a cell that has it is done."""
FAILED = "failed.json"
"""Why the last attempt failed."""
SETTINGS = "settings.json"
"""What the cell is: a folder with other settings is not continued."""
_ROOT = "experiment_folder"
"""Key of settings.json that is no setting: where the experiment lay when the cell was begun."""
LOG = "log.txt"
MATRIX = "matrix.json"
"""The configuration, in the experiment's folder."""


class Cell(NamedTuple):
    """One training, and what is selected and scored with it."""

    dataset: Dataset
    name: str
    seed: int
    folder: Path
    config: ExperimentConfig

    @property
    def title(self) -> str:
        """`dataset/scenario/seed`."""
        return f"{self.dataset.name}/{self.name}/{self.seed}"

    @property
    def entry(self) -> Entry | None:
        """Its scenario; None for StarDist."""
        return next((entry for entry in self.config.scenarios if entry.name == self.name), None)

    @property
    def done(self) -> bool:
        """Whether its result is there."""
        return (self.folder / RESULT).is_file()

    def settings(self) -> dict[str, Any]:
        """Everything that decides its result, but for the number of threads, as plain JSON values.

        Only what was said: what is left to defaults, and to what training finds in the volumes, stays out.
        """
        config, entry = self.config, self.entry
        training = config.settings_of(self.dataset, entry)
        training.pop("workers", None)
        value = {
            "scenario": entry.scenario.model_dump(mode="json", exclude_unset=True) if entry else STARDIST,
            "seed": self.seed,
            "dataset": self.dataset.model_dump(mode="json", exclude={"training"}, exclude_unset=True),
            "training": training,
            "min_size": config.min_size,
        }
        if entry:
            value["checkpoints"] = config.checkpoints
            if config.mirrors != NONE:
                value["mirrors"] = config.mirrors
        elif config.stardist:
            value["stardist"] = config.stardist.model_dump(mode="json", exclude_unset=True)
        return json.loads(json.dumps(value))

    @property
    def root(self) -> str:
        """The experiment's folder, absolute."""
        return os.path.abspath(self.folder.parents[2])

    def begin(self) -> None:
        """Write `settings.json`: the settings, and where the experiment's folder lies now."""
        write_json(self.folder / SETTINGS, {**self.settings(), _ROOT: self.root})

    def check(self) -> None:
        """See that what lies in its folder is of the same settings.

        Volumes are the same where their paths are, or where they are relative to the experiment's folder: the
        folder may be moved alone, and together with the configuration and the volumes.

        Raises:
            InputError: It is not; the error names the first setting that differs.
        """
        path = self.folder / SETTINGS
        if not path.is_file():
            return
        found, wanted = read_json(path), self.settings()
        begun_in = found.pop(_ROOT, None)
        if begun_in and relative_to(begun_in, found) == relative_to(self.root, wanted):
            return
        for key in wanted.keys() | found.keys():
            if found.get(key) != wanted.get(key):
                where, have, want = _difference(key, found.get(key), wanted.get(key))
                raise InputError(
                    str(self.folder),
                    expected=f"a cell with {where} = {_short(want)}, as the configuration says",
                    received=f"one that was begun with {_short(have)}",
                    remedy="use a new --folder, delete this cell's folder, or take the setting back",
                )

    def result(self) -> dict[str, Any] | None:
        """What `cell.json` says; None where the cell is not done."""
        return read_json(self.folder / RESULT) if self.done else None


def cells_of(config: ExperimentConfig, folder: Path) -> list[Cell]:
    """All cells, seed by seed: an interrupted matrix has every scenario equally often, give or take one."""
    return [
        Cell(dataset, name, seed, folder / dataset.name / name / str(seed), config)
        for seed in config.seeds
        for dataset in config.datasets
        for name in config.names
    ]


def claim(config: ExperimentConfig, folder: Path) -> None:
    """Make the experiment's folder and leave the configuration there.

    Raises:
        InputError: The folder holds something else, or cannot be written.
    """
    try:
        if folder.exists() and not (folder / MATRIX).is_file() and not _is_empty(folder):
            raise InputError(
                str(folder),
                expected="a new folder, or the folder of an experiment",
                received="a folder with other things in it" if folder.is_dir() else "a file",
                remedy="choose another folder with --folder",
            )
        folder.mkdir(parents=True, exist_ok=True)
        # Fields that nobody set stay unset: training fills in those of center vectors from the volumes.
        write_json(folder / MATRIX, config.model_dump(mode="json", exclude_unset=True))
    except OSError as error:
        raise InputError(
            str(folder),
            expected="a folder that can be written",
            received=error.strerror or str(error),
            remedy="choose another folder, or change its permissions",
        ) from error


def _is_empty(folder: Path) -> bool:
    return folder.is_dir() and not any(folder.iterdir())


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file in one step, and have it on disk."""
    partial = path.with_name(f".{path.name}.partial")
    with partial.open("w", encoding="utf-8") as file:
        json.dump(value, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object that `write_json` wrote.

    Raises:
        InputError: It is not there, or damaged.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(
            str(path),
            expected="JSON that nucseg wrote",
            received=str(error),
            remedy="delete the cell's folder to have it made again",
        ) from error
    return dict(value)


def relative_to(root: str, settings: dict[str, Any]) -> dict[str, Any]:
    """Settings with the absolute paths of the data set's volumes relative to a folder."""

    def of_volume(volume: dict[str, Any]) -> dict[str, Any]:
        return {k: os.path.relpath(v, root) if v and os.path.isabs(v) else v for k, v in volume.items()}

    dataset = dict(settings.get("dataset") or {})
    for part in ("train", "validation", "test"):
        dataset[part] = [of_volume(volume) for volume in dataset.get(part) or ()]
    return settings | {"dataset": dataset}


def _difference(where: str, have: Any, want: Any) -> tuple[str, Any, Any]:
    """The innermost place where two values differ."""
    if isinstance(have, dict) and isinstance(want, dict):
        for key in have.keys() | want.keys():
            if have.get(key) != want.get(key):
                return _difference(f"{where}.{key}", have.get(key), want.get(key))
    return where, have, want


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 100 else text[:97] + "..."
