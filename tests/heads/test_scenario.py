"""Scenario: names, JSON, packing, losses, decoding, and a lab's own head beside the vectors."""

import subprocess
import sys
from itertools import product
from typing import ClassVar

import cases
import numpy as np
import pytest
from pydantic import ValidationError
from scipy import ndimage

from nucseg.errors import InputError, NucsegError
from nucseg.heads.base import Centers, Head, head_class, weighted_mean
from nucseg.heads.center_vectors import CenterVectors
from nucseg.heads.scenario import Decoding, Scenario, scenario_names
from nucseg.heads.three_label import ThreeLabel
from nucseg.instances.centroids import centroids
from nucseg.instances.seeds import label_seeds
from nucseg.instances.watershed import flood


class Foreground(Head):
    """A lab's own main head: one channel, trained on the foreground mask."""

    sharpness: float = 2.0

    @property
    def channels(self):
        return 1

    def target(self, labels, crop, scale_um, centers, mask=None):
        weight = np.ones(labels.shape, np.float32) if mask is None else mask.astype(np.float32)
        return (labels[crop] > 0)[None].astype(np.float32), weight[crop]

    def loss(self, output, target, weight):
        from keras import ops

        return weighted_mean(ops.mean(ops.square(output - ops.cast(target, output.dtype)), axis=-1), weight)

    @property
    def seed_thresholds(self):
        return (0.5, 0.7, 0.9)

    @property
    def foreground_thresholds(self):
        return (0.3, 0.5)

    @property
    def default_seed_threshold(self):
        return 0.7

    @property
    def default_foreground_threshold(self):
        return 0.5

    @property
    def default_dilate(self):
        return 1

    def surface(self, prediction):
        return -prediction[0]

    def seeds(self, prediction, threshold):
        return prediction[0] > threshold

    def foreground(self, prediction, threshold):
        return prediction[0] > threshold


class Points(Head):
    """A head that says where centres are, but decodes to no instances."""

    is_main: ClassVar[bool] = False

    @property
    def channels(self):
        return 1


def test_names():
    models = ("sdt", "three_label", "affinities")
    assert {*models, *(f"{model}_cpv" for model in models)} <= set(scenario_names())
    assert "cpv" not in scenario_names()
    for name in scenario_names():
        assert Scenario.named(name).name == name


def test_a_misspelt_name_lists_the_others():
    with pytest.raises(InputError, match=r"three_label_cvp.*three_label, three_label_cpv"):
        Scenario.named("three_label_cvp")


def test_channels_and_slices():
    scenario = Scenario([ThreeLabel(), CenterVectors()])
    assert scenario == Scenario.named("three_label_cpv")
    assert scenario.channels == 6
    assert scenario.slices() == {"three_label": slice(0, 3), "cpv": slice(3, 6)}
    assert scenario.main == ThreeLabel()
    assert scenario.auxiliary == CenterVectors()
    assert Scenario([ThreeLabel()]).auxiliary is None


def test_json_keeps_every_field_and_a_lab_s_own_class():
    scenario = Scenario(
        [Foreground(sharpness=3, loss_weight=0.5), CenterVectors(scale=6, voxel_um=(1, 0.5, 0.5))]
    )
    text = scenario.to_json()
    assert f'"kind":"{__name__}:Foreground"' in text
    again = Scenario.from_json(text)
    assert again == scenario
    assert isinstance(again.heads[0], Foreground)
    assert again.heads[0].sharpness == 3


def test_heads_by_kind_alone():
    assert Scenario(["three_label", {"kind": "center_vectors", "scale": 6}]).auxiliary.scale == 6


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ('{"heads": [{"kind": "three_lable"}]}', "three_lable"),
        ('{"heads": [{"kind": "base"}]}', "base"),
        ('{"heads": [{"kind": "no_such_package.heads:Mine"}]}', "no_such_package"),
        ('{"heads": [{"kind": "nucseg.heads.three_label:Missing"}]}', "Missing"),
        ('{"heads": [{"kind": "nucseg.heads.base:Head"}]}', "Head"),
        ('{"heads": [{"kind": "three_label", "balanced": true}]}', "balanced"),
        ('{"heads": [{"balance": true}]}', "a kind for each head"),
        ('{"heads": "three_label"}', "list of heads"),
        ('{"heads": []}', "heads"),
        (
            '{"heads": [{"kind": "three_label"}, {"kind": "three_label"}]}',
            "expected heads of different names, not ",
        ),
        ('{"heads": [{"kind": "three_label"}], "seed": 1}', "seed"),
    ],
)
def test_bad_json_is_named_in_one_line(text, named):
    with pytest.raises(InputError, match=named) as error:
        Scenario.from_json(text)
    assert "\n" not in str(error.value)


