"""A trained run that the tests of the network share."""

import pytest


@pytest.fixture(scope="session")
def straight(tmp_path_factory):
    """A run of six steps without a stop, with snapshots at 1, 4; and its losses."""
    from training_runs import LABELS, train

    folder = tmp_path_factory.mktemp("runs") / "straight"
    _, losses = train(folder, 6, snapshot_every=4, labels=LABELS, scale_um=(0.3, 0.1, 0.1), nucleus_um=1.5)
    return folder, losses
