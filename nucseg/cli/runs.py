"""Verbs about the OUT of a run: verify, status."""

from typing import TYPE_CHECKING, Any

import click

from nucseg.cli.verb import Failed, launcher_options, log, verb

if TYPE_CHECKING:
    from nucseg.blockwise.status import TaskStatus


@click.command()
@click.argument("out")
@click.option("--repair", is_flag=True, help="Make damaged blocks again, and only these.")
@launcher_options("local:1")
@verb
def verify(out: str, repair: bool, launcher: Any) -> dict[str, Any]:
    """Read all that a run wrote into OUT back and compare it with the digests in its records.

    Names each block that is lost (its file is missing), cannot be read (truncated, flipped bits) or holds other
    values, and each table that changed. Blocks that are not done yet are counted apart and are no damage. Without
    --repair nothing in OUT is changed. With it damaged blocks are made again from the same input with the same
    settings, so that they come out as they were and the steps after them stand; a block that does not, because its
    input is gone or changed, remains damaged. Status 1 if damage remains.
    """
    from nucseg.blockwise.verify import verify as verify_run

    found = verify_run(out, repair=repair, launcher=launcher, log=log)
    lines = [f"{found.checked} blocks and tables checked, {len(found.damaged)} damaged"]
    if repair:
        lines[0] += f", {found.repaired} repaired"
    if found.missing:
        lines.append(f"{found.missing} blocks are not done yet; run the same command again to go on")
    for name, counts in found.tasks.items():
        if counts["dropped"]:
            lines.append(f"{counts['dropped']} blocks of {name} were dropped after use, which is no damage")
    lines += [f"{path} was deleted after use, which is no damage" for path in found.deleted]
    lines += [str(damage) for damage in found.remaining]
    result = {**found.to_json(), "text": "\n".join(lines)}
    if found.remaining:
        first = found.remaining[0]
        remedy = "" if repair else "; `nucseg verify OUT --repair` makes damaged blocks again"
        raise Failed(result, f"{out}: {len(found.remaining)} damaged, the first is {first}{remedy}")
    return result


@click.command()
@click.argument("out")
@verb
def status(out: str) -> dict[str, Any]:
    """Say how far the run in OUT is, running or dead: blocks done, rate, time left, failed and slowest blocks.

    A driver on this machine is asked by its process number; one on another machine is taken as running while workers
    hold the task's lock or a block was done in the last minutes (or three times as long as the slowest block took).
    Reads only. --json adds settings, inputs, versions, the model's hash and all times that it was worked on. The
    status is 0 whatever the run's own is.
    """
    from nucseg.blockwise.status import run_status

    found = run_status(out)
    lines = [f"{found.out}: {found.state}"]
    for task in found.tasks:
        lines += _task_lines(task)
    return {**found.to_json(), "text": "\n".join(lines)}


def _task_lines(task: "TaskStatus") -> list[str]:
    """What is told of one task on a terminal."""
    share = f"{task.done} of {task.blocks} blocks"
    rate = f", {task.blocks_per_minute:.3g} blocks/min" if task.blocks_per_minute else ""
    speed = f" ({task.mvox_per_s:.3g} Mvox/s)" if task.mvox_per_s else ""
    left = f", {_duration(task.seconds_left)} left" if task.seconds_left is not None else ""
    memory = f", {task.peak_memory_bytes / 2**30:.2g} GiB a worker" if task.peak_memory_bytes else ""
    lines = [f"{task.task}: {task.state}, {share}{rate}{speed}{left}{memory}; {task.based_on}"]
    if task.runs:
        last = task.runs[-1]
        kind = "repair " if last["kind"] == "repair" else ""
        ended = f"ended {last['ended']}" if last["ended"] else "no end recorded"
        lines.append(
            f"  {kind}started {last['started']}, {ended}, {last['launcher']} with {last['workers']} workers"
        )
    if task.model_hash:
        lines.append(f"  model {task.model_hash[:12]}")
    if task.dropped:
        lines.append(f"  {task.dropped} blocks were dropped when nothing needed them any more")
    if task.damaged:
        lines.append(f"  {task.damaged} blocks were found damaged and are not made again")
    shown = task.failed[:10]
    lines += [f"  failed {block}: {block.error}; log {block.log}" for block in shown]
    if len(task.failed) > len(shown):
        lines.append(f"  and {len(task.failed) - len(shown)} more; logs in {task.logs}")
    if task.slowest and task.state != "done":
        slowest = ", ".join(f"{block} {block.seconds:.3g} s" for block in task.slowest[:3])
        lines.append(f"  slowest {slowest}")
    return lines


def _duration(seconds: float) -> str:
    """A duration for a reader, in one unit."""
    for unit, size in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 1.5 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} s"
