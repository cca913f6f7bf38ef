"""What all verbs share: `--json`, `--debug`, the exit status, and the volume-shaped options."""

import functools
import json
import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from nucseg.cli.main import one_line
from nucseg.errors import BlocksFailed, InputError


class Failed(Exception):
    """A verb that did its work and found it wanting: its result is printed and the status is 1.

    Args:
        result: What `--json` prints.
        message: One line for stderr.
    """

    def __init__(self, result: dict[str, Any], message: str) -> None:
        self.result = result
        super().__init__(message)


def verb(function: Callable[..., dict[str, Any]]) -> Callable[..., None]:
    """Give a function that returns a result the manners of a verb.

    The function returns a dictionary; with `--json` it is printed as one JSON object on stdout, else as text:
    the value under `text`, if there is one, or a line a key. An error becomes one line on stderr and status 1.
    """

    @click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout.")
    @click.option("--debug", is_flag=True, help="Show tracebacks, those of workers too.")
    @functools.wraps(function)
    def command(*args: Any, as_json: bool, debug: bool, **kwargs: Any) -> None:
        if debug:
            logging.getLogger("nucseg").setLevel(logging.DEBUG)
        try:
            if "cluster" in kwargs:
                from nucseg.blockwise.launchers import parse_launcher

                launcher = parse_launcher(kwargs["launcher"], kwargs.pop("cluster"))
                if kwargs.pop("no_preflight", False):
                    launcher = launcher.model_copy(update={"preflight": False})
                kwargs["launcher"] = launcher
            result = function(*args, **kwargs)
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise
        except Failed as failure:
            _show(failure.result, as_json)
            click.echo(f"nucseg: {' '.join(str(failure).split())}", err=True)
            sys.exit(1)
        except KeyboardInterrupt:
            click.echo("nucseg: interrupted; run the same command again to go on from here", err=True)
            sys.exit(1)
        except Exception as error:
            if isinstance(error, BlocksFailed) and as_json:
                _show(error.to_json(), as_json)
            if debug:
                raise
            click.echo(f"nucseg: {one_line(error)}", err=True)
            sys.exit(1)
        _show(result, as_json)

    return command


def _show(result: dict[str, Any], as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps({k: v for k, v in result.items() if k != "text"}, default=_plain))
    elif "text" in result:
        click.echo(result["text"])
    else:
        for key, value in result.items():
            click.echo(
                f"{key}: {json.dumps(value, default=_plain) if isinstance(value, dict | list) else value}"
            )


def _plain(value: Any) -> Any:
    """Numpy scalars, tuples and paths as JSON knows them."""
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "tolist"):
        return value.tolist()
    return str(value)


def zyx(name: str, kind: type, help_text: str, required: bool = False) -> Callable:
    """An option that takes three values in the order z y x.

    Args:
        name: The flag, such as `--block`.
        kind: `int` for voxels, `float` for micrometres.
        help_text: What `--help` says.
        required: Whether it must be given.
    """
    return click.option(
        name, nargs=3, type=kind, metavar="Z Y X", default=None, required=required, help=help_text
    )


def launcher_options(default: str) -> Callable[[Callable], Callable]:
    """`--launcher` and `--cluster`, the same for every blockwise verb; the verb gets one `launcher`, a `Launcher`.

    Args:
        default: The launcher where none is named.
    """

    def options(function: Callable) -> Callable:
        function = click.option(
            "--cluster",
            type=click.Path(dir_okay=False),
            metavar="FILE.toml",
            help="Of slurm or lsf: partition, time, memory, GPUs, modules, container; pipelines/cluster.toml.",
        )(function)
        return click.option(
            "--launcher",
            default=default,
            show_default=True,
            help="Where N workers run: local:N (0: in this process), slurm:N, lsf:N, or your own module:function:N.",
        )(function)

    return options


ignore_label_option = click.option(
    "--ignore-label", type=int, metavar="N", help='A label that means "not annotated here", such as 65535.'
)
"""The option of verbs that score volumes annotated in part."""


def mirrors_option(default: str | None) -> Callable:
    """`--mirrors`, the same for all verbs that predict.

    Args:
        default: Where it is not given; None: as the run's selection says, else none.
    """

    def checked(context: click.Context, parameter: click.Parameter, value: str | None) -> str | None:
        from nucseg.network.mirrors import mirrors_name

        try:
            return None if value is None else mirrors_name(value)
        except InputError as error:
            raise click.BadParameter(f"expected {error.expected}; received {error.received}") from None

    said = "as selected, else none" if default is None else default
    return click.option(
        "--mirrors",
        metavar="none|all|AXES",
        default=default,
        callback=checked,
        help="Average the predictions of mirrored views, along all axes or some such as yx: each axis doubles the "
        f"computation, all are 8 times as much [default: {said}].",
    )


def log(message: str) -> None:
    """A line for the user while the work goes on, on stderr."""
    click.echo(message, err=True)


def progress_bar(description: str, unit: str) -> Callable[[int, int], None]:
    """A callback `(done, total)` behind a progress bar with rate and time left; silent unless stderr is a terminal."""
    from tqdm import tqdm

    terminal = sys.stderr.isatty()
    bar = tqdm(total=0, desc=description, unit=unit, unit_scale=True, disable=not terminal, file=sys.stderr)

    def update(done: int, total: int) -> None:
        bar.total = total
        bar.update(done - bar.n)
        if done >= total:
            bar.close()

    return update
