"""What all tests share."""

import logging

import pytest


@pytest.fixture(autouse=True)
def _level_of_the_logger():
    """The command line sets the level for its process (--debug); tests run it in theirs."""
    logger = logging.getLogger("nucseg")
    level = logger.level
    yield
    logger.setLevel(level)
