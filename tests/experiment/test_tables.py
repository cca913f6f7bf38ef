"""Tables and tests against plain arithmetic over the cells' files, and against scipy."""

import csv
import itertools
import json
import statistics

import numpy as np
import pytest
from experiment.experiment_cases import THRESHOLDS, fake_config, fake_experiment
from scipy.stats import permutation_test, wilcoxon

from nucseg.errors import InputError
from nucseg.experiment import collect
from nucseg.experiment.dataset import image_names
from nucseg.experiment.paired import paired_test
from nucseg.experiment.tables import differences
from nucseg.report import report_folder
from nucseg.training.config import LabelledVolume

# --- the paired tests ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [2, 5, 9])
def test_the_paired_test_counts_all_patterns_of_signs(n):
    values = np.random.default_rng(n).normal(0.4, 1, n)
    found = paired_test(values)
    as_extreme = [
        abs(sum(s * v for s, v in zip(signs, values, strict=True))) >= abs(values.sum()) - 1e-9
        for signs in itertools.product((1, -1), repeat=n)
    ]
    assert found["p"] == pytest.approx(np.mean(as_extreme))
    scipys = permutation_test(
        (values,), np.mean, permutation_type="samples", n_resamples=np.inf, vectorized=False
    )
    assert found["p"] == pytest.approx(scipys.pvalue)
    assert found["p_wilcoxon"] == pytest.approx(wilcoxon(values, method="exact").pvalue)
    assert (found["n"], found["exact"]) == (n, True)
    assert found["mean"] == pytest.approx(statistics.fmean(values))


def test_many_pairs_are_drawn_and_agree_with_scipy():
    values = np.random.default_rng(1).normal(0.25, 1, 60)
    found = paired_test(values)
    scipys = permutation_test(
        (values,), np.mean, permutation_type="samples", n_resamples=20_000, rng=3, vectorized=False
    )
    assert not found["exact"]
    assert found["p"] == pytest.approx(scipys.pvalue, abs=0.01)
    assert found == paired_test(values)


def test_no_difference_is_no_evidence():
    assert paired_test([0.0, 0.0, 0.0]) == {"n": 3, "mean": 0.0, "p": 1.0, "exact": True, "p_wilcoxon": None}
    assert paired_test([]) == {"n": 0, "mean": None, "p": None, "exact": True, "p_wilcoxon": None}
    assert paired_test([0.3, 0.3, -0.3, 0.0])["p_wilcoxon"] == pytest.approx(
        wilcoxon([0.3, 0.3, -0.3], method="approx").pvalue
    )


# --- the tables ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def experiment(tmp_path_factory):
    folder = tmp_path_factory.mktemp("experiment") / "out"
    config = fake_config()
    left_out = {("two", "three_label_cpv", 3)}
    results = fake_experiment(config, folder, np.random.default_rng(5), left_out)
    return config, folder, results, collect(config, folder)


def value(results, dataset, scenario, seed, goal, seeds, get):
    (one,) = (
        r for r in results[dataset, scenario, seed]["results"] if (r["for"], r["seeds"]) == (goal, seeds)
    )
    return get(one)


def seeds_of(results, dataset, scenario):
    return sorted(seed for d, s, seed in results if (d, s) == (dataset, scenario))


def is_spread(found, values):
    assert found["mean"] == pytest.approx(statistics.fmean(values))
    assert (found["min"], found["max"], found["runs"]) == (min(values), max(values), len(values))


def test_table_1_is_the_mean_over_the_seeds(experiment):
    _, _, results, found = experiment
    rows = found["tables"]["segmentation"]
    assert len(rows) == 2 * (1 + 4)  # three_label: main; three_label_cpv: main, votes, vectors, selected
    for row in rows:
        if row["seeds"] == "selected":
            continue
        key = (row["dataset"], row["scenario"])
        every = [
            value(results, *key, s, "segmentation", row["seeds"], lambda one: one)
            for s in seeds_of(results, *key)
        ]
        is_spread(row["av_ap"], [one["av_ap"] for one in every])
        for t in THRESHOLDS:
            is_spread(row["ap"][t], [one["ap"][t] for one in every])
    assert {row["av_ap"]["runs"] for row in rows if row["dataset"] == "two" and "cpv" in row["scenario"]} == {
        2
    }


