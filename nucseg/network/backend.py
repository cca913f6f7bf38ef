"""What differs between Keras' backends, in one place. Nothing here imports Keras before it is called."""

import importlib.util
import json
import logging
import os
from pathlib import Path

from nucseg.errors import InputError

logger = logging.getLogger(__name__)


def require_backend() -> None:
    """See that Keras and its backend are installed, without importing them.

    Raises:
        InputError: One of them is not.
    """
    for module in ("keras", _backend_module()):
        if importlib.util.find_spec(module) is None:
            raise InputError(
                "network",
                expected="keras with a backend",
                received=f"no module {module}",
                remedy="pip install 'nucseg[cpu]'",
            )


def _backend_module() -> str:
    """The module that Keras will import as its backend: KERAS_BACKEND, else its settings file, else TensorFlow."""
    name = os.environ.get("KERAS_BACKEND")
    if not name:
        home = os.environ.get("KERAS_HOME") or os.path.join(os.path.expanduser("~"), ".keras")
        try:
            settings = json.loads(Path(home, "keras.json").read_text(encoding="utf-8"))
            name = settings.get("backend")
        except (OSError, ValueError, AttributeError):  # Keras passes over such a file, too
            name = None
    return name or "tensorflow"


def jit_compile() -> bool:
    """Whether a model should be compiled by XLA: on JAX only.

    On the CPU, TensorFlow's XLA runs 3-D convolutions about ten times slower than its own kernels, and
    Keras would choose it.
    """
    import keras

    return bool(keras.backend.backend() == "jax")


def use_threads(threads: int | None) -> None:
    """Limit the threads of the Keras backend in this process; None leaves its own choice (all cores).

    TensorFlow takes the number once, before its first operation: when it is too late, or with JAX, which
    has no such setting, a warning says so.
    """
    if threads is None:
        return
    import keras

    backend = keras.backend.backend()
    if backend == "tensorflow":
        import tensorflow as tf

        try:
            tf.config.threading.set_intra_op_parallelism_threads(threads)
            tf.config.threading.set_inter_op_parallelism_threads(min(threads, 2))
        except RuntimeError:
            if tf.config.threading.get_intra_op_parallelism_threads() != threads:
                logger.warning(
                    "TensorFlow is already running: it cannot be limited to %d threads now", threads
                )
    elif backend == "torch":
        import torch

        torch.set_num_threads(threads)
    else:
        logger.warning(
            "the Keras backend %s takes no number of threads; set OMP_NUM_THREADS or taskset", backend
        )


def share_gpu() -> None:
    """Let several workers share one GPU: TensorFlow takes memory as it needs it, not all of it at once."""
    import keras

    if keras.backend.backend() != "tensorflow" or "TF_FORCE_GPU_ALLOW_GROWTH" in os.environ:
        return
    import tensorflow as tf

    for gpu in tf.config.list_physical_devices("GPU"):
        try:
            tf.config.experimental.set_memory_growth(gpu, True)
        except RuntimeError:
            logger.debug("%s is already in use: its memory setting stays", gpu.name)
