"""What makes a synthetic worm easy or hard: the dials of packing, staining, optics and camera."""

from dataclasses import dataclass

from nucseg.errors import InputError

HEAD_RADIUS_UM = 0.625
"""Mean radius of a nucleus of the head, um (5.3 voxels at the default scale)."""
BODY_RADIUS_UM = 0.72
"""Mean radius of a nucleus of the body, um (6.1 voxels at the default scale)."""
RADIUS_SPREAD = 0.09
"""Standard deviation of the logarithm of a nucleus's radius."""


@dataclass(frozen=True)
class Difficulty:
    """The dials of one difficulty. Lengths are um; brightness is relative to a mean nucleus of brightness 1.

    Attributes:
        name: What `synthesize` calls it.
        head_share: Share of the nuclei that are crowded into the head.
        head_packing: Share of the head's volume that its nuclei fill; above about 0.6 some are pushed out of it.
        contact: Distance of two neighbours that push each other, as a share of the distance at which their
            ellipsoids touch: below 1 they press into each other, above 1 a gap stays.
        brightness_spread: Standard deviation of the logarithm of a nucleus's brightness.
        texture: Amplitude of the chromatin's speckle.
        grain_um: Size of the speckle's grains.
        nucleolus: How much darker the nucleolus is (1: black).
        envelope: How much the stain falls towards the nucleus's surface (1: to nothing).
        autofluorescence: Brightness of the worm's body outside of the nuclei.
        blur_um: Standard deviation of the Gaussian point spread function, z, y, x.
        attenuation: Light from the far side of the volume is weaker by `exp(-attenuation)`.
        photons: Photons counted in a voxel of brightness 1.
        read_noise: Standard deviation of the camera's Gaussian noise, photons.
    """

    name: str
    head_share: float
    head_packing: float
    contact: float
    brightness_spread: float
    texture: float
    grain_um: float
    nucleolus: float
    envelope: float
    autofluorescence: float
    blur_um: tuple[float, float, float]
    attenuation: float
    photons: float
    read_noise: float


DIFFICULTIES = {
    level.name: level
    for level in (
        Difficulty(
            name="easy",
            head_share=0.65,
            head_packing=0.5,
            contact=1.12,
            brightness_spread=0.15,
            texture=0.15,
            grain_um=0.3,
            nucleolus=0.0,
            envelope=0.6,
            autofluorescence=0.04,
            blur_um=(0.18, 0.10, 0.10),
            attenuation=0.2,
            photons=120.0,
            read_noise=2.0,
        ),
        Difficulty(
            name="worm",
            head_share=0.7,
            head_packing=0.645,
            contact=0.94,
            brightness_spread=0.45,
            texture=0.8,
            grain_um=0.42,
            nucleolus=0.8,
            envelope=0.4,
            autofluorescence=0.08,
            blur_um=(0.2, 0.104, 0.104),
            attenuation=0.7,
            photons=300.0,
            read_noise=3.0,
        ),
        Difficulty(
            name="hard",
            head_share=0.75,
            head_packing=0.68,
            contact=0.93,
            brightness_spread=0.35,
            texture=0.75,
            grain_um=0.46,
            nucleolus=0.7,
            envelope=0.25,
            autofluorescence=0.12,
            blur_um=(0.305, 0.162, 0.162),
            attenuation=0.8,
            photons=30.0,
            read_noise=4.0,
        ),
    )
}


def difficulty_named(name: str) -> Difficulty:
    """Look up a difficulty.

    Raises:
        InputError: When there is none of that name.
    """
    if name not in DIFFICULTIES:
        raise InputError(
            "difficulty",
            expected=f"one of {', '.join(DIFFICULTIES)}",
            received=repr(name),
            remedy="choose one of these",
        )
    return DIFFICULTIES[name]