def test_selected_seeds_are_those_better_on_validation(experiment):
    _, _, results, found = experiment
    for row in found["tables"]["segmentation"]:
        if row["seeds"] != "selected":
            continue
        chosen = []
        for seed in seeds_of(results, row["dataset"], row["scenario"]):
            kinds = [
                value(results, row["dataset"], row["scenario"], seed, "segmentation", kind, lambda one: one)
                for kind in ("main", "votes", "vectors")
            ]
            chosen.append(max(kinds, key=lambda one: one["validation"]["av_ap"])["av_ap"])
        is_spread(row["av_ap"], chosen)


def test_table_2_takes_what_was_selected_for_detection(experiment):
    _, _, results, found = experiment
    for row in found["tables"]["detection"]:
        if row["seeds"] == "selected":
            continue
        key, seeds = (row["dataset"], row["scenario"]), row["seeds"]
        runs = seeds_of(results, *key)
        is_spread(
            row["detection_ap"],
            [value(results, *key, s, "detection", seeds, lambda one: one["detection_ap"]) for s in runs],
        )
        is_spread(
            row["ap_0.3"],
            [value(results, *key, s, "segmentation", seeds, lambda one: one["ap"]["0.3"]) for s in runs],
        )


def test_table_3_crosses_goal_and_seeds(experiment):
    _, _, results, found = experiment
    rows = [row for row in found["tables"]["selection"] if row["dataset"] == "one"]
    assert [(row["metric"], row["selected_for"], row["seeds"]) for row in rows] == [
        ("AP.5", "segmentation", "main"),
        ("AP.5", "segmentation", "votes"),
        ("AP.5", "segmentation", "vectors"),
        ("detection AP", "detection", "main"),
        ("detection AP", "segmentation", "main"),
        ("detection AP", "detection", "votes"),
        ("detection AP", "segmentation", "votes"),
        ("detection AP", "detection", "vectors"),
        ("detection AP", "segmentation", "vectors"),
    ]
    wanted = [
        value(results, "one", "three_label_cpv", s, "segmentation", "votes", lambda one: one["detection_ap"])
        for s in (1, 2, 3)
    ]
    is_spread(rows[6]["values"]["three_label_cpv"], wanted)
    assert rows[6]["values"]["three_label"] == {"mean": None, "min": None, "max": None, "runs": 0}


def test_differences_are_paired_by_seed_and_image(experiment):
    _, _, results, found = experiment
    rows = found["tables"]["differences"]
    assert len(rows) == 2 * 4 * 3
    for row in rows:
        if row["seeds"] == "selected":
            continue
        goal = "detection" if row["metric"] == "detection AP" else "segmentation"

        def get(one, metric=row["metric"]):
            return {"AP.5": one["ap"]["0.5"], "avAP": one["av_ap"], "detection AP": one["detection_ap"]}[
                metric
            ]

        runs = seeds_of(results, row["dataset"], "three_label_cpv")
        pairs, means = {}, []
        for seed in runs:
            plain = value(results, row["dataset"], "three_label", seed, goal, "main", lambda one: one)
            other = value(
                results, row["dataset"], "three_label_cpv", seed, goal, row["seeds"], lambda one: one
            )
            means.append(get(other) - get(plain))
            for a, b in zip(plain["images"], other["images"], strict=True):
                pairs[a["image"], seed] = get(b) - get(a)
        is_spread(row["difference"], means)
        assert row["sd"] == pytest.approx(statistics.stdev(means))
        assert row["better"] == sum(mean > 0 for mean in means)
        images = [statistics.fmean(pairs[image, seed] for seed in runs) for image in "pqr"]
        assert row["images"]["n"] == 3
        assert row["images"]["p"] == pytest.approx(paired_test(images)["p"])
        assert row["images"]["mean"] == pytest.approx(statistics.fmean(means))
        assert row["pairs"]["n"] == 3 * len(runs)
        assert row["pairs"]["p"] == pytest.approx(paired_test(list(pairs.values()))["p"])


def test_rows_keep_what_scripts_read(experiment):
    config, folder, results, found = experiment
    assert len(found["rows"]) == sum(len(result["results"]) for result in results.values())
    keys = {
        "scenario",
        "seed",
        "dataset",
        "network",
        "seeds",
        "trained_s",
        "av_ap",
        "ap",
        "detection_ap",
        "images",
    }
    assert all(keys <= set(row) for row in found["rows"])
    stored = json.loads((folder / "experiment.json").read_text())
    assert stored["rows"] == found["rows"]
    assert stored["missing"] == ["two/three_label_cpv/3"]
    assert stored["failed"] == []
    assert len(stored["rows"][0]["images"]) == 3
    assert stored["config"]["seeds"] == list(config.seeds)


