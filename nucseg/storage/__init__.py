"""How volumes lie on disk: formats, axes, units, OME-Zarr metadata; `nucseg.volume` is the front."""