def test_one_main_head_at_most():
    with pytest.raises(ValidationError, match="at most one main head, not "):
        Scenario([ThreeLabel(), Foreground()])


def test_a_scenario_without_a_main_head_does_not_decode():
    scenario = Scenario([Points()])
    with pytest.raises(InputError, match="decodes to instances"):
        _ = scenario.main
    with pytest.raises(InputError, match="decodes to instances"):
        Points().surface(np.zeros((1, 2, 2, 2), np.float32))


def test_a_main_head_that_forgot_its_decoding_says_so():
    class Forgetful(Head):
        pass

    with pytest.raises(NucsegError, match="Forgetful"):
        _ = Forgetful().seed_thresholds


def test_import_errors_inside_a_lab_s_module_are_not_hidden(tmp_path, monkeypatch):
    (tmp_path / "labs_heads.py").write_text("import a_package_that_is_missing\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="a_package_that_is_missing"):
        head_class("labs_heads:Mine")


def batch(scenario, size=2):
    """Targets, weights and random output of a batch of different patches."""
    rng = np.random.default_rng(0)
    targets, weights = {}, {}
    crop = (slice(4, 14), slice(5, 13), slice(6, 18))
    for head in scenario.heads:
        pairs = []
        for i in range(size):
            labels = cases.crowded(i)
            found = centroids(labels)
            pairs.append(head.target(labels, crop, None, Centers(*found[:2], np.ones(len(found.ids), bool))))
        targets[head.name] = np.stack([pair[0] for pair in pairs])
        weights[head.name] = np.stack([pair[1] for pair in pairs])
    return targets, weights, rng.normal(size=(size, 10, 8, 12, scenario.channels)).astype(np.float32)


@pytest.mark.parametrize("size", [1, 3])
def test_packed_loss_is_the_sum_over_the_heads(size):
    scenario = Scenario([ThreeLabel(loss_weight=2), CenterVectors(loss_weight=0.5, scale=4)])
    targets, weights, output = batch(scenario, size)
    packed = scenario.pack(targets, weights)
    assert packed.shape == (size, 10, 8, 12, 1 + 1 + 3 + 1)
    assert packed.dtype == np.float32
    losses = scenario.head_losses(packed, output)
    for head, part in zip(scenario.heads, (slice(0, 3), slice(3, 6)), strict=True):
        alone = head.loss(output[..., part], np.moveaxis(targets[head.name], 1, -1), weights[head.name])
        assert float(losses[head.name]) == pytest.approx(float(alone), rel=1e-6)
    total = 2 * float(losses["three_label"]) + 0.5 * float(losses["cpv"])
    assert float(scenario.loss(packed, output)) == pytest.approx(total, rel=1e-6)


def test_keras_trains_with_the_packed_loss():
    import keras

    scenario = Scenario([Foreground(), CenterVectors(scale=4)])
    targets, weights, _ = batch(scenario)
    packed = scenario.pack(targets, weights)
    raw = targets["foreground"][:, 0, ..., None] + 0.1
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((None, None, None, 1)), keras.layers.Conv3D(4, 3, padding="same")])
    model.compile(optimizer=keras.optimizers.Adam(0.05), loss=scenario.loss, jit_compile=False)
    losses = [float(model.train_on_batch(raw, packed)) for _ in range(30)]
    assert losses[-1] < 0.7 * losses[0]


def test_pack_names_what_is_missing_or_misshapen():
    scenario = Scenario.named("three_label_cpv")
    targets, weights, _ = batch(scenario)
    with pytest.raises(InputError, match="cpv"):
        scenario.pack({"three_label": targets["three_label"]}, weights)
    with pytest.raises(InputError, match="three_label"):
        scenario.pack(targets | {"three_label": targets["three_label"][0]}, weights)


