"""A task that notes on which addresses its scheduler listens; workers import it."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from blockwise_cases import Doubled

from nucseg.blockwise.grid import Block


class Listening(Doubled):
    """Returns the addresses, in the kernel's hexadecimal, on which the scheduler's port is open."""

    name: ClassVar[str] = "listening"

    def process(self, block: Block) -> dict[str, Any]:
        context = dict(item.split("=", 1) for item in os.environ["DAISY_CONTEXT"].split(":"))
        port = f"{int(context['port']):04X}"
        rows = [row.split() for row in Path("/proc/net/tcp").read_text().splitlines()[1:]]
        found = {row[1].split(":")[0] for row in rows if row[3] == "0A" and row[1].endswith(f":{port}")}
        return {**super().process(block), "addresses": sorted(found)}

    def finish(self, blocks: Sequence[dict[str, Any]]) -> dict[str, Any]:
        return {"addresses": blocks[0]["addresses"]}
