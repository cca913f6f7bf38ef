"""Which files of a folder are raw images, labels and centres, and which part of the split each worm belongs to.

Three layouts are known, see README.md; anything else is an error that lists what was looked for and what is there.
"""

import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from nucseg import InputError

PARTS = ("train", "validation", "test")
TIFF = (".tif", ".tiff")
_PART_FOLDERS = {"train": "train", "val": "validation", "validation": "validation", "test": "test"}
_CURATED = ".ano.curated"
_SEVERAL = "several files"
_ADVICE = "see pipelines/celegans/README.md for the three layouts that are known"


class Worm(NamedTuple):
    """The files of one worm.

    Attributes:
        name: Its file name without suffixes, as split.toml has it.
        raw: The image.
        labels: Instances.
        centers: Table of centres; None where the layout has none.
        part: `train`, `validation` or `test` as the folders say; None where they say nothing.
    """

    name: str
    raw: Path
    labels: Path
    centers: Path | None
    part: str | None


class Split(NamedTuple):
    """Names of worms by part, and those that are not used."""

    parts: dict[str, tuple[str, ...]]
    left_out: tuple[str, ...]

    def part_of(self, name: str) -> str | None:
        """The part, `left_out`, or None for an unknown name."""
        if name in self.left_out:
            return "left_out"
        return next((part for part, names in self.parts.items() if name in names), None)


class Amiss:
    """All that is missing or there twice among the files of a download, to be told at once."""

    def __init__(self) -> None:
        self.names: dict[str, list[str]] = {}
        self.where: list[str] = []

    def add(self, where: str, what: str, names: Iterable[str]) -> None:
        """Note names of worms of which the same is to be said; none is nothing."""
        if found := list(names):
            self.names.setdefault(what, []).extend(found)
            self.where += [where] if where not in self.where else []

    def has(self, name: str) -> bool:
        """Whether something was said of a worm."""
        return any(name in names for names in self.names.values())

    def check(self, *further: str) -> None:
        """Raise what was noted, and further problems.

        Raises:
            InputError: There is something.
        """
        if self.names:
            raise InputError(
                ", ".join(self.where),
                expected="for each worm one image and one label file of the same name",
                received="; ".join(
                    [*(f"{what}: {', '.join(names)}" for what, names in self.names.items()), *further]
                ),
                remedy="complete the download, or move what does not belong to it elsewhere",
            )


def read_split(path: Path) -> Split:
    """Read split.toml.

    Raises:
        InputError: It is no such file, a part is missing, or a name is in two parts.
    """
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
        split = Split({part: tuple(values[part]) for part in PARTS}, tuple(values.get("left_out", ())))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, KeyError, TypeError) as error:
        raise InputError(
            str(path),
            expected=f"a TOML file with lists of names: {', '.join(PARTS)}",
            received=f"{type(error).__name__}: {error}",
            remedy="take pipelines/celegans/split.toml as the pattern",
        ) from error
    names = [name for part in (*split.parts.values(), split.left_out) for name in part]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise InputError(
            str(path), expected="each name once", received=f"twice: {', '.join(twice)}", remedy="delete one"
        )
    return split


def find_worms(folder: Path, amiss: Amiss | None = None) -> tuple[str, list[Worm]]:
    """The worms of a folder, by name, and the name of its layout: `parts`, `curated` or `flat`.

    The layout may begin in a folder below, as archives unpack.

    Args:
        folder: Where they lie.
        amiss: Takes image and label files without their partner, and those of one name, to be told together with what
            else is missing. None: they are an error at once.

    Raises:
        InputError: No layout or several, or an image or label file without its partner, or two of one name.
    """
    if not folder.is_dir():
        raise InputError(
            str(folder),
            expected="the folder with the unpacked download",
            received="no folder of that name",
            remedy="check the path; the archive is named in pipelines/celegans/README.md",
        )
    kinds = {"parts": _is_parts, "curated": _is_curated, "flat": _is_flat}
    roots = [folder, *_below(folder)]
    found = [(kind, root) for root in roots for kind, matches in kinds.items() if matches(root)]
    inside = {root for kind, root in found if kind == "parts"}
    found = [(kind, root) for kind, root in found if kind == "parts" or root.parent not in inside]
    if len(found) != 1:
        raise InputError(
            str(folder),
            expected="one of: train, val, test with images and masks; groundTruthInstanceSeg with *.ano.curated.tiff; "
            "images with masks",
            received="; ".join(f"{kind} in {root}" for kind, root in found)
            or f"folders {', '.join(sorted(str(r.relative_to(folder)) for r in roots[1:])) or 'none'}",
            remedy=f"give the folder of one of them; {_ADVICE}",
        )
    kind, root = found[0]
    noted = Amiss() if amiss is None else amiss
    read = {"parts": _parts, "curated": _curated, "flat": _flat}[kind]
    worms = sorted(read(root, noted), key=lambda worm: worm.name)
    if amiss is None:
        noted.check()
    return kind, worms


