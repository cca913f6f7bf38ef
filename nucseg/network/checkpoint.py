"""Checkpoints of a training run: whole or not there at all.

A run folder holds `checkpoints/00001200/`, the name being the iteration, each with

- `model.keras`: the network and its weights, as `keras.saving.load_model` reads it anywhere;
- `optimizer.npz`: every variable of the optimiser (moments, its own iteration, learning rate);
- `state.json`: iteration, loss, hash of the weights, versions.

A checkpoint is written under a name that starts with a dot and renamed when it is complete, so that a
process killed while it saves leaves nothing that a later run would pick up.
"""

import hashlib
import json
import os
import shutil
import zipfile
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from nucseg.errors import InputError

if TYPE_CHECKING:
    import keras


class Checkpoint(NamedTuple):
    """One complete checkpoint."""

    iteration: int
    path: Path

    @property
    def state(self) -> dict[str, Any]:
        """What `state.json` says: `iteration`, `loss`, `weights_sha256`, `versions`.

        Raises:
            InputError: It is damaged.
        """
        path = self.path / "state.json"
        try:
            state = dict(json.loads(path.read_text(encoding="utf-8")))
            if isinstance(state["weights_sha256"], str):
                return state
            problem = "no weights_sha256"
        except (OSError, ValueError, TypeError, KeyError) as error:
            problem = f"a file that is damaged ({' '.join(str(error).split())})"
        raise _damaged(self, path.name, "what the checkpoint is, as JSON", problem)


def list_checkpoints(run: str | Path) -> list[Checkpoint]:
    """All complete checkpoints of a run folder, the oldest first; empty if there are none."""
    folder = Path(run) / "checkpoints"
    if not folder.is_dir():
        return []
    found = (p for p in folder.iterdir() if p.name.isdigit() and (p / "state.json").is_file())
    return sorted(Checkpoint(int(p.name), p) for p in found)


def find_checkpoint(run: str | Path, iteration: int | None = None) -> Checkpoint:
    """A checkpoint by its iteration, or the newest.

    Raises:
        InputError: There is none, or none of that iteration; the error lists those that are there.
    """
    checkpoints = list_checkpoints(run)
    if not checkpoints:
        raise InputError(
            f"run folder {run}",
            expected="at least one checkpoint",
            received="none under checkpoints/",
            remedy="train first, or wait for the first checkpoint",
        )
    if iteration is None:
        return checkpoints[-1]
    for checkpoint in checkpoints:
        if checkpoint.iteration == iteration:
            return checkpoint
    raise InputError(
        f"checkpoint of run folder {run}",
        expected="one of " + ", ".join(str(c.iteration) for c in checkpoints),
        received=str(iteration),
        remedy="choose one of these iterations",
    )


def save_checkpoint(
    run: str | Path,
    iteration: int,
    network: "keras.Model",
    optimizer: "keras.optimizers.Optimizer",
    loss: float,
) -> Checkpoint:
    """Write one checkpoint, atomically; one of the same iteration is replaced.

    Args:
        run: The run folder.
        iteration: Training steps done.
        network: The network; not compiled, so that its file needs no loss function of nucseg to be read.
        optimizer: Built, with its slots.
        loss: Of the last training step.
    """
    folder = Path(run) / "checkpoints"
    folder.mkdir(parents=True, exist_ok=True)
    for stale in folder.glob(".*"):
        shutil.rmtree(stale, ignore_errors=True)
    partial = folder / f".{iteration:08d}"
    partial.mkdir()
    network.save(partial / "model.keras")
    np.savez(partial / "optimizer.npz", allow_pickle=False, **_to_arrays(optimizer.variables))
    state = {
        "iteration": iteration,
        "loss": loss,
        "weights_sha256": hash_arrays(network.get_weights()),
        "versions": versions(),
    }
    (partial / "state.json").write_text(json.dumps(state, indent=1), encoding="utf-8")
    for file in partial.iterdir():
        _flush_to_disk(file)
    final = folder / f"{iteration:08d}"
    if final.exists():
        replaced = folder / f".{iteration:08d}.replaced"
        final.rename(replaced)
        partial.rename(final)
        shutil.rmtree(replaced)
    else:
        partial.rename(final)
    _flush_to_disk(folder)
    return Checkpoint(iteration, final)


