"""`Dataset`: the volumes of an experiment, given by path or made by `nucseg.synthesize`."""

import json
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from nucseg.errors import InputError
from nucseg.storage.formats import real_path
from nucseg.training.config import Data, LabelledVolume

Seeds = tuple[int, ...]

_TAKEN = ("volumes", "tables", "figures", "matrix.json", "experiment.json", "report.html")
"""What lies in an experiment's folder beside the folders of its data sets."""


class Section(BaseModel):
    """A part of an experiment's configuration: misspelt keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Synthetic(Section):
    """Synthetic worms; each volume is made from its own seed."""

    difficulty: str = "worm"
    """`easy`, `worm` or `hard`."""
    shape: tuple[int, int, int]
    """Voxels z, y, x of each volume."""
    nuclei: int = Field(ge=1)
    """Of each volume."""
    scale_um: tuple[float, float, float] | None = None
    """Voxel size; None: that of `nucseg.synthesize`."""
    train: Seeds = Field(min_length=1)
    """Seeds of the volumes to learn from."""
    validation: Seeds = Field(min_length=1)
    """Seeds of the volumes to select on."""
    test: Seeds = Field(min_length=1)
    """Seeds of the volumes that are scored."""

    @model_validator(mode="after")
    def _apart(self) -> Self:
        seeds = [*self.train, *self.validation, *self.test]
        if len(set(seeds)) != len(seeds):
            twice = next(seed for seed in seeds if seeds.count(seed) > 1)
            raise ValueError(
                f"different volumes for train, validation and test: the seed {twice} serves twice"
            )
        return self

    def path(self, seed: int) -> str:
        """Folder name of a volume; says all that decides its voxels."""
        size = "x".join(map(str, self.shape))
        scale = "" if self.scale_um is None else "_" + "x".join(f"{um:g}" for um in self.scale_um) + "um"
        return f"{self.difficulty}_{size}_{self.nuclei}nuclei{scale}_seed{seed}.zarr"


class Dataset(Data):
    """Volumes to train on, to select on and to test on, and the fields of a training's `data`."""

    name: str = Field(pattern=r"^[A-Za-z0-9_.+-]+$")
    """What its rows are called."""
    train: tuple[LabelledVolume, ...] = ()
    test: tuple[LabelledVolume, ...] = ()
    """Volumes that are scored and serve nothing else."""
    synthetic: Synthetic | None = None
    """Instead of paths: worms to make."""
    training: dict[str, Any] = {}
    """Training settings for this data set only."""

    @field_validator("name")
    @classmethod
    def _free(cls, name: str) -> str:
        if set(name) == {"."} or name in _TAKEN:
            raise ValueError(
                f"another name of a data set than {name!r}, for which the experiment's folder has other use"
            )
        return name

    @field_validator("test", mode="before")
    @classmethod
    def _test_paths(cls, volumes: Any) -> Any:
        if isinstance(volumes, (str, Path)):
            volumes = [volumes]
        if not isinstance(volumes, (list, tuple)):
            return volumes
        return tuple({"raw": os.fspath(v)} if isinstance(v, (str, Path)) else v for v in volumes)

    @model_validator(mode="after")
    def _complete(self) -> Self:
        given = [name for name in ("train", "validation", "test") if getattr(self, name)]
        if self.synthetic is not None and given:
            raise ValueError(f"synthetic volumes of {self.name} or {given[0]} volumes, not both")
        if self.synthetic is None and len(given) < 3:
            missing = [name for name in ("train", "validation", "test") if name not in given]
            raise ValueError(f"volumes of {self.name} for {', '.join(missing)}, or synthetic ones")
        used: dict[str, str] = {}
        for volume in (volume for name in given for volume in getattr(self, name)):
            if (real := real_path(volume.raw)) in used:
                other = "" if used[real] == volume.raw else f" (as {used[real]}, too)"
                raise ValueError(
                    f"different volumes for train, validation and test: {volume.raw} serves twice{other}"
                )
            used[real] = volume.raw
        return self