def assign(
    worms: Iterable[Worm],
    split: Split,
    by: str = "both",
    partial: bool = False,
    amiss: Amiss | None = None,
) -> tuple[dict[str, list[Worm]], list[str]]:
    """Put each worm into its part.

    Args:
        worms: What `find_worms` found.
        split: By file name.
        by: `names`: as the split says. `folders`: as the folders say. `both`: the two must agree where the folders
            say anything.
        partial: Whether worms of the split may be missing.
        amiss: What is missing of single worms, told together with what is wrong here.

    Returns:
        Worms of each part, and the names of those that the split leaves out.

    Raises:
        InputError: A worm is in no part, folders and names disagree, or worms are missing; all of them are listed.
    """
    parts: dict[str, list[Worm]] = {part: [] for part in PARTS}
    left_out, problems = [], []
    for worm in worms:
        named = split.part_of(worm.name)
        part = worm.part if by == "folders" else named
        if by == "both" and worm.part is not None and worm.part != named:
            problems.append(f"{worm.name} in the folder of {worm.part}, by name {named or 'in no part'}")
        elif part is None:
            where = "in no folder of a part" if by == "folders" else "in no part of the split"
            problems.append(f"{worm.name} {where} ({worm.raw})")
        elif part == "left_out":
            left_out.append(worm.name)
        else:
            parts[part].append(worm)
    here = {worm.name for found in parts.values() for worm in found}
    noted = amiss or Amiss()
    missing = [
        name for part in PARTS for name in split.parts[part] if name not in here and not noted.has(name)
    ]
    if by != "folders" and missing and not partial and not problems:
        total = sum(len(names) for names in split.parts.values())
        problems.append(f"{len(missing)} of {total} worms missing: {', '.join(missing)}")
    if (
        not problems
        and not noted.names
        and (empty := [part for part in PARTS if not parts[part]])
        and not partial
    ):
        problems.append(f"no worm for {', '.join(empty)}")
    noted.check(*problems)
    if problems:
        raise InputError(
            "the split of the worms",
            expected="every worm in one part: " + ", ".join(f"{len(split.parts[p])} {p}" for p in PARTS),
            received="; ".join(problems),
            remedy="complete the download, choose --split names or --split folders, allow --partial, or give a "
            "--split-file of your own",
        )
    return parts, left_out


def _below(folder: Path) -> list[Path]:
    """Folders up to two levels below, without hidden ones and what macOS adds to archives."""
    found = []
    for child in sorted(folder.iterdir()):
        if child.is_dir() and not child.name.startswith(".") and child.name != "__MACOSX":
            found.append(child)
            found += [
                grandchild
                for grandchild in sorted(child.iterdir())
                if grandchild.is_dir() and not grandchild.name.startswith(".")
            ]
    return found


def _is_parts(root: Path) -> bool:
    return any((root / part / "images").is_dir() for part in _PART_FOLDERS)


def _is_curated(root: Path) -> bool:
    return (root / "groundTruthInstanceSeg").is_dir()


def _is_flat(root: Path) -> bool:
    return (root / "images").is_dir() and (root / "masks").is_dir()


def _parts(root: Path, amiss: Amiss) -> list[Worm]:
    found: list[Worm] = []
    for folder, part in _PART_FOLDERS.items():
        if (root / folder).is_dir():
            found += _flat(root / folder, amiss, part)
    names = [worm.name for worm in found]
    twice = {n: [str(w.raw) for w in found if w.name == n] for n in names if names.count(n) > 1}
    amiss.add(str(root), _SEVERAL, _with_paths(twice))
    return found


def _flat(root: Path, amiss: Amiss, part: str | None = None) -> list[Worm]:
    raw, labels = _files(root / "images", TIFF), _files(root / "masks", TIFF)
    centers = _files(root / "centers", (".txt", ".csv"))
    return _paired(root, raw, labels, centers, part, amiss)


def _curated(root: Path, amiss: Amiss) -> list[Worm]:
    """The authors' own collection: each image as MetaImage or TIFF, labels and centres as *.ano.curated.*."""
    raw = _files(root / "imagesAsMhdRaw", (".mhd",))
    for name, paths in _files(root / "imagesAsTiff", TIFF).items():
        raw.setdefault(name, paths)  # the same image in another format
    seen = _files(root / "groundTruthInstanceSeg", (*TIFF, ".txt"))
    curated = {name.removesuffix(_CURATED): paths for name, paths in seen.items() if name.endswith(_CURATED)}
    labels = {name: [p for p in paths if p.suffix.lower() in TIFF] for name, paths in curated.items()}
    centers = {name: [p for p in paths if p.suffix.lower() == ".txt"] for name, paths in curated.items()}
    return _paired(root, raw, labels, {name: paths for name, paths in centers.items() if paths}, None, amiss)


def _files(folder: Path, suffixes: tuple[str, ...]) -> dict[str, list[Path]]:
    """Files by their name without the suffix; none if there is no such folder."""
    found: dict[str, list[Path]] = {}
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if path.suffix.lower() in suffixes and not path.name.startswith("."):
            found.setdefault(path.name[: -len(path.suffix)], []).append(path)
    return found


def _paired(
    root: Path,
    raw: dict[str, list[Path]],
    labels: dict[str, list[Path]],
    centers: dict[str, list[Path]],
    part: str | None,
    amiss: Amiss,
) -> list[Worm]:
    labels = {name: paths for name, paths in labels.items() if paths}
    where, whole = str(root), sorted(set(raw) & set(labels))
    amiss.add(where, "images without labels", sorted(set(raw) - set(labels)))
    amiss.add(where, "labels without an image", sorted(set(labels) - set(raw)))
    amiss.add(where, "centres without labels", sorted(set(centers) - set(labels)))
    for found in (raw, labels, centers):
        twice = {name: [str(path) for path in paths] for name, paths in found.items() if len(paths) > 1}
        amiss.add(where, _SEVERAL, _with_paths(twice))
    return [
        Worm(name, raw[name][0], labels[name][0], centers[name][0] if name in centers else None, part)
        for name in whole
    ]


def _with_paths(twice: dict[str, list[str]]) -> list[str]:
    return [f"{name} ({', '.join(paths)})" for name, paths in twice.items()]