def test_csv_and_markdown_say_the_same(experiment):
    _, folder, _, found = experiment
    with (folder / "tables" / "table1_segmentation.csv").open() as file:
        lines = list(csv.DictReader(file))
    for line, row in zip(lines, found["tables"]["segmentation"], strict=True):
        assert (line["dataset"], line["scenario"], line["seeds"]) == (
            row["dataset"],
            row["scenario"],
            row["seeds"],
        )
        assert float(line["av_ap_mean"]) == row["av_ap"]["mean"]
        assert float(line["ap_0.7_max"]) == row["ap"]["0.7"]["max"]
    text = (folder / "tables" / "table1_segmentation.md").read_text()
    first = found["tables"]["segmentation"][0]["av_ap"]
    assert f"| three_label | main | {first['mean']:.3f} ({first['min']:.3f} to {first['max']:.3f}) |" in text
    with (folder / "tables" / "images.csv").open() as file:
        images = list(csv.DictReader(file))
    assert len(images) == 3 * len(found["rows"])
    assert float(images[4]["ap_0.3"]) == found["rows"][1]["images"][1]["ap"]["0.3"]
    for name in ("table2_detection", "table3_selection", "differences"):
        assert (folder / "tables" / f"{name}.csv").stat().st_size > 200
        assert "three_label_cpv" in (folder / "tables" / f"{name}.md").read_text()


def test_the_table_of_differences_says_that_pairs_are_not_independent(experiment):
    text = (experiment[1] / "tables" / "differences.md").read_text()
    assert "Pairs are not independent" in text
    assert "2 / 2**n" in text


def test_the_page_holds_tables_and_figures_and_is_made_again_by_report(experiment):
    _, folder, _, found = experiment
    page = folder / "report.html"
    assert found["report"] == str(page.resolve())
    for text in (page.read_text(), report_folder(folder).read_text()):
        assert "Data set two" in text
        assert "Pairs are not independent" in text
        assert text.count("<svg") == 4  # Figures 3 and 4 of two data sets
        assert "cannot be drawn" in text  # the volumes are not there
    for name in ("figure3_one_three_label", "figure3_two_three_label", "figure4_one", "figure4_two"):
        assert (folder / "figures" / f"{name}.png").read_bytes().startswith(b"\x89PNG")


def test_an_experiment_that_has_not_begun_has_no_rows(tmp_path):
    config = fake_config()
    with pytest.raises(InputError, match="no such folder"):
        collect(config, tmp_path / "no")
    every = set(itertools.product(("one", "two"), ("three_label", "three_label_cpv"), (1, 2, 3)))
    fake_experiment(config, tmp_path / "out", None, leave_out=every)
    found = collect(config, tmp_path / "out")
    assert found["rows"] == []
    assert len(found["missing"]) == 12


def test_images_of_one_file_name_are_images_of_their_own():
    def row(values):
        images = [{"image": "x", "ap": {}, "av_ap": None, "detection_ap": v} for v in values]
        mean = statistics.fmean(values)
        return {"images": images, "detection_ap": mean, "for": "detection", "seeds": "main", "ap": {}}

    config = fake_config()
    rows = [row([0.1, 0.2, 0.3]) | {"scenario": "three_label", "seed": 1}]
    rows += [row([0.3, 0.3, 0.9]) | {"scenario": "three_label_cpv", "seed": 1}]
    (found,) = differences(rows, "one", config)
    assert found["images"] == paired_test([0.2, 0.1, 0.6])
    assert found["images"]["n"] == 3


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (["a/x.ome.zarr", "a/y.zarr"], ["x", "y"]),
        (["d/1/raw.zarr", "d/2/raw.zarr", "d/z.tif"], ["1/raw.zarr", "2/raw.zarr", "z"]),
        (["x.h5:a", "x.h5:b"], ["x.h5:a", "x.h5:b"]),
        (["worm.1.tif", "worm.2.tif"], ["worm.1.tif", "worm.2.tif"]),
        (["p/1/x.zarr", "q/1/x.zarr", "q/2/x.zarr"], ["p/1/x.zarr", "q/1/x.zarr", "2/x.zarr"]),
        (["/x.zarr", "/a/x.zarr", "x.tif"], ["//x.zarr", "a/x.zarr", "x.tif"]),
    ],
)
def test_names_of_images_tell_them_apart(paths, names):
    volumes = [LabelledVolume(raw=path) for path in paths]
    assert image_names(volumes) == names
    assert image_names(volumes[::-1]) == names[::-1]