class Volumes(NamedTuple):
    """A data set's volumes as paths.

    Attributes:
        data: Values of `nucseg.training.config.Data`: train, validation, and how to read them.
        validation: To select on.
        test: To score.
    """

    data: dict[str, Any]
    validation: tuple[LabelledVolume, ...]
    test: tuple[LabelledVolume, ...]


def volumes_of(dataset: Dataset, folder: Path) -> Volumes:
    """The volumes of a data set; synthetic ones lie in `folder/volumes`, see `make_volumes`."""
    parts: dict[str, tuple[LabelledVolume, ...]] = {}
    for name in ("train", "validation", "test"):
        if dataset.synthetic is None:
            parts[name] = getattr(dataset, name)
        else:
            seeds: Seeds = getattr(dataset.synthetic, name)
            paths = [str(folder.absolute() / "volumes" / dataset.synthetic.path(seed)) for seed in seeds]
            parts[name] = tuple(LabelledVolume(raw=path) for path in paths)
    fields = {name: getattr(dataset, name) for name in Data.model_fields}
    data = Data.model_validate(fields | {"train": parts["train"], "validation": parts["validation"]})
    return Volumes(data.model_dump(mode="json"), parts["validation"], parts["test"])


def image_names(volumes: Sequence[LabelledVolume]) -> list[str]:
    """A name for each volume of one list, different from all the others; the same in every cell.

    The file name up to its first dot where no other volume has the same, else the whole file name with the data set
    inside the file (`x.h5:a`), else as many folders before it as tell it from the others.

    >>> image_names([LabelledVolume(raw=raw) for raw in ("a/x.zarr", "b/x.zarr", "b/y.zarr")])
    ['a/x.zarr', 'b/x.zarr', 'y']
    """
    paths = [Path(volume.raw) for volume in volumes]
    names = [path.name.split(".")[0] or path.name for path in paths]
    found: list[str | None] = [None] * len(paths)
    for depth in range(1, 2 + max((len(path.parts) for path in paths), default=0)):
        for i, name in enumerate(names):
            if found[i] is None and names.count(name) == 1:
                found[i] = name
        names = ["/".join(path.parts[-depth:]) for path in paths]
    return [name or f"{paths[i]} ({i})" for i, name in enumerate(found)]


def check_synthetic(dataset: Dataset) -> None:
    """See that the synthetic volumes can be made, as far as that can be known before they are.

    Raises:
        InputError: They cannot, such as when more nuclei are asked for than fit.
    """
    from nucseg.synthetic import check_worm

    synthetic = dataset.synthetic
    if synthetic is None:
        return
    options: dict[str, Any] = {} if synthetic.scale_um is None else {"scale_um": synthetic.scale_um}
    for seed in (*synthetic.train, *synthetic.validation, *synthetic.test):
        try:
            check_worm(synthetic.shape, synthetic.nuclei, seed, difficulty=synthetic.difficulty, **options)
        except InputError as error:
            raise error.within(f"synthetic volumes of {dataset.name}") from None


def make_volumes(dataset: Dataset, folder: Path, log: Callable[[str], None]) -> None:
    """Make the synthetic volumes that are not there yet, each whole or not at all.

    Raises:
        InputError: The volumes cannot be made so, such as when too many nuclei are asked for.
    """
    from nucseg.synthetic import synthesize

    synthetic = dataset.synthetic
    if synthetic is None:
        return
    for seed in (*synthetic.train, *synthetic.validation, *synthetic.test):
        final = folder / "volumes" / synthetic.path(seed)
        if final.exists():
            continue
        log(f"making {final.name}")
        partial = final.with_name(f".{final.name}")
        shutil.rmtree(partial, ignore_errors=True)
        options: dict[str, Any] = {} if synthetic.scale_um is None else {"scale_um": synthetic.scale_um}
        made = synthesize(
            partial,
            shape=synthetic.shape,
            nuclei=synthetic.nuclei,
            seed=seed,
            difficulty=synthetic.difficulty,
            **options,
        )
        (partial / "synthetic.json").write_text(json.dumps(made, indent=1), encoding="utf-8")
        partial.rename(final)
