"""A network that was never trained, as a training run's folder."""

import pytest


@pytest.fixture(scope="session")
def untrained(tmp_path_factory):
    """A tiny three_label_cpv network with random weights that finds objects in a smooth random volume."""
    import keras

    from nucseg.heads.scenario import Scenario
    from nucseg.network.checkpoint import save_checkpoint
    from nucseg.network.record import RunRecord
    from nucseg.network.unet import unet

    folder = tmp_path_factory.mktemp("runs") / "untrained"
    folder.mkdir()
    scenario, network = Scenario.named("three_label_cpv"), unet("tiny")
    RunRecord(scenario=scenario, network=network, scale_um=(0.2, 0.1, 0.1), nucleus_um=0.6).write(folder)
    keras_model = network.build(scenario.channels, seed=4)
    optimizer = keras.optimizers.Adam()
    optimizer.build(keras_model.trainable_variables)
    save_checkpoint(folder, 1, keras_model, optimizer, loss=1.0)
    return folder
