"""Metadata, dependencies and the `nucseg` command; tool settings are in pyproject.toml."""

from pathlib import Path

from setuptools import find_packages, setup

CPU = ["tensorboard>=2.20", "tensorflow-cpu>=2.20,<2.22"]
GPU = ["tensorboard>=2.20", "tensorflow[and-cuda]>=2.20,<2.22"]
REMOTE = ["aiohttp>=3.9", "fsspec>=2024.6", "s3fs>=2024.6"]
STARDIST = ["stardist>=0.9.1"]
TEST = ["hypothesis>=6.100", "ome-zarr>=0.18", "pytest>=8.2", "pytest-xdist>=3.6", *STARDIST, *REMOTE]
CHECK = ["import-linter>=2.1", "mypy>=1.13", "ruff>=0.9"]

setup(
    name="nucseg",
    version="0.1.0",
    description="Find and segment every cell nucleus in large 3D microscopy volumes",
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="MIT",
    license_files=["LICENSE"],
    python_requires=">=3.12,<3.14",
    packages=find_packages(include=["nucseg", "nucseg.*"]),
    package_data={"nucseg": ["py.typed"], "nucseg.report": ["*.html", "*.css"]},
    install_requires=[
        "click>=8.1",
        "connected-components-3d>=3.20",
        "daisy>=2.0,<3",
        "edt>=3.0",
        "gunpowder>=1.5,<2",
        "h5py>=3.11",
        "imagecodecs>=2024.6",
        "jinja2>=3.1",
        "mahotas>=1.4.18",
        "matplotlib>=3.9",
        "numba>=0.61",
        "numpy>=2.0",
        "pyarrow>=17",
        "pydantic>=2.8,<3",
        "scipy>=1.13",
        "tifffile>=2024.8",
        "tqdm>=4.66",
        "yaozarrs>=0.3",
        "zarr>=3.1,<4",
    ],
    extras_require={
        "cpu": CPU,
        "gpu": GPU,
        "remote": REMOTE,
        "stardist": STARDIST,
        "test": TEST,
        "dev": CPU + TEST + CHECK,
    },
    entry_points={"console_scripts": ["nucseg=nucseg.cli:main"]},
    classifiers=[
        "Development Status :: 4 - Beta",
        "Intended Audience :: Science/Research",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Scientific/Engineering :: Bio-Informatics",
        "Topic :: Scientific/Engineering :: Image Processing",
    ],
)
