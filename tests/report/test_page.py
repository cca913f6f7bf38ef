"""The page: complete, self-contained, safe with any text, written in one step."""

import re
from html.parser import HTMLParser

import numpy as np
import pytest

from nucseg.errors import InputError
from nucseg.evaluate.matching import detection, match
from nucseg.evaluate.scores import Scores
from nucseg.report.html import score_section, write_report, written
from nucseg.report.image import ReportImage


class Page(HTMLParser):
    """Collects addresses, text and open elements."""

    def __init__(self, text):
        super().__init__()
        self.addresses, self.words, self.open, self.tags = [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.addresses += [
            value for name, value in attrs if name in ("src", "href", "xlink:href", "srcset", "action")
        ]
        if tag not in ("meta", "img", "link", "br", "input"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if self.open and self.open[-1] == tag:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data.strip())


@pytest.fixture(scope="module")
def page(image, image_without_truth, scene, tmp_path_factory):
    scores = {"ours": image.scores, "other": match(scene.truth, np.roll(scene.predicted, 2, 2))}
    path = write_report(
        tmp_path_factory.mktemp("page") / "report.html",
        title="A <test> & more",
        summary={"nuclei": 40, "AP": 0.87654, "nothing": None, "block": (64, 64, 64), "ok": True},
        losses={"loss": (np.arange(50), np.linspace(3, 1, 50))},
        scores=scores,
        images=[image, image_without_truth],
        worst=3,
    )
    return path.read_text(encoding="utf-8")


def test_nothing_comes_from_elsewhere(page):
    parsed = Page(page)
    assert parsed.open == []
    assert parsed.addresses
    assert all(a.startswith(("data:image/png;base64,", "#")) for a in parsed.addresses)
    assert not re.search(r"url\((?!['\"]?#)", page)
    assert "@import" not in page
    assert not {"script", "link", "iframe", "object"} & set(parsed.tags)
    assert "default-src 'none'" in page


def test_it_shows_what_it_was_given(page):
    words = Page(page).words
    for text in (
        "A <test> & more",
        "40",
        "0.8765",
        "–",
        "64, 64, 64",
        "yes",
        "ours",
        "other",
        "detection AP",
    ):
        assert text in words, text
    for heading in (
        "Scores and training",
        "Crowd",
        "New volume",
        "Worst met nuclei",
        "Largest false positives",
    ):
        assert heading in words, heading
    assert (
        page.count('<img src="data:') == 4 + 3 + 3 + 3
    )  # panels, missed, false positives, panels without truth
    assert page.count('class="bar"') == page.count("<img ")


def test_text_cannot_break_the_page(scene, tmp_path):
    evil = '"><script>alert(1)</script>'
    path = write_report(
        tmp_path / "r.html",
        title=evil,
        summary={evil: evil},
        scores={evil: match(scene.truth, scene.truth)},
        losses={"<b>": (np.arange(3), np.ones(3))},
        images=[ReportImage(evil, scene.raw, None, scene.predicted)],
    )
    parsed = Page(path.read_text(encoding="utf-8"))
    assert "script" not in parsed.tags
    assert "b" not in parsed.tags


def test_the_best_of_each_column_is_pointed_out(scene):
    good, poor = match(scene.truth, scene.truth), match(scene.truth, np.roll(scene.truth, 2, 1))
    table = score_section({"poor": poor, "good": good}).parts[1]
    assert {row for row, _ in table.best} == {1}
    assert len(table.best) == 11
    assert not score_section({"one": good}).parts[1].best
    points = np.argwhere(scene.truth == 7)[:1]
    found = detection(points, scene.truth)
    only_points = Scores(ap={}, tp={}, fp={}, fn={}, n_true=40, n_predicted=1, detection=found)
    table = score_section({"points": only_points}).parts[0]
    assert table.rows[0][1] == "–"
    assert len(table.head) == len(table.rows[0])


def test_empty_prediction_and_empty_truth(scene, tmp_path):
    nothing = np.zeros_like(scene.truth)
    images = [
        ReportImage("blind", scene.raw, scene.truth, nothing),
        ReportImage("empty", scene.raw, nothing, scene.predicted),
        ReportImage("void", np.zeros_like(scene.raw), None, nothing),
    ]
    text = write_report(tmp_path / "r.html", title="t", summary={}, images=images).read_text(encoding="utf-8")
    assert "not met" in text
    assert "0 instances predicted" in text


def test_it_replaces_an_older_page_and_says_where_it_cannot(tmp_path):
    path = tmp_path / "report.html"
    path.write_text("old")
    write_report(path, title="new", summary={})
    assert "new" in path.read_text(encoding="utf-8")
    assert [p.name for p in tmp_path.iterdir()] == ["report.html"]
    with pytest.raises(InputError, match="can be written"):
        write_report(tmp_path / "missing" / "report.html", title="t", summary={})


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1.23456789, "1.235"),
        (12, "12"),
        (None, "–"),
        (False, "no"),
        ({"a": 0.5, "b": [1, 2]}, "a 0.5, b 1, 2"),
    ],
)
def test_written(value, text):
    assert written(value) == text
