"""What an experiment's TOML may say, and what is refused in plain words."""

import json
import re
import tomllib
from pathlib import Path

import numpy as np
import pytest
from experiment.experiment_cases import TINY

from nucseg.errors import InputError
from nucseg.experiment import ExperimentConfig
from nucseg.experiment.cells import cells_of, claim, write_json
from nucseg.experiment.config import merged
from nucseg.experiment.dataset import volumes_of
from nucseg.experiment.paired import paired_test
from nucseg.experiment.run import run_experiment
from nucseg.heads.scenario import Scenario, scenario_names
from nucseg.network.unet import unet
from nucseg.synthetic.plan import DEFAULT_SCALE_UM, plan_worm

ROOT = Path(__file__).resolve().parents[2]


def read(tmp_path, text):
    (tmp_path / "experiment.toml").write_text(text)
    return ExperimentConfig.from_toml(tmp_path / "experiment.toml")


def test_cells_are_ordered_by_seed_so_that_an_interrupted_matrix_is_balanced(tmp_path):
    cells = cells_of(read(tmp_path, TINY), tmp_path)
    assert [cell.title for cell in cells] == [
        "worm/three_label/1",
        "worm/three_label_cpv/1",
        "worm/three_label/2",
        "worm/three_label_cpv/2",
    ]


def test_settings_go_from_the_experiment_to_the_data_set_to_the_scenario(tmp_path):
    text = TINY.replace('"three_label_cpv"]', '{name = "three_label_cpv", training = {patch = {batch = 2}}}]')
    config = read(tmp_path, text + "training = {iterations = 9, patch = {min_foreground = 0.1}}\n")
    dataset, (plain, cpv) = config.datasets[0], config.scenarios
    data = volumes_of(dataset, tmp_path).data
    one, two = (config.training_of(dataset, entry, 7, data) for entry in (plain, cpv))
    assert (one.iterations, one.seed, one.threads, one.network) == (9, 7, 1, unet("tiny"))
    assert (one.patch.output, one.patch.min_foreground, one.patch.batch) == ((12, 12, 12), 0.1, 1)
    assert (two.patch.output, two.patch.min_foreground, two.patch.batch) == ((12, 12, 12), 0.1, 2)
    assert two.scenario == Scenario.named("three_label_cpv")
    assert two.data.train[0].raw == str(tmp_path / "volumes" / "easy_32x48x64_25nuclei_seed1.zarr")


def test_seconds_and_iterations_replace_each_other():
    assert merged({"iterations": 5}, {"seconds": 3.0}) == {"seconds": 3.0}
    assert merged({"seconds": 3.0}, {"iterations": 5}) == {"iterations": 5}


def test_own_heads_and_baselines(tmp_path):
    heads = '{name = "mine", baseline = "three_label", heads = ["three_label", {kind = "center_vectors", scale = 4.0}]}'
    config = read(tmp_path, TINY.replace('"three_label_cpv"', f'"three_label_cpv", {heads}'))
    assert config.scenarios[2].scenario.auxiliary.scale == 4.0
    assert [config.baseline_of(name) for name in config.names] == [None, "three_label", "three_label"]


def test_volumes_by_path_are_relative_to_the_toml(tmp_path):
    text = TINY.split("[[datasets]]")[0] + (
        '[[datasets]]\nname = "a"\ntrain = ["t.zarr"]\nvalidation = "v.zarr"\n'
        'test = [{raw = "x.tif", labels = "y.tif"}]\n'
    )
    dataset = read(tmp_path, text).datasets[0]
    assert [v.raw for v in (*dataset.train, *dataset.validation)] == [
        str(tmp_path / n) for n in ("t.zarr", "v.zarr")
    ]
    assert dataset.test[0].labels == str(tmp_path / "y.tif")


def test_names_of_masks_and_points_inside_a_volume_stay_names(tmp_path):
    text = TINY.split("[[datasets]]")[0] + (
        '[[datasets]]\nname = "a"\ntrain = [{raw = "t.zarr", mask = "annotated"}, {raw = "s.zarr", points = "centers"},'
        ' {raw = "r.zarr", mask = "./annotated", labels = "nuclei"}]\nvalidation = "v.zarr"\ntest = ["w.zarr"]\n'
    )
    one, two, three = read(tmp_path, text).datasets[0].train
    assert (one.mask, two.points) == ("annotated", "centers")
    assert (one.raw, three.labels) == (str(tmp_path / "t.zarr"), str(tmp_path / "nuclei"))
    assert Path(three.mask) == tmp_path / "annotated"


def test_one_volume_under_two_names_serves_twice(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "x.h5").touch()
    (tmp_path / "link").symlink_to("real")
    (tmp_path / "y.h5").symlink_to("real/x.h5")

    def dataset(train, validation, test):
        text = f'[[datasets]]\nname = "a"\ntrain = {train}\nvalidation = {validation}\ntest = {test}\n'
        return read(tmp_path, TINY.split("[[datasets]]")[0] + text)

    for train, validation, test in (
        (["real/t.zarr"], ["v.zarr"], ["link/t.zarr"]),
        (["t.zarr"], ["v.zarr"], ["./real/../t.zarr/"]),
        (["t.zarr", "t.zarr"], ["v.zarr"], ["w.zarr"]),
        (["t.zarr"], ["v.zarr"], ["w.zarr", "link/../w.zarr"]),
        (["real/x.h5:a"], ["v.zarr"], ["y.h5:/a"]),
    ):
        with pytest.raises(InputError, match="serves twice"):
            dataset(train, validation, test)
    assert len(dataset(["real/x.h5:a"], ["y.h5:b"], ["link/x.h5:c"]).datasets) == 1


