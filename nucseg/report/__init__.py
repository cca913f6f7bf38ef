"""One self-contained HTML page about a run."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nucseg.report.folders import report_folder as report_folder
    from nucseg.report.html import write_report as write_report
    from nucseg.report.image import ReportImage as ReportImage

_HOME = {"report_folder": "folders", "write_report": "html", "ReportImage": "image"}


def __getattr__(name: str) -> Any:
    """The public names load on use: a page takes matplotlib and file formats."""
    if name not in _HOME:
        raise AttributeError(f"module 'nucseg.report' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"nucseg.report.{_HOME[name]}"), name)
