"""What a worker asks a cluster for, and the file that says it for each task."""

import tomllib
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from nucseg.errors import InputError, expected_of, short

TASKS = (
    "predict",
    "segment",
    "sift",
    "collect_ids",
    "compact",
    "detect",
    "measure",
    "medians",
    "downsample",
    "verify",
)
"""Tasks that have a table of their own name; those of a lab are under [tasks.NAME]."""


class Resources(BaseModel):
    """What one worker gets. None leaves it to the cluster's default."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    partition: str | None = None
    """Slurm's partition, LSF's queue."""
    time: str | None = Field(None, pattern=r"^(\d+-)?\d+(:\d+){0,2}$")
    """Longest time a worker may live, as the cluster writes it: `4:00:00` (LSF: `4:00`)."""
    cpus: int | None = Field(None, ge=1)
    """Processor cores; also the number of threads."""
    memory: str | None = Field(None, pattern=r"^\d+[KMGT]?$")
    """Such as `16G`."""
    gpus: int | None = Field(None, ge=0)
    options: tuple[str, ...] = ()
    """Further options of `sbatch` or `bsub`, one word each, as they are: `--gpus=1`."""
    setup: tuple[str, ...] = ()
    """Lines of shell that come before the worker, such as `module load cuda`."""
    container: tuple[str, ...] = ()
    """Words that come before the worker's command: `apptainer`, `exec`, `--nv`, `nucseg.sif`."""
    python: str | None = None
    """The Python of the workers; None is the one that starts them."""

    @property
    def memory_bytes(self) -> int | None:
        """`memory` in bytes, in powers of 1024, and MiB where it has no letter; None where it is left open."""
        if self.memory is None:
            return None
        letter = self.memory[-1]
        return int(self.memory.rstrip("KMGT")) * 1024 ** (
            2 if letter.isdecimal() else "KMGT".index(letter) + 1
        )

    def changed(self, other: "Resources | None") -> "Resources":
        """These, with what another says explicitly."""
        own = {name: getattr(self, name) for name in Resources.model_fields}
        said = {name: getattr(other, name) for name in other.model_fields_set} if other else {}
        return Resources(**own | said)


def read_cluster(path: str | Path) -> dict[str, Any]:
    """Read a cluster's TOML file: the fields of a launcher.

    Tables named after a task hold its own `Resources`; those of a lab's tasks are under `[tasks.NAME]`.

    Returns:
        Keyword arguments of `Slurm` or `LSF`.

    Raises:
        InputError: It cannot be read, or a table is no task's.
    """
    try:
        settings = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(
            str(path),
            expected="a TOML file of cluster settings",
            received=getattr(error, "strerror", None) or str(error),
            remedy="start from pipelines/cluster.toml",
        ) from None
    tables = {name: table for name, table in settings.items() if isinstance(table, dict) and name != "tasks"}
    unknown = sorted(tables.keys() - set(TASKS))
    if unknown:
        raise InputError(
            f"{path}: [{unknown[0]}]",
            expected=f"the table of a task: {', '.join(TASKS)}",
            received="another name",
            remedy=f"correct it; a task of your own goes into [tasks.{unknown[0]}]",
        )
    rest = {name: value for name, value in settings.items() if name not in tables}
    own = rest.pop("tasks", {})
    return {**rest, "tasks": {**tables, **(own if isinstance(own, dict) else {"tasks": own})}}


def checked(kind: type[BaseModel], path: str | Path, settings: dict[str, Any]) -> Any:
    """Make a launcher from the settings of a file; what pydantic refuses becomes an error of one line.

    Raises:
        InputError: A setting is unknown or has a wrong value.
    """
    try:
        return kind(**settings)
    except ValidationError as problem:
        first = problem.errors()[0]
        place = ".".join(str(part) for part in first["loc"] if part != "tasks")
        known = ", ".join(sorted({*Resources.model_fields, *kind.model_fields} - {"tasks", "workers"}))
        unknown = first["type"] == "extra_forbidden"
        raise InputError(
            f"{path}: {place}",
            expected=f"one of {known}" if unknown else expected_of(first),
            received=repr(str(first["loc"][-1])) if unknown else short(first["input"]),
            remedy="correct the file; pipelines/cluster.toml shows every setting",
        ) from None
