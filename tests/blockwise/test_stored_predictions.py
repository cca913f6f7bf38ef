"""Predictions stored as 16-bit floats or as integers: read as values by all that follows, and certified alike."""

import json
import shutil

import numpy as np
import pytest
import zarr
from blockwise_cases import labels_of, random_prediction, random_raw, save_raw
from click.testing import CliRunner

from nucseg.blockwise.detect import Detect
from nucseg.blockwise.encoding import known_reach, settled_encoding
from nucseg.blockwise.launch import Local
from nucseg.blockwise.predict import Predict
from nucseg.blockwise.records import Records
from nucseg.blockwise.run import run
from nucseg.blockwise.segment import Segment
from nucseg.blockwise.verify import verify
from nucseg.cli.main import cli
from nucseg.errors import InputError
from nucseg.heads.base import Head
from nucseg.heads.scenario import Decoding, PointDecoding, Scenario
from nucseg.network.model import TrainedModel
from nucseg.storage.encoding import Encoding
from nucseg.volume import create_image, open_volume

HERE = Local(workers=0)
SHAPE = (21, 26, 33)
BLOCK = (8, 12, 16)


class Unbounded(Head):
    """A lab's head that says no range."""

    @property
    def channels(self) -> int:
        return 2


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    return save_raw(tmp_path_factory.mktemp("raw") / "raw.zarr", random_raw(SHAPE, seed=2))


@pytest.fixture(scope="module")
def exact(tmp_path_factory, untrained, raw):
    out = tmp_path_factory.mktemp("exact") / "o"
    Predict(volume=raw, out=str(out), model=str(untrained), block=BLOCK, encoding="float32").blockwise(HERE)
    return open_volume(out / "prediction").read()


@pytest.mark.parametrize("encoding", ["float16", "uint16", "uint8"])
def test_what_is_stored_is_near_what_was_predicted(tmp_path, untrained, raw, exact, encoding):
    out = tmp_path / "o"
    task = Predict(volume=raw, out=str(out), model=str(untrained), block=BLOCK, encoding=encoding)
    result = task.blockwise(HERE)
    prediction = open_volume(out / "prediction")
    assert prediction.array.dtype == encoding
    vectors = np.abs(exact[3:])
    assert result["saturated"] == (0 if encoding == "float16" else np.count_nonzero(vectors > 7.0))
    within = np.ones(exact.shape, bool)
    within[3:] = vectors < 7.0  # one voxel more than the diameter, 0.6 um of 0.1 um voxels
    steps = {"uint8": (1 / 255, 7 / 127), "uint16": (1 / 65535, 7 / 32767), "float16": (2**-11, 2**-8)}
    step = np.array([steps[encoding][0]] * 3 + [steps[encoding][1]] * 3)[:, None, None, None]
    error = np.abs(prediction.read() - exact)
    assert (error <= step / 2 * 1.01)[within].all()
    assert (error > 0).any()
    checked = verify(str(out), launcher=HERE)
    assert not checked.damaged
    assert checked.checked == result["blocks"]