def check_checkpoint(checkpoint: Checkpoint, optimizer: bool = False) -> None:
    """See that a checkpoint's files are whole, without importing Keras.

    Args:
        checkpoint: The checkpoint.
        optimizer: Whether the optimiser's file is needed, too: to go on with the training.

    Raises:
        InputError: A file is missing or damaged.
    """
    _ = checkpoint.state
    for name in ("model.keras", "optimizer.npz") if optimizer else ("model.keras",):
        problem = _archive_problem(checkpoint.path / name)
        if problem:
            raise _damaged(checkpoint, name, "a whole archive, as it was saved", problem)


def _archive_problem(path: Path) -> str | None:
    try:
        with zipfile.ZipFile(path) as archive:
            part = archive.testzip()
    except FileNotFoundError:
        return "no such file"
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, OSError) as error:
        return f"{path.stat().st_size} bytes that are damaged or cut short ({error})"
    return f"a damaged part {part}" if part else None


def _damaged(checkpoint: Checkpoint, name: str, expected: str, received: str) -> InputError:
    others = [c for c in list_checkpoints(checkpoint.path.parent.parent) if c.path != checkpoint.path]
    return InputError(
        str(checkpoint.path / name),
        expected=expected,
        received=received,
        remedy=f"delete the folder {checkpoint.path}, and the newest of the other checkpoints is used, or, to "
        f"predict, name one (--checkpoint {others[-1].iteration})"
        if others
        else "the run has no other checkpoint: train again, in a new folder",
    )


def restore_checkpoint(
    checkpoint: Checkpoint, network: "keras.Model", optimizer: "keras.optimizers.Optimizer"
) -> None:
    """Set a network's weights and its (built) optimiser to where they were when the checkpoint was saved.

    Raises:
        InputError: The checkpoint is of another network or optimiser, or damaged.
    """
    check_checkpoint(checkpoint, optimizer=True)
    load_weights(checkpoint, network)
    with np.load(checkpoint.path / "optimizer.npz") as stored:
        values = [stored[name] for name in sorted(stored.files)]
    expected = [tuple(v.shape) for v in optimizer.variables]
    if [v.shape for v in values] != expected:
        raise InputError(
            f"checkpoint {checkpoint.path}",
            expected=f"an optimiser of {len(expected)} variables",
            received=f"{len(values)} variables, or of other shapes",
            remedy="resume with the optimiser the run was started with, or start in a new folder",
        )
    for variable, value in zip(optimizer.variables, values, strict=True):
        variable.assign(value)


def load_weights(checkpoint: Checkpoint, network: "keras.Model") -> None:
    """Set a network's weights to a checkpoint's.

    Raises:
        InputError: The checkpoint is of another network, or damaged.
    """
    import keras

    check_checkpoint(checkpoint)
    try:
        weights = keras.saving.load_model(
            checkpoint.path / "model.keras", compile=False, safe_mode=True
        ).get_weights()
        problem = _problem(weights, network, checkpoint.state["weights_sha256"])
    except (ValueError, OSError, KeyError, zipfile.BadZipFile) as error:
        problem = str(error).strip().splitlines()[0]
    if problem:
        raise InputError(
            f"checkpoint {checkpoint.path}",
            expected="the weights of the network that run.json describes",
            received=problem,
            remedy="choose another checkpoint, or train again",
        )
    network.set_weights(weights)


def _problem(weights: list[np.ndarray], network: "keras.Model", digest: str) -> str | None:
    if [w.shape for w in weights] != [tuple(w.shape) for w in network.weights]:
        return f"weights of another network, {sum(w.size for w in weights)} parameters"
    if hash_arrays(weights) != digest:
        return "weights that are not the ones that were saved (their hash in state.json differs)"
    return None


def hash_arrays(arrays: list[np.ndarray]) -> str:
    """SHA-256 over shapes, dtypes and values, in order."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(f"{array.shape}{array.dtype.str}".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def versions() -> dict[str, str]:
    """Versions of what a trained network depends on, and the Keras backend."""
    import keras

    import nucseg

    return {
        "nucseg": nucseg.__version__,
        "keras": keras.__version__,
        "backend": keras.backend.backend(),
        "numpy": np.__version__,
    }


def _to_arrays(variables: Any) -> dict[str, np.ndarray]:
    import keras

    return {f"{i:06d}": keras.ops.convert_to_numpy(v.value) for i, v in enumerate(variables)}


def _flush_to_disk(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
