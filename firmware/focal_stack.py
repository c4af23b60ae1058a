"""A focal stack: what one plane of pixels sees of a piece of specimen at many depths, in incoherent light (pure)."""

from __future__ import annotations

import numpy as np

from firmware.optics import Floats, Light, PupilTable, fine_ratio, passed, sampled, spectrum_of, weigh


def focal_stack(light: Light, table: PupilTable, otfs: Floats, response: tuple[float, ...]) -> Floats:
    """Images at many depths by one plane of pixels, which sums the colours by its `response`.

    As `optics.image` at each depth, summed over the colours; the light is transformed once for all depths.

    Args:
        light: (C, n, n) float32 on the fine pitch of `fine_ratio`, taken as periodic.
        table: The pupils (for optics and frequency scale).
        otfs: (Z, C, F) radial OTFs from `PupilTable.radial_otf`.
        response: (C,) shares of the colours; those of 0 are left out.

    Returns:
        (Z, m, m) float32, m = n * a / b.
    """
    a, b = fine_ratio(table.optics)
    n = light.shape[-1]
    m = n // b * a
    spectra = {c: spectrum_of(light, c) * np.complex64(share) for c, share in enumerate(response) if share}
    stack = np.empty((len(otfs), m, m), np.float32)
    for k, otf in enumerate(otfs):
        total = np.zeros((n, n // 2 + 1), np.complex64)
        for c, spectrum in spectra.items():
            part = spectrum.copy()
            weigh(part, passed(otf[c], n, table.optics))
            total += part
        sampled(total, table.optics, stack[k])
    return stack