@pytest.mark.parametrize("encoding", ["float16", "uint16", "uint8"])
def test_blocks_of_a_stored_prediction_equal_its_whole(tmp_path, encoding):
    shape = (18, 20, 22)
    values = random_prediction(shape, seed=5, scenario="three_label_cpv")
    kept = Encoding.of_ranges(encoding, [(0.0, 1.0)] * 3 + [(-6.0, 6.0)] * 3)
    values = kept.decode(kept.encode(values)[0])
    fields = {"dtype": "float32", "scale_um": None, "axes": ("c", "z", "y", "x"), "encoding": kept}
    create_image(tmp_path / "p.zarr", shape=values.shape, **fields).write((0, 0, 0), values)
    np.save(tmp_path / "plain.npy", values)
    votes = {"seeds": "votes", "seed_threshold": 1.0, "foreground_threshold": 0.5, "reach": 5, "dilate": 1}
    for index, decoding in enumerate(
        (Decoding(seed_threshold=0.6, foreground_threshold=0.5), Decoding(**votes))
    ):
        digests = []
        for path, whole in (("p.zarr", False), ("plain.npy", True)):
            out = tmp_path / f"o{index}{path}{whole}"
            task = Segment(
                prediction=str(tmp_path / path),
                out=str(out),
                scenario="three_label_cpv",
                decoding=decoding,
                whole=whole,
                block=(9, 10, 11),
                halo=4,
            )
            digests.append(task.blockwise(HERE)["digest"])
            assert labels_of(out).any()
        assert len(set(digests)) == 1
    points = [
        Detect(
            prediction=str(tmp_path / path),
            out=str(tmp_path / f"d{path}"),
            scenario="three_label_cpv",
            block=(9, 10, 11),
            decoding=PointDecoding(
                source="votes", threshold=1.0, distance=2, reach=5, foreground_threshold=0.5
            ),
        ).blockwise(HERE)
        for path in ("p.zarr", "plain.npy")
    ]
    assert points[0]["digest"] == points[1]["digest"]
    assert points[0]["nuclei"] > 3


def test_the_encoding_is_part_of_what_a_run_is(tmp_path, untrained, raw):
    out = tmp_path / "o"
    settled = {"volume": raw, "out": str(out), "model": str(untrained), "block": (16, 16, 20)}
    Predict(**settled).blockwise(HERE)
    fields = Records(out, "predict").head()["fields"]["encoding"]
    assert fields["dtype"] == "uint16"
    assert fields["scale"] == pytest.approx([1 / 65535] * 3 + [7 / 32767] * 3)
    assert fields["zero_point"] == [0] * 3 + [32768] * 3
    assert Predict(**settled, encoding="uint16").blockwise(HERE)["skipped"] == 8
    with pytest.raises(InputError, match=r"encoding\.dtype uint16.*received encoding\.dtype uint8"):
        Predict(**settled, encoding="uint8").blockwise(HERE)
    with pytest.raises(InputError, match=r"encoding\.scale"):
        Predict(**settled, reach=20).blockwise(HERE)


def test_vectors_longer_than_what_is_stored_cannot_vote(tmp_path, untrained, raw):
    out = tmp_path / "o"
    settled = {"volume": raw, "out": str(out), "model": str(untrained), "block": (16, 16, 20)}
    Predict(**settled).blockwise(HERE)
    votes = {"seeds": "votes", "seed_threshold": 1.0, "foreground_threshold": 0.5}
    Segment(out=str(out), decoding=Decoding(**votes, reach=6)).resolved()
    with pytest.raises(InputError, match=r"vectors of up to 7 voxels.*components of up to 7 voxels"):
        Segment(out=str(out), decoding=Decoding(**votes, reach=7)).resolved()
    with pytest.raises(InputError, match="predict again with this nucleus diameter"):
        Detect(
            out=str(out),
            decoding=PointDecoding(
                source="votes", threshold=1.0, distance=2, reach=9, foreground_threshold=0.5
            ),
        ).resolved()
    Predict(**settled, reach=9).blockwise(HERE, overwrite=True)
    Segment(out=str(out), decoding=Decoding(**votes, reach=9)).resolved()


def test_a_run_stores_vectors_as_far_as_its_nuclei_reach(tmp_path, untrained, raw):
    decoding = {"seeds": "votes", "seed_threshold": 0.4, "foreground_threshold": 0.6}
    said: list[str] = []
    result = run(
        raw, str(tmp_path / "o"), str(untrained), nucleus_um=0.9, launcher=HERE, log=said.append, **decoding
    )
    fields = Records(tmp_path / "o", "predict").head()["fields"]["encoding"]
    assert fields["scale"][3] == pytest.approx(10 / 32767)
    counted = [line for line in said if "values lay beyond what is stored" in line]
    assert bool(result.steps["predict"]["saturated"]) == bool(counted)