@pytest.mark.parametrize("name", [".", "..", "volumes", "tables", "figures"])
def test_a_data_set_is_not_called_as_another_folder(tmp_path, name):
    with pytest.raises(InputError, match="expected another name of a data set than"):
        read(tmp_path, TINY.replace('name = "worm"', f'name = "{name}"'))


@pytest.mark.parametrize("name", [".", ".."])
def test_nor_is_a_scenario(tmp_path, name):
    with pytest.raises(InputError, match="name"):
        read(
            tmp_path, TINY.replace('"three_label_cpv"', f'{{name = "{name}", scenario = "three_label_cpv"}}')
        )


def test_the_configuration_that_is_left_for_the_processes_is_the_same(tmp_path):
    config = read(tmp_path, TINY + "[stardist]\nseconds = 3\n")
    claim(config, tmp_path / "out")
    found = ExperimentConfig.model_validate_json((tmp_path / "out" / "matrix.json").read_text())
    assert found == config
    left_to_training = found.scenarios[1].scenario.auxiliary.model_fields_set
    assert left_to_training == config.scenarios[1].scenario.auxiliary.model_fields_set == set()
    assert [c.settings() for c in cells_of(found, tmp_path)] == [
        c.settings() for c in cells_of(config, tmp_path)
    ]
    assert found.names == ["three_label", "three_label_cpv", "stardist"]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("seeds = [1, 2]", "seds = [1, 2]", "did you mean 'seeds'"),
        ('"three_label", ', '"thre_label", ', "thre_label"),
        ("iterations = 60", "iteratons = 60", "did you mean 'iterations'"),
        ("iterations = 60", "seed = 3", "seeds"),
        ('difficulty = "easy"', 'dificulty = "easy"', "did you mean 'difficulty'"),
        ("test = [3]", "test = [2]", "serves twice"),
        ("seeds = [1, 2]", "seeds = [1, 1]", "different numbers"),
        ("threads = 1", "threads = 1\nstardist = {}", "stardist.seconds or training.seconds"),
        ("threads = 1", 'threads = 1\noverlay = "sdt"', "as the overlay, not 'sdt'"),
    ],
)
def test_mistakes_are_named(tmp_path, old, new, message):
    assert old in TINY
    with pytest.raises(InputError, match=message):
        read(tmp_path, TINY.replace(old, new))


def test_a_cell_of_other_settings_is_refused_and_the_setting_named(tmp_path):
    config = read(tmp_path, TINY)
    cell = cells_of(config, tmp_path / "out")[1]
    cell.folder.mkdir(parents=True)
    write_json(cell.folder / "settings.json", cell.settings())
    cells_of(config.model_copy(update={"threads": 7, "parallel": 3}), tmp_path / "out")[1].check()
    longer = config.model_copy(update={"training": {**config.training, "iterations": 61}})
    with pytest.raises(InputError, match=r"training.iterations = 61.*begun with 60"):
        cells_of(longer, tmp_path / "out")[1].check()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("nuclei = 900", "nuclei: expected at most about"),
        ("shape = [32, 12, 64]", "shape: expected a cross-section"),
    ],
)
def test_impossible_worms_are_refused_before_any_is_made(tmp_path, change, message):
    first = TINY[TINY.index("[[datasets]]") :]
    name = change.split(" = ")[0]
    second = re.sub(rf"{name} = (\[[^]]*\]|\d+)", change, first.replace('"worm"', '"packed"'))
    config, said = read(tmp_path, TINY + second), []
    with pytest.raises(InputError, match=f"synthetic volumes of packed: {message}"):
        run_experiment(config, tmp_path / "out", log=said.append)
    assert not said
    assert not (tmp_path / "out").exists()


def test_a_foreign_folder_is_left_alone(tmp_path):
    config = read(tmp_path, TINY)
    with pytest.raises(InputError, match="other things in it"):
        claim(config, tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["experiment.toml"]
    assert json.dumps(config.model_dump(mode="json"))


def test_the_synthetic_experiment_has_images_enough_for_a_small_p():
    text = (ROOT / "pipelines" / "experiment_synthetic.toml").read_text(encoding="utf-8")
    for dataset in tomllib.loads(text)["datasets"]:
        gains = np.linspace(0.01, 0.02, len(dataset["synthetic"]["test"]))
        assert paired_test(gains)["exact"]
        assert paired_test(gains)["p"] < 0.01


@pytest.mark.parametrize("name", ["experiment_synthetic", "experiment_quick"])
def test_the_configurations_in_pipelines(name):
    text = (ROOT / "pipelines" / f"{name}.toml").read_text(encoding="utf-8")
    values = tomllib.loads(text)
    values["scenarios"] = [n for n in values["scenarios"] if n in scenario_names()]
    config = ExperimentConfig.model_validate(values)
    config.check()
    assert len(config.names) >= 2
    for dataset in config.datasets:
        plan = dataset.synthetic
        plan_worm(plan.shape, plan.nuclei, plan.train[0], DEFAULT_SCALE_UM, plan.difficulty)