def test_activation_is_each_head_s_own():
    scenario = Scenario([ThreeLabel(), CenterVectors(scale=6)])
    output = np.random.default_rng(0).normal(size=(6, 2, 3, 4)).astype(np.float32)
    prediction = scenario.activation(output)
    assert prediction.dtype == np.float32
    np.testing.assert_allclose(prediction[:3].sum(axis=0), 1, rtol=1e-6)
    np.testing.assert_array_equal(prediction[3:], 6 * output[3:])
    with pytest.raises(InputError, match="channels first"):
        scenario.activation(output[:3])


@pytest.mark.parametrize("seeds", ["main", "votes"])
def test_a_good_prediction_decodes_to_the_truth(seeds):
    truth = cases.touching_pair()
    scenario = Scenario.named("three_label_cpv")
    threshold = 0.8 if seeds == "main" else 1.5
    decoding = Decoding(seeds=seeds, seed_threshold=threshold, foreground_threshold=0.5, reach=6)
    surface, mask, foreground = scenario.decode(cases.known_prediction(truth), decoding)
    assert (surface.dtype, mask.dtype, foreground.dtype) == (np.float32, bool, bool)
    assert not (mask & ~foreground).any()
    labels = flood(surface, label_seeds(mask), foreground)
    assert len(np.unique(labels)) == 3
    for number in (1, 2):
        assert len(np.unique(labels[truth == number])) == 1
    assert not labels[truth == 0].any()


@pytest.mark.parametrize("passes", [0, 2])
def test_all_voxels_vote_where_they_are_asked_to(passes):
    """Votes counted voxel by voxel; a background voxel's vote makes a seed only within the foreground."""
    scenario = Scenario.named("three_label_cpv")
    truth = cases.crowded(5)
    prediction = cases.known_prediction(truth)
    prediction[3:] += np.random.default_rng(1).normal(0, 1.5, prediction[3:].shape)
    foreground = 1 - prediction[0] > 0.5
    seeds = {}
    for voters in ("foreground", "all"):
        votes = np.zeros(truth.shape)
        for voxel in np.argwhere(foreground) if voters == "foreground" else np.ndindex(truth.shape):
            vector = prediction[(slice(3, 6), *voxel)]
            at = tuple(np.add(voxel, np.rint(vector).astype(int)))
            inside = all(0 <= i < n for i, n in zip(at, truth.shape, strict=True))
            if inside and np.square(vector.astype(float)).sum() <= 5**2:
                votes[at] += 1
        for axis in (0, 1, 2) * passes:
            votes = ndimage.convolve1d(votes, [0.25, 0.5, 0.25], axis=axis, mode="constant")
        how = {"foreground_threshold": 0.5, "reach": 5, "vote_passes": passes, "votes_from": voters}
        decoding = Decoding(seeds="votes", seed_threshold=1.3, **how)
        seeds[voters] = scenario.decode(prediction, decoding)[1]
        np.testing.assert_array_equal(seeds[voters], (votes > 1.3) & foreground)
        assert decoding.context == 5 + passes
    assert (seeds["all"] & ~seeds["foreground"]).any()


def test_a_decoding_from_before_there_were_voters_to_choose():
    old = (
        '{"seeds": "votes", "seed_threshold": 5.0, "foreground_threshold": 0.5, "vote_passes": 2, "reach": 9}'
    )
    assert Decoding.model_validate_json(old).votes_from == "foreground"


@pytest.mark.parametrize("seeds", ["main", "votes"])
def test_decoding_is_exact_inside_its_context(seeds):
    scenario = Scenario.named("three_label_cpv")
    prediction = cases.known_prediction(cases.crowded(5), noise=1.5)
    decoding = Decoding(seeds=seeds, seed_threshold=0.4, foreground_threshold=0.5, reach=5, vote_passes=2)
    context = decoding.context
    assert context == (7 if seeds == "votes" else 0)
    core = (slice(9, 15), slice(10, 19), slice(8, 24))
    read = tuple(slice(c.start - context, c.stop + context) for c in core)
    inner = tuple(slice(context, context + c.stop - c.start) for c in core)
    whole = scenario.decode(prediction, decoding)
    block = scenario.decode(prediction[(slice(None), *read)], decoding)
    assert whole[1][core].any()
    for a, b in zip(whole, block, strict=True):
        np.testing.assert_array_equal(a[core], b[inner])


