"""`RunResult`: what a run over several steps made."""

from collections.abc import Callable
from typing import Any

from pydantic import BaseModel, ConfigDict


class RunResult(BaseModel):
    """What a run made. Counts of blocks are over all of its steps."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    nuclei: int
    """Instances, or points, in the volume."""
    blocks: int
    skipped: int
    """Blocks that an earlier run had done."""
    failed: int
    """Always 0: a run with failed blocks raises `BlocksFailed`."""
    digest: str
    """Of the values of all labels, or of all points; the same for every block shape and number of workers."""
    mvox_per_s: float
    """Million voxels of the volume a second, over all steps, not counting what was skipped."""
    peak_memory_bytes: int
    """Of the largest worker."""
    seconds: float
    steps: dict[str, dict[str, Any]]
    """What each step returned."""

    def to_json(self) -> dict[str, Any]:
        """As plain JSON."""
        return self.model_dump(mode="json")


def result_of(steps: dict[str, dict[str, Any]], seconds: float) -> RunResult:
    """The result of a run.

    Args:
        steps: What each task's `blockwise` returned, by the task's name, in order. The digest is that of the
            segmentation, if there is one, else of the last step.
        seconds: Of the whole run.
    """
    last = list(steps.values())[-1]
    megavoxels = [step["mvox_per_s"] * step["seconds"] for step in steps.values()]
    return RunResult(
        nuclei=last["nuclei"],
        blocks=sum(step["blocks"] for step in steps.values()),
        skipped=sum(step["skipped"] for step in steps.values()),
        failed=0,
        digest=(steps.get("segment") or last)["digest"],
        mvox_per_s=sum(megavoxels) / len(megavoxels) / seconds,
        peak_memory_bytes=max(step["peak_memory_bytes"] for step in steps.values()),
        seconds=seconds,
        steps=steps,
    )


def cost_of_both(first: dict[str, Any], second: dict[str, Any]) -> dict[str, Any]:
    """`seconds`, `mvox_per_s` and `peak_memory_bytes` of two passes over the blocks, from what each returned."""
    seconds = first["seconds"] + second["seconds"]
    return {
        "seconds": seconds,
        "mvox_per_s": first["mvox_per_s"] * first["seconds"] / seconds,
        "peak_memory_bytes": max(first["peak_memory_bytes"], second["peak_memory_bytes"]),
    }


def tell_nonfinite(steps: dict[str, dict[str, Any]], log: Callable[[str], None] | None) -> None:
    """Say how many values were no numbers, and what became of them."""
    became = {
        "predict": "raw voxels are no number and were taken as 0, the low end of intensities",
        "segment": "voxels of the prediction are no number and are background",
        "detect": "voxels of the prediction are no number and hold no point",
        "measure": "voxels of nuclei have an intensity that is no number and are left out of means and medians",
    }
    for name, step in steps.items():
        if log and name in became and step.get("nonfinite"):
            log(f"{name}: {step['nonfinite']} {became[name]}")
