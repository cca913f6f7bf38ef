"""nucseg: find and segment every cell nucleus in large 3D microscopy volumes.

Public names load on first use, so that `import nucseg` costs neither TensorFlow nor gunpowder:

>>> import nucseg as ns
>>> ns.ThreeLabel().channels
3
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_HOME = {
    # volumes
    "Volume": "volume",
    "open_volume": "volume",
    "open_labels": "volume",
    "create_image": "volume",
    "create_labels": "volume",
    "convert_volume": "convert",
    "check_volume": "check",
    "Finding": "check",
    "read_table": "points",
    "write_table": "points",
    "read_points": "points",
    "synthesize": "synthetic",
    # annotation of a part, or by points
    "PointLabels": "point_labels",
    "AnnotatedLabels": "annotation",
    "AnnotationMask": "annotation",
    # heads
    "Head": "heads.base",
    "ThreeLabel": "heads.three_label",
    "SignedDistance": "heads.signed_distance",
    "Affinities": "heads.affinities",
    "CenterVectors": "heads.center_vectors",
    "GaussianCenters": "heads.gaussian_centers",
    "Scenario": "heads.scenario",
    "Decoding": "heads.scenario",
    "PointDecoding": "heads.scenario",
    "scenario_names": "heads.scenario",
    # gunpowder nodes
    "VolumeSource": "nodes.volume_source",
    "RandomPatch": "nodes.random_patch",
    "Deform": "nodes.deform",
    "ArrayAugment": "nodes.array_augment",
    "Gamma": "nodes.gamma",
    "GaussianNoise": "nodes.gaussian_noise",
    "PoissonNoise": "nodes.poisson_noise",
    "Blur": "nodes.blur",
    "ScaleShift": "nodes.scale_shift",
    "AddTargets": "nodes.add_targets",
    "PreCache": "nodes.precache",
    "target_keys": "nodes.add_targets",
    "weight_keys": "nodes.add_targets",
    # network and training
    "UNet": "network.unet",
    "unet": "network.unet",
    "KerasTrain": "network.train",
    "KerasPredict": "network.predict",
    "TrainedModel": "network.model",
    "AuxiliaryTask": "network.auxiliary",
    "TrainConfig": "training",
    "train": "training",
    # experiments
    "ExperimentConfig": "experiment",
    "run_experiment": "experiment",
    # blockwise
    "Task": "blockwise.task",
    "Block": "blockwise.grid",
    "Grid": "blockwise.grid",
    "BlockRefused": "blockwise.task",
    "Chain": "blockwise.chain",
    "Mask": "blockwise.mask",
    "Predict": "blockwise.predict",
    "Segment": "blockwise.segment",
    "PredictAndSegment": "blockwise.fused",
    "Encoding": "storage.encoding",
    "Detect": "blockwise.detect",
    "DetectInstances": "blockwise.detect_instances",
    "Compact": "blockwise.compact",
    "Measure": "blockwise.measure",
    "probe": "blockwise.estimate",
    "Downsample": "blockwise.downsample",
    "Local": "blockwise.launch",
    "Slurm": "blockwise.slurm",
    "LSF": "blockwise.lsf",
    "Resources": "blockwise.resources",
    "FunctionLauncher": "blockwise.function_launcher",
    "run": "blockwise.run",
    "verify": "blockwise.verify",
    "Verification": "blockwise.verify",
    "run_status": "blockwise.status",
    "RunStatus": "blockwise.status",
    # evaluation and report
    "Scores": "evaluate.scores",
    "match": "evaluate.matching",
    "evaluate_paths": "evaluate",
    "select": "evaluate.select",
    "select_run": "selection",
    "RunSelection": "selection",
    "write_report": "report.html",
    "report_folder": "report",
    # errors
    "NucsegError": "errors",
    "InputError": "errors",
    "BlocksFailed": "errors",
}

__all__ = ["__version__", *sorted(_HOME)]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'nucseg' has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})
