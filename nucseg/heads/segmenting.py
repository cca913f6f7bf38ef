"""From a prediction to instances: the part of `Scenario` for it."""

from typing import Any

import numpy as np
from pydantic import ConfigDict

from nucseg.errors import InputError
from nucseg.heads.base import Head
from nucseg.heads.center_vectors import CenterVectors
from nucseg.heads.decoding import Decoding, Seeds
from nucseg.heads.points import PointDecoder, default_distance
from nucseg.instances.detection import local_maxima
from nucseg.instances.grouping import group_by_vectors, peak_ids

Triple = tuple[int, int, int]


class InstanceDecoder(PointDecoder):
    """What a `Scenario` knows about its channels and about instances."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @property
    def name(self) -> str:
        """Names of the heads, joined: `three_label_cpv`."""
        return "_".join(head.name for head in self.heads)

    @property
    def channels(self) -> int:
        """Output channels of the network, all heads together."""
        return sum(head.channels for head in self.heads)

    def slices(self) -> dict[str, slice]:
        """Channels of each head in the network's output and in a prediction."""
        return channels_of({head.name: head.channels for head in self.heads})

    @property
    def can_segment(self) -> bool:
        """Whether there is a main head."""
        return any(head.is_main for head in self.heads)

    def check_decodes(self) -> None:
        """See that a prediction of these heads decodes to something: instances or points.

        Raises:
            InputError: It does not; training them would be in vain.
        """
        if self.can_segment or self.can_detect:
            return
        unit = self.auxiliary is not None
        raise InputError(
            f"heads {self.name}",
            expected="a head that decodes to instances, such as three_label, or to points, such as gauss",
            received="unit vectors, which do not say how far the centre is" if unit else "none",
            remedy="add such a head"
            + (", or train vectors with their length (without unit)" if unit else ""),
        )

    @property
    def main(self) -> Head:
        """The head that decodes to instances.

        Raises:
            InputError: There is none.
        """
        for head in self.heads:
            if head.is_main:
                return head
        raise InputError(
            f"scenario {self.name}",
            expected="a head that decodes to instances",
            received="none",
            remedy="add a main head such as three_label, or look for points (nucseg detect)",
        )

    @property
    def auxiliary(self) -> CenterVectors | None:
        """The center vectors, if there are any."""
        return next((head for head in self.heads if isinstance(head, CenterVectors)), None)

    def voting(self, seeds: Seeds) -> CenterVectors:
        """The center vectors, where seeds come from votes or voxels are grouped by vectors.

        Raises:
            InputError: There are none.
        """
        if self.auxiliary is None:
            raise InputError(
                f"decoding of {self.name}",
                expected=f"center vectors (cpv) for seeds={seeds!r}",
                received="none",
                remedy="decode with seeds='main', or train a scenario such as three_label_cpv",
            )
        return self.auxiliary

    def check_decoding(self, decoding: Decoding) -> None:
        """See that these heads can be decoded so.

        Raises:
            InputError: There is no main head, or no center vectors that vote where the decoding needs them.
        """
        _ = self.main
        if decoding.seeds != "main":
            self.voting(decoding.seeds).require_votes()

    def decode(self, prediction: np.ndarray, decoding: Decoding) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Surface, seeds and foreground for the watershed.

        Args:
            prediction: What `activation` returned, (channels, z, y, x).
            decoding: How to decode; seeds from the main head or from votes.

        Returns:
            Surface float32, seed mask bool, foreground bool, all (z, y, x). Seeds are foreground.

        Raises:
            InputError: Wrong channels; votes are asked for without center vectors; there is no main head; the
                decoding groups by vectors, see `group`.
        """
        self.check_channels(prediction)
        if decoding.seeds == "vectors":
            raise InputError(
                f"decoding of {self.name}",
                expected="seeds to flood from: main or votes",
                received="vectors, which need no flood",
                remedy="call Scenario.group",
            )
        own, foreground = self._foreground(prediction, decoding)
        if decoding.seeds == "votes":
            vectors = self.voting("votes")
            seeds = vectors.seeds_from_votes(
                self._own(prediction, vectors),
                foreground if decoding.votes_from == "foreground" else None,
                decoding.seed_threshold,
                reach=decoding.reach,
                passes=decoding.vote_passes,
            )
        else:
            seeds = self.main.seeds(own, decoding.seed_threshold)
        return self.main.surface(own), seeds & foreground, foreground

    def group(
        self,
        prediction: np.ndarray,
        decoding: Decoding,
        begin: Triple = (0, 0, 0),
        volume_shape: Triple | None = None,
    ) -> np.ndarray:
        """Instances without a flood: voxels join the peak of the votes that their vector points to.

        Exact `Decoding.context` voxels inside the array, and at faces of the volume.

        Args:
            prediction: What `activation` returned, (channels, z, y, x).
            decoding: How to decode, seeds = "vectors".
            begin: Where the array begins in the whole volume, voxels z,y,x.
            volume_shape: Shape of the whole volume; None: it ends where the array ends.

        Returns:
            uint64 (z, y, x), see `group_by_vectors` and `peak_ids`.

        Raises:
            InputError: Wrong channels, no main head, or no center vectors.
        """
        self.check_channels(prediction)
        vectors = self.voting("vectors")
        _, foreground = self._foreground(prediction, decoding)
        own = self._own(prediction, vectors)
        voters = foreground if decoding.votes_from == "foreground" else None
        votes = vectors.votes(own, voters, decoding.reach, decoding.vote_passes)
        peaks = local_maxima(votes, decoding.seed_threshold * 64.0**decoding.vote_passes, decoding.distance)
        joined = group_by_vectors(own, foreground, peaks, decoding.within, decoding.reach)
        z, y, x = (b + n for b, n in zip(begin, joined.shape, strict=True))
        return peak_ids(peaks, begin, volume_shape or (z, y, x))[joined]

    def default_decoding(self) -> Decoding:
        """The decoding when nothing was selected: seeds of the main head at its default thresholds."""
        return Decoding(
            seed_threshold=self.main.default_seed_threshold,
            foreground_threshold=self.main.default_foreground_threshold,
            dilate=self.main.default_dilate,
        )

    def decodings(self, reach: int | None = None) -> list[Decoding]:
        """The grid to select from on validation data: thresholds of the main head's seeds, of the votes, of the peaks.

        Args:
            reach: Longest vector that votes, voxels. None, or no center vectors that vote: no votes.
        """
        main, vectors = self.main, self.auxiliary
        ways: list[dict[str, Any]] = [
            {"seed_threshold": seed, "dilate": dilate}
            for seed in main.seed_thresholds
            for dilate in main.dilations
        ]
        if reach is not None and vectors is not None and not vectors.unit:
            ways += [
                {
                    "seeds": "votes",
                    "vote_passes": passes,
                    "seed_threshold": seed,
                    "reach": reach,
                    "dilate": dilate,
                }
                for passes in vectors.vote_passes
                for seed in vectors.vote_thresholds_after(passes)
                for dilate in main.dilations
            ]
            # A vector to the centre is about half as long as the nucleus; three quarters leave room for odd shapes.
            grouped = {"seeds": "vectors", "reach": -(-3 * reach // 4), "distance": default_distance(reach)}
            ways += [
                grouped | {"vote_passes": passes, "seed_threshold": seed, "within": within}
                for passes in vectors.vote_passes
                for seed in vectors.peak_thresholds_after(passes)
                for within in vectors.group_distances
            ]
        return [
            Decoding(foreground_threshold=foreground, **way)
            for way in ways
            for foreground in main.foreground_thresholds
        ]

    def _foreground(self, prediction: np.ndarray, decoding: Decoding) -> tuple[np.ndarray, np.ndarray]:
        """The main head's channels and its foreground."""
        own = self._own(prediction, self.main)
        return own, self.main.foreground(own, decoding.foreground_threshold)

    def check_channels(self, array: np.ndarray) -> None:
        """See that an array has the channels of these heads.

        Raises:
            InputError: It has others.
        """
        if array.ndim != 4 or array.shape[0] != self.channels:
            raise InputError(
                f"prediction of {self.name}",
                expected=f"({self.channels}, z, y, x), channels first",
                received=f"{array.shape}",
                remedy="name the scenario that the prediction was made with",
            )


def channels_of(counts: dict[str, int]) -> dict[str, slice]:
    """Slices of one array that hold so many channels of each name, in order."""
    slices, begin = {}, 0
    for name, count in counts.items():
        slices[name] = slice(begin, begin + count)
        begin += count
    return slices