def test_integers_need_ranges_and_no_range_is_float32(untrained):
    vectors, lab = Scenario.named("three_label_cpv"), Scenario([Unbounded()])
    assert settled_encoding(vectors, None, 6).dtype == "uint16"
    assert (
        settled_encoding(vectors, None, None) == settled_encoding(lab, None, 6) == Encoding(dtype="float32")
    )
    assert settled_encoding(lab, "float16", None) == Encoding(dtype="float16")
    with pytest.raises(InputError, match=r"encoding uint8 of cpv.*--nucleus-um"):
        settled_encoding(vectors, "uint8", None)
    with pytest.raises(InputError, match=r"encoding uint8 of unbounded.*stored_range"):
        settled_encoding(lab, "uint8", 6)
    model = TrainedModel.load(untrained)
    assert known_reach(model, (0.1, 0.2, 0.2), None) == 6
    assert known_reach(model, (0.1, 0.05, 0.2), 9) == 12
    assert known_reach(model, None, 9) == 9


def test_the_encoding_from_the_command_line(tmp_path, untrained, raw):
    out = tmp_path / "o"
    arguments = ["predict", raw, str(out), "--model", str(untrained), "--launcher", "local:0", "--json"]
    assert CliRunner().invoke(cli, [*arguments, "--encoding", "int4"]).exit_code == 2
    result = CliRunner().invoke(cli, [*arguments, "--encoding", "uint8", "--nucleus-um", "1.3"])
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["saturated"] == 0
    stored = zarr.open_array(out / "prediction" / "0", mode="r")
    assert stored.dtype == np.uint8
    assert stored.attrs["nucseg"]["encoding"]["scale"][5] == pytest.approx(14 / 127)
    assert "--encoding" in CliRunner().invoke(cli, ["run", "--help"]).stdout


def test_float32_goes_without_saying_as_in_runs_that_knew_no_other(tmp_path, untrained, raw):
    out = tmp_path / "o"
    task = Predict(volume=raw, out=str(out), model=str(untrained), block=(16, 16, 20), encoding="float32")
    task.blockwise(HERE)
    assert not {"encoding", "reach"} & Records(out, "predict").head()["fields"].keys()
    assert task.blockwise(HERE)["skipped"] == 8
    default = task.model_copy(update={"encoding": None})
    assert default.blockwise(HERE)["skipped"] == 8, "what lies there goes on"
    assert not verify(str(out), launcher=HERE).damaged
    shutil.rmtree(out / "prediction" / "0" / "c" / "0" / "0" / "0")
    assert not verify(str(out), launcher=HERE, repair=True).remaining
    assert not open_volume(out / "prediction").stored.encoding


def test_what_sdt_gives_beyond_its_target_changes_no_label(tmp_path):
    """The output is linear: networks give up to 1.2 in the background; a value of 1.6 is no such prediction."""
    height = random_prediction((20, 22, 24), seed=5)[1]
    values = (1.2 - 2.4 * height / height.max())[None].astype(np.float32)
    assert values.max() > 1.05
    assert values.min() < -1.05
    digests = []
    for name, stored in (("all", values), ("cut", np.clip(values, -1.05, 1.05))):
        np.save(tmp_path / f"{name}.npy", stored)
        task = Segment(prediction=str(tmp_path / f"{name}.npy"), out=str(tmp_path / name), scenario="sdt")
        digests.append(task.blockwise(HERE))
    assert digests[0]["digest"] == digests[1]["digest"]
    assert digests[0]["nuclei"] > 3
    np.save(tmp_path / "no.npy", values * 1.4)
    with pytest.raises(InputError, match="after the activation, -1 to 1"):
        Segment(prediction=str(tmp_path / "no.npy"), out=str(tmp_path / "no"), scenario="sdt").blockwise(HERE)