def test_grouping_is_exact_inside_its_context():
    scenario = Scenario.named("three_label_cpv")
    shape = (40, 44, 52)
    prediction = cases.known_prediction(cases.crowded(5, shape, nuclei=60), noise=1.5)
    decoding = Decoding(
        seeds="vectors",
        seed_threshold=0.4,
        foreground_threshold=0.5,
        reach=5,
        vote_passes=1,
        within=2,
        distance=2,
    )
    assert decoding.context == 2 * 5 + 1 + 2 + 2
    whole = scenario.group(prediction, decoding)
    begin, stop = (17, 18, 20), (22, 27, 33)
    read = tuple(slice(b - 15, e + 15) for b, e in zip(begin, stop, strict=True))
    block = scenario.group(prediction[(slice(None), *read)], decoding, tuple(r.start for r in read), shape)
    core = tuple(slice(b, e) for b, e in zip(begin, stop, strict=True))
    assert len(np.unique(whole[core])) > 2
    inner = tuple(slice(15, 15 + e - b) for b, e in zip(begin, stop, strict=True))
    np.testing.assert_array_equal(block[inner], whole[core])


@pytest.mark.parametrize("seeds", ["votes", "vectors"])
def test_votes_need_vectors_and_a_reach(seeds):
    with pytest.raises(ValidationError, match="reach"):
        Decoding(seeds=seeds, seed_threshold=5, foreground_threshold=0.5)
    decoding = Decoding(seeds=seeds, seed_threshold=5, foreground_threshold=0.5, reach=9)
    scenario = Scenario.named("three_label")
    with pytest.raises(InputError, match="center vectors"):
        scenario.check_decoding(decoding)
    with pytest.raises(InputError, match="center vectors"):
        (scenario.decode if seeds == "votes" else scenario.group)(
            np.zeros((3, 4, 4, 4), np.float32), decoding
        )
    unit = Scenario([ThreeLabel(), CenterVectors(unit=True)])
    with pytest.raises(InputError, match="unit"):
        unit.check_decoding(decoding)


def test_what_is_grouped_is_not_flooded():
    decoding = Decoding(seeds="vectors", seed_threshold=5, foreground_threshold=0.5, reach=9)
    with pytest.raises(InputError, match=r"Scenario\.group"):
        Scenario.named("three_label_cpv").decode(np.zeros((6, 4, 4, 4), np.float32), decoding)


def test_grid_of_decodings():
    scenario = Scenario.named("three_label_cpv")
    grid = scenario.decodings(reach=12)
    assert len(grid) == len(set(grid)) == (8 + 8 + 5 * 3) * 7
    assert {decoding.seeds for decoding in grid} == {"main", "votes", "vectors"}
    assert {(decoding.seeds, decoding.reach) for decoding in grid} == {
        ("main", 0),
        ("votes", 12),
        ("vectors", 9),
    }
    assert {decoding.seeds for decoding in scenario.decodings()} == {"main"}
    assert scenario.default_decoding() in scenario.decodings()
    assert Scenario([Foreground()]).default_decoding().dilate == 1
    assert {decoding.dilate for decoding in Scenario([Foreground()]).decodings()} == {1}


def test_a_head_may_offer_several_dilations():
    scenario = Scenario.named("sdt")
    head = scenario.main
    grid = {(d.seed_threshold, d.foreground_threshold, d.dilate) for d in scenario.decodings()}
    assert grid == set(product(head.seed_thresholds, head.foreground_thresholds, (0, 1)))
    assert len(scenario.decodings()) == len(grid)
    assert scenario.default_decoding() in scenario.decodings()


def test_heads_load_without_any_framework():
    heavy = "('tensorflow', 'keras', 'torch', 'jax', 'gunpowder')"
    program = "import sys; from nucseg.heads.scenario import scenario_names; scenario_names()\n"
    program += f"sys.exit(', '.join(name for name in {heavy} if name in sys.modules) or 0)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
