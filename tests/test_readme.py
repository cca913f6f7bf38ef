"""Every block of the README runs, in order, in one folder, as a reader would paste it."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks() -> list[tuple[str, str]]:
    """Language and text of the README's fenced blocks, the two make commands apart."""
    found = FENCE.findall((ROOT / "README.md").read_text(encoding="utf-8"))
    return [
        (language, text)
        for language, text in found
        if not re.search(r"^make (demo|test)", text, re.MULTILINE)
    ]


def test_every_fence_has_a_language_that_is_run() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert text.count("```") == 2 * len(FENCE.findall(text)), "a fence without a language would not be run"
    assert {language for language, _ in blocks()} <= {"sh", "python", "toml", "text"}


@pytest.mark.xdist_group("tensorflow")
def test_readme_runs(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "pipelines", tmp_path / "pipelines")
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    ran = 0
    for language, text in blocks():
        if language == "toml":
            name = re.match(r"# (\S+\.toml)", text)
            assert name, "a TOML block's first line names its file"
            (tmp_path / name[1]).write_text(text, encoding="utf-8")
            continue
        if language == "text":
            continue
        command = (
            ["bash", "-euo", "pipefail", "-c", text] if language == "sh" else [sys.executable, "-c", text]
        )
        result = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        assert result.returncode == 0, f"{text}\n{result.stdout[-2000:]}\n{result.stderr[-3000:]}"
        ran += 1
    assert ran >= 3
