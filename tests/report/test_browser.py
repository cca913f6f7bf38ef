"""The page in a real headless browser: pictures decode, nothing is loaded, it fits a phone."""

import html
import json
import re
import shutil
import subprocess

import numpy as np
import pytest

from nucseg.report.html import write_report

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
BROWSER = next((path for name in NAMES if (path := shutil.which(name))), None)
pytestmark = pytest.mark.skipif(
    BROWSER is None, reason=f"no browser: none of {', '.join(NAMES)} is on the PATH"
)

# The page carries no script of its own and forbids any; a page around it looks into it from outside.
PROBE = """<!doctype html><meta charset="utf-8"><body style="margin:0">
<iframe style="border:0;width:{width}px;height:900px" srcdoc="{page}"></iframe>
<script>
addEventListener("load", () => {{
  const inner = document.querySelector("iframe").contentDocument, root = inner.documentElement;
  const images = [...inner.images];
  const canvas = document.createElement("canvas"), pen = canvas.getContext("2d");
  const decodes = image => {{
    pen.clearRect(0, 0, 9, 9);
    pen.drawImage(image, 0, 0, 9, 9);
    return pen.getImageData(4, 4, 1, 1).data[3] == 255;
  }};
  const wide = [...inner.querySelectorAll("body *")].filter(e => {{
    const scrolls = e.closest(".table") && !e.matches(".table");
    return !scrolls && !e.closest("svg") && e.getBoundingClientRect().right > root.clientWidth + 1;
  }});
  const resources = document.querySelector("iframe").contentWindow.performance.getEntriesByType("resource");
  const result = {{
    client: root.clientWidth,
    scroll: root.scrollWidth,
    images: images.length,
    broken: images.filter(i => !decodes(i) || i.naturalWidth != i.getAttribute("width")).length,
    shown: images.filter(i => i.getBoundingClientRect().width > 150).length,
    wide: wide.map(e => e.tagName + "." + e.className),
    loaded: resources.map(r => r.name).filter(name => !name.startsWith("data:")),
    charts: [...inner.querySelectorAll("svg")].map(s => s.getBoundingClientRect().height),
    bars: [...inner.querySelectorAll(".bar")].map(b => b.getBoundingClientRect().width / b.parentNode.offsetWidth),
    text: getComputedStyle(inner.body).color,
    paper: getComputedStyle(inner.body).backgroundColor,
  }};
  document.body.innerHTML = "<pre id=result></pre>";
  document.querySelector("#result").textContent = JSON.stringify(result);
}});
</script>"""


def browse(folder, *arguments):
    """Run the browser without network traffic of its own."""
    command = [
        BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
        "--disable-background-networking", "--disable-component-update", "--disable-sync", "--hide-scrollbars",
        f"--user-data-dir={folder / 'profile'}", *arguments,
    ]  # fmt: skip
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)


@pytest.fixture(scope="module")
def report(image, image_without_truth, tmp_path_factory):
    return write_report(
        tmp_path_factory.mktemp("browser") / "report.html",
        title="A report with_a_very_long_name_that_does_not_break_anywhere_by_itself.zarr",
        summary={"nuclei": 40, "digest": "0123456789abcdef" * 4, "model": "/data/" + "deep/" * 20},
        losses={"loss": (np.arange(1, 200), 3 / np.arange(1, 200))},
        scores={"a method with a long name": image.scores, "b": image.scores},
        images=[image, image_without_truth],
    )


@pytest.mark.parametrize("width", [400, 820, 1280])
def test_in_a_browser(report, width, tmp_path):
    probe = tmp_path / "probe.html"
    page = report.read_text(encoding="utf-8")
    probe.write_text(PROBE.format(width=width, page=html.escape(page)), encoding="utf-8")
    dom = browse(
        tmp_path,
        f"--window-size={width + 100},1000",
        "--virtual-time-budget=20000",
        "--dump-dom",
        probe.as_uri(),
    ).stdout
    found = re.search(r'<pre id="result">(.*?)</pre>', dom, re.DOTALL)
    assert found, dom[-2000:]
    result = json.loads(html.unescape(found.group(1)))
    assert result["client"] == width
    assert result["scroll"] <= width, result["wide"]
    assert result["wide"] == []
    assert result["images"] == page.count("<img ") > 8
    assert result["broken"] == 0
    assert result["shown"] == result["images"]
    assert result["loaded"] == []
    assert len(result["charts"]) == 3
    assert min(result["charts"]) > 150
    assert all(0.02 < bar < 0.5 for bar in result["bars"])
    assert (result["text"], result["paper"]) == ("rgb(28, 36, 48)", "rgb(255, 255, 255)")


def test_it_prints(report, tmp_path):
    pdf = tmp_path / "report.pdf"
    browse(tmp_path, "--no-pdf-header-footer", f"--print-to-pdf={pdf}", report.as_uri())
    content = pdf.read_bytes()
    assert content.startswith(b"%PDF")
    assert content.count(b"/Subtype /Image") >= 8
