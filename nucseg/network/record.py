"""`run.json`: what a training run is, written once when it starts."""

import os
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from nucseg.errors import InputError, short
from nucseg.heads.scenario import Scenario
from nucseg.network.unet import UNet
from nucseg.storage.normalization import Normalization

NAME = "run.json"


class RunRecord(BaseModel):
    """Everything that is needed to use a trained network, but its weights."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal[1] = 1
    scenario: Scenario
    network: UNet
    scale_um: tuple[float, float, float] | None = None
    """Voxel size `z, y, x` of the training volumes; None when unknown."""
    normalize: Normalization = (1.0, 99.8)
    """Percentiles of a volume's intensities that are mapped to 0 and 1, or fixed values; None: the raw values were
    taken."""
    nucleus_um: float | None = None
    """Largest diameter of a nucleus in the training data; None when unknown."""
    seed: int = 0
    config: dict[str, Any] | None = None
    """The training configuration, when there was one."""
    versions: dict[str, str] = {}

    @classmethod
    def read(cls, run: str | Path) -> Self:
        """The record of a run folder.

        Raises:
            InputError: Not a run folder, or its record cannot be understood.
        """
        path = Path(run) / NAME
        if not path.is_file():
            raise InputError(
                str(run),
                expected=f"the folder of a training run, with {NAME} in it",
                received="a folder without it" if Path(run).is_dir() else "no such folder",
                remedy="give the folder that `nucseg train --folder` wrote",
            )
        try:
            return cls.model_validate_json(path.read_text(encoding="utf-8"))
        except ValidationError as error:
            first = error.errors()[0]
            cause = first.get("ctx", {}).get("error")
            if isinstance(cause, InputError):
                raise cause.within(str(path)) from error
            raise InputError(
                str(path),
                expected="the record of a training run",
                received=f"{'.'.join(map(str, first['loc']))} = {short(first['input'])}",
                remedy="use the version of nucseg it was written with, or train again",
            ) from error

    def write(self, run: str | Path) -> None:
        """Write it into a run folder, atomically."""
        path = Path(run) / NAME
        partial = path.with_name(f".{NAME}")
        partial.write_text(self.model_dump_json(indent=1), encoding="utf-8")
        os.replace(partial, path)

    def begin(self, run: str | Path, resume: bool = False) -> None:
        """Make the run folder and write the record; with `resume`, a run of the same record may be there.

        Raises:
            InputError: The folder has a run already (without `resume`), one of another scenario or network, or
                other content, or cannot be written.
        """
        folder = Path(run)
        if check_run_folder(folder, resume):
            self._check_same(folder)
            return
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self.write(folder)
        except OSError as error:
            raise InputError(
                f"run folder {run}",
                expected="a folder that can be written",
                received=str(error),
                remedy="choose another folder, or change its permissions",
            ) from error

    def _check_same(self, folder: Path) -> None:
        found = RunRecord.read(folder)
        for field in ("scenario", "network", "seed", "normalize"):
            have, want = getattr(found, field), getattr(self, field)
            if have != want:
                raise InputError(
                    str(folder / NAME),
                    expected=f"a run of {field} {want!r}",
                    received=f"{have!r}",
                    remedy="resume with the configuration it was started with, or start in a new folder",
                )


def check_run_folder(run: str | Path, resume: bool = False) -> bool:
    """Make sure that a training may write into a folder; nothing is changed.

    Args:
        run: New, empty, or the folder of a training run.
        resume: Whether a run that has begun may be there.

    Returns:
        Whether a run has begun there.

    Raises:
        InputError: It holds a run that has begun (without `resume`), or something else.
    """
    folder = Path(run)
    if not (folder / NAME).exists():
        if folder.is_dir() and any(path.name != f".{NAME}" for path in folder.iterdir()):
            raise InputError(
                f"run folder {run}",
                expected="a new or empty folder, or that of a training run",
                received="a folder with other content",
                remedy="choose another folder; nothing was changed",
            )
        return False
    started = (folder / "losses.csv").exists() or (folder / "checkpoints").exists()
    if started and not resume:
        raise InputError(
            f"run folder {run}",
            expected="a new or empty folder",
            received="the folder of another training run",
            remedy="resume that run (--resume), or choose another folder",
        )
    return started
