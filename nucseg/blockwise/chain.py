"""Tasks that follow each other, block by block where they can: `a + b + c`."""

from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING, Any

from nucseg.blockwise.dropping import PREDICTIONS
from nucseg.blockwise.keeping import check_keep, dropping_work, make_ready, may_be_dropped
from nucseg.blockwise.preflight import Need, check_task, planes_at_once
from nucseg.blockwise.task import Task
from nucseg.blockwise.work import Work, do
from nucseg.errors import InputError

if TYPE_CHECKING:
    from nucseg.blockwise.launch import Launcher

Log = Callable[[str], None]


class Chain:
    """Tasks of which each may read what earlier ones write; `a + b + c` makes one.

    A task that says so (`Task.following`) goes on together with those before it: its blocks begin as soon as the
    blocks that they read are done. Any other begins when all before it is done.
    """

    def __init__(self, tasks: tuple[Task, ...]) -> None:
        self.tasks = tasks

    def __add__(self, other: "Task | Chain") -> "Chain":
        return Chain(self.tasks + (other.tasks if isinstance(other, Chain) else (other,)))

    def blockwise(
        self,
        launcher: "Launcher | Sequence[Launcher] | None" = None,
        *,
        overwrite: bool = False,
        log: Log | None = None,
        keep: Collection[str] = (PREDICTIONS,),
    ) -> list[dict[str, Any]]:
        """Do all blocks of all tasks that are not done yet.

        Blocks that read what could not be done are not begun, and are named.

        Args:
            launcher: Where workers run: one for all tasks, each of which gets its number of workers, or one a task.
                None is one worker a task on this machine.
            overwrite: Delete outputs and records of all tasks first.
            log: Takes lines about what goes on.
            keep: What stays on disk: `("predictions",)`, or `()` to delete each block of OUT/prediction as soon as all
                blocks that read it are done. A prediction is kept whole where a task reads it whole; tasks of your own
                that come later and read it are for you to think of.

        Returns:
            For each task what `Task.blockwise` returns.

        Raises:
            InputError: Inputs, `keep` or OUT do not fit, or another number of launchers than of tasks.
            BlocksFailed: Blocks are not done; the others are, and stay so.
        """
        check_keep(keep)
        launchers = self._launchers(launcher)
        results: list[dict[str, Any]] = []
        while len(results) < len(self.tasks):
            place = len(results)
            if (
                type(self.tasks[place]).blockwise is not Task.blockwise
            ):  # it is more than one pass over blocks
                results.append(self.tasks[place].blockwise(launchers[place], overwrite=overwrite, log=log))
                continue
            works = _together(self.tasks[place:], launchers[place:], overwrite, log, PREDICTIONS in keep)
            drop = None if PREDICTIONS in keep else dropping_work(works, self.tasks[place + len(works) :])
            together = [*works, drop] if drop else works
            make_ready(together, log)
            do(together)
            if drop and drop.left and log:
                log(f"{works[0].task.name}: {drop.result()['bytes'] / 2**30:.2g} GiB were dropped after use")
            results += [work.result() for work in works]
        return results

    def _launchers(self, launcher: "Launcher | Sequence[Launcher] | None") -> "list[Launcher]":
        from nucseg.blockwise.launch import Launcher, Local

        if launcher is None or isinstance(launcher, Launcher):
            return [launcher or Local(workers=1)] * len(self.tasks)
        if len(launcher) != len(self.tasks):
            raise InputError(
                "launchers",
                expected=f"one, or one for each of {', '.join(task.name for task in self.tasks)}",
                received=str(len(launcher)),
                remedy="give as many as there are tasks, in their order",
            )
        return list(launcher)


def _together(
    tasks: Sequence[Task], launchers: "Sequence[Launcher]", overwrite: bool, log: Log | None, kept: bool
) -> list[Work]:
    """Begin the first task, and those after it that can go on while it does."""
    beside: list[Need] = []

    def check(task: Task) -> None:
        """What fits when each runs by itself need not fit together."""
        launcher, planes = launchers[len(beside)], None
        if not beside and not kept and may_be_dropped(task, tasks[1:]):
            planes = planes_at_once(task, tasks[1:])
        beside.append(check_task(task, launcher, overwrite, beside, planes))

    works = [Work(tasks[0].prepared(overwrite=overwrite, check=check), launchers[0], log)]
    works[0].begin(overwrite)
    for task, launcher in zip(tasks[1:], launchers[1:], strict=True):
        if type(task).blockwise is not Task.blockwise:
            break
        following = task.prepared_behind([work.task for work in works], overwrite=overwrite, check=check)
        if following is None:
            break
        task, reach = following
        works.append(Work(task, launcher, log, after=works, reach=reach))
        works[-1].begin(overwrite)
    return works
