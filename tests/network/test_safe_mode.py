"""A model file that carries code: it is refused, and the code does not run."""

import numpy as np
import pytest

from nucseg.errors import InputError
from nucseg.heads.scenario import Scenario
from nucseg.network.checkpoint import find_checkpoint, load_weights, save_checkpoint
from nucseg.network.unet import unet


@pytest.mark.xdist_group("tensorflow")
def test_code_in_a_model_file_is_refused_and_does_not_run(tmp_path):
    import keras

    scenario = Scenario.named("three_label")
    network = unet("tiny").build(scenario.channels, seed=1)
    optimizer = keras.optimizers.Adam()
    optimizer.build(network.trainable_variables)
    save_checkpoint(tmp_path, 1, network, optimizer, loss=1.0)
    checkpoint, mark = find_checkpoint(tmp_path), tmp_path / "the code ran"
    load_weights(checkpoint, network)
    before = [np.array(w) for w in network.get_weights()]

    path = str(mark)
    trap = keras.Sequential(
        [keras.Input((1,)), keras.layers.Lambda(lambda x: (open(path, "w").close(), x)[1])]
    )
    mark.unlink(missing_ok=True)
    trap.save(checkpoint.path / "model.keras")
    keras.saving.load_model(checkpoint.path / "model.keras", safe_mode=False)(np.zeros((1, 1)))
    assert mark.exists(), "the trap works where nobody guards"
    mark.unlink()

    with pytest.raises(InputError, match="Lambda"):
        load_weights(checkpoint, network)
    assert not mark.exists()
    for now, then in zip(network.get_weights(), before, strict=True):
        np.testing.assert_array_equal(now, then)
