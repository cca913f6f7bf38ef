"""Verbs about the OUT of a run: verify, status."""

from typing import Any

import click

from nucseg.cli.verb import Failed, log, verb


@click.command()
@click.argument("out")
@click.option("--repair", is_flag=True, help="Make damaged blocks again, and only these.")
@click.option(
    "--launcher",
    default="local:1",
    show_default=True,
    help="Where workers run that read and repair: local:N (N workers here).",
)
@verb
def verify(out: str, repair: bool, launcher: str) -> dict[str, Any]:
    """Read all that a run wrote into OUT back and compare it with the digests in its records.

    Names each block that is lost (its file is missing), cannot be read (truncated, flipped bits) or holds other
    values, and each table that changed. Blocks that are not done yet are counted apart and are no damage. Without
    --repair nothing in OUT is changed. With it damaged blocks are made again from the same input with the same
    settings, so that they come out as they were and the steps after them stand; a block that does not, because its
    input is gone or changed, remains damaged. Status 1 if damage remains.
    """
    from nucseg.blockwise.launch import parse_launcher
    from nucseg.blockwise.verify import verify as verify_run

    found = verify_run(out, repair=repair, launcher=parse_launcher(launcher), log=log)
    lines = [f"{found.checked} blocks and tables checked, {len(found.damaged)} damaged"]
    if repair:
        lines[0] += f", {found.repaired} repaired"
    if found.missing:
        lines.append(f"{found.missing} blocks are not done yet; run the same command again to go on")
    lines += [f"{path} was deleted after use, which is no damage" for path in found.deleted]
    lines += [str(damage) for damage in found.remaining]
    result = {**found.to_json(), "text": "\n".join(lines)}
    if found.remaining:
        first = found.remaining[0]
        remedy = "" if repair else "; `nucseg verify OUT --repair` makes damaged blocks again"
        raise Failed(result, f"{out}: {len(found.remaining)} damaged, the first is {first}{remedy}")
    return result
