"""The classical focus measures: what each one is, on whole frames and on windows.

Six that DeepFocus is compared with (A. Shajkofci and M. Liebling, ISBI 2020): high-pass energy, Tenengrad, variance
of the Laplacian, energy of wavelet coefficients, sum-modified-Laplacian, wavelet sparsity. Nine that make weak labels:
Brenner, Tenengrad (here once), Laplacian, sum-modulus-difference, Vollath (both F4 and F5), standard deviation,
variance, entropy, discrete wavelet transform.

A measure takes (..., H, W) float32 grey, counts of 0 to 255, at least 16x16, and gives (...,) float64. All are written
so that larger means sharper. Sums become means over their terms, <>, and all but entropy and sparsity are divided by
the mean brightness m (by m^2 where squares are summed; m counts as 1 where it is less), so that neither size nor lamp
counts. Nothing is padded: a term that would reach over the edge is left out. Nothing is smoothed beforehand; noise
counts for all of them, and whoever wants less of it smooths first.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from edge_app.patches import PatchGrid

Grey = NDArray[np.float32]
Values = NDArray[np.float64]
_HIGH_PASS_SIGMA_PX = 2.0
_HIGH_PASS_REACH_PX = 6
_WAVELET_LEVELS = 3
_SPARSE_SHARE = 0.01
_ROOT = np.sqrt(5 + 2 * np.sqrt(10))
D6 = np.array(
    [
        1 + np.sqrt(10) + _ROOT,
        5 + np.sqrt(10) + 3 * _ROOT,
        10 - 2 * np.sqrt(10) + 2 * _ROOT,
        10 - 2 * np.sqrt(10) - 2 * _ROOT,
        5 + np.sqrt(10) - 3 * _ROOT,
        1 + np.sqrt(10) - _ROOT,
    ]
) / (16 * np.sqrt(2))
"""(6,) scaling filter of three vanishing moments: I. Daubechies, Comm. Pure Appl. Math. 41, 909 (1988)."""


def windows(grey: Grey, side_px: int) -> Grey:
    """The square windows of a centred grid without overlap, in reading order.

    Args:
        grey: (..., H, W) float32.
        side_px: Their side.

    Returns:
        (..., N, side, side) float32, cut as `PatchGrid.fit` cuts.

    Raises:
        GridTooLarge: Not one window fits.
    """
    height_px, width_px = grey.shape[-2:]
    grid = PatchGrid.fit(height_px, width_px, side_px)
    bottom, right = grid.top_px + grid.rows * side_px, grid.left_px + grid.columns * side_px
    inside = grey[..., grid.top_px : bottom, grid.left_px : right]
    tiles = inside.reshape(*grey.shape[:-2], grid.rows, side_px, grid.columns, side_px).swapaxes(-3, -2)
    return np.ascontiguousarray(tiles).reshape(*grey.shape[:-2], grid.count, side_px, side_px)


def high_pass_energy(grey: Grey) -> Values:
    """HPF: <(I - G * I)^2> / m^2, G a Gaussian of 2 pixels.

    After the high-pass filtered power of L. Firestone et al., Cytometry 12, 195 (1991). No source fixes the cut; here
    half the amplitude passes at 0.094 cycles per pixel.
    """
    reach = _HIGH_PASS_REACH_PX
    distance_px = np.arange(-reach, reach + 1)
    taps = np.exp(-0.5 * (distance_px / _HIGH_PASS_SIGMA_PX) ** 2)
    low = _filtered(_filtered(grey, taps / taps.sum(), -1), taps / taps.sum(), -2)
    return _mean_square(grey[..., reach:-reach, reach:-reach] - low) / _lamp(grey) ** 2


def tenengrad(grey: Grey) -> Values:
    """<Gx^2 + Gy^2> / m^2, Gx and Gy Sobel gradients (3x3, weights 1 2 1); no threshold.

    J. M. Tenenbaum, thesis, Stanford (1970); E. Krotkov, Int. J. Comput. Vis. 1, 223 (1987).
    """
    smooth, slope = np.array([1.0, 2.0, 1.0]), np.array([-1.0, 0.0, 1.0])
    across = _filtered(_filtered(grey, slope, -1), smooth, -2)
    down = _filtered(_filtered(grey, smooth, -1), slope, -2)
    return (_mean_square(across) + _mean_square(down)) / _lamp(grey) ** 2


def laplacian_variance(grey: Grey) -> Values:
    """LAPV: <(L - <L>)^2> / m^2, L the Laplacian of 5 points.

    J. L. Pech-Pacheco et al., ICPR 3, 314 (2000).
    """
    response = _laplacian(grey)
    return np.asarray(response.var(axis=(-2, -1), dtype=np.float64) / _lamp(grey) ** 2, np.float64)


def wavelet_energy(grey: Grey) -> Values:
    """EWC: <W_LH^2> + <W_HL^2> + <W_HH^2>, over m^2: energy of the finest level of Daubechies' D6 wavelet.

    G. Yang and B. J. Nelson, IROS, 2143 (2003). D6 is read as the filter of six taps.
    """
    bands, _ = _decomposed(_centred(grey))
    return sum((_mean_square(band) for band in bands), _nothing(grey)) / _lamp(grey) ** 2


def modified_laplacian(grey: Grey) -> Values:
    """SML: <|2 I(x) - I(x-1) - I(x+1)| + |2 I(y) - I(y-1) - I(y+1)|> / m; step of one pixel, no threshold.

    S. K. Nayar and Y. Nakagawa, IEEE Trans. PAMI 16, 824 (1994).
    """
    inner = 2 * grey[..., 1:-1, 1:-1]
    across = inner - grey[..., 1:-1, :-2] - grey[..., 1:-1, 2:]
    down = inner - grey[..., :-2, 1:-1] - grey[..., 2:, 1:-1]
    return _mean(np.abs(across) + np.abs(down)) / _lamp(grey)


def wavelet_sparsity(grey: Grey) -> Values:
    """WS: which part of the energy of the wavelet coefficients lies in the largest hundredth of them, 0 to 1.

    After M. Liebling and M. Unser, J. Opt. Soc. Am. A 21, 2424 (2004), who take the largest Fresnelet coefficients of
    a hologram; here the details of three levels of D6 (fewer where the image is small).
    """
    rest, details = _centred(grey), []
    for _ in range(_WAVELET_LEVELS):
        if min(rest.shape[-2:]) < len(D6) + 2:
            break
        bands, rest = _decomposed(rest)
        details += [band.reshape(*grey.shape[:-2], -1) for band in bands]
    energy = np.square(np.concatenate(details, axis=-1), dtype=np.float64)
    kept = max(round(_SPARSE_SHARE * energy.shape[-1]), 1)
    largest = np.partition(energy, -kept, axis=-1)[..., -kept:].sum(axis=-1)
    return np.asarray(largest / np.maximum(energy.sum(axis=-1), 1e-12), np.float64)


def brenner(grey: Grey) -> Values:
    """<(I(x+2) - I(x))^2> + <(I(y+2) - I(y))^2>, over m^2; the source goes along x only.

    J. F. Brenner et al., J. Histochem. Cytochem. 24, 100 (1976).
    """
    across, down = grey[..., 2:] - grey[..., :-2], grey[..., 2:, :] - grey[..., :-2, :]
    return (_mean_square(across) + _mean_square(down)) / _lamp(grey) ** 2


def laplacian(grey: Grey) -> Values:
    """Energy of the Laplacian: <L^2> / m^2, L of 5 points.

    M. Subbarao, T. Choi and A. Nikzad, Opt. Eng. 32, 2824 (1993).
    """
    return _mean_square(_laplacian(grey)) / _lamp(grey) ** 2


def modulus_difference(grey: Grey) -> Values:
    """SMD: <|I(x+1) - I(x)|> + <|I(y+1) - I(y)|>, over m.

    R. A. Jarvis, Microscope 24, 163 (1976).
    """
    across, down = np.diff(grey, axis=-1), np.diff(grey, axis=-2)
    return (_mean(np.abs(across)) + _mean(np.abs(down))) / _lamp(grey)


def vollath_f4(grey: Grey) -> Values:
    """F4: (sum I(x) I(x+1) - sum I(x) I(x+2)) / m^2, along x and along y.

    D. Vollath, J. Microsc. 147, 279 (1987). As written the two sums have different numbers of terms and leave the
    light at the edge in; here the image's mean is taken off first and each sum is a mean over its own terms.
    """
    centred = _centred(grey)
    near = _correlation(centred, 1, -1) + _correlation(centred, 1, -2)
    far = _correlation(centred, 2, -1) + _correlation(centred, 2, -2)
    return (near - far) / _lamp(grey) ** 2


def vollath_f5(grey: Grey) -> Values:
    """F5: (sum I(x) I(x+1) - M N mean^2) / m^2, along x and along y; the mean is taken off first, as in F4.

    D. Vollath, J. Microsc. 151, 133 (1988).
    """
    centred = _centred(grey)
    return (_correlation(centred, 1, -1) + _correlation(centred, 1, -2)) / _lamp(grey) ** 2


def standard_deviation(grey: Grey) -> Values:
    """Sqrt(<(I - m)^2>) / m: the root of `variance`.

    F. C. A. Groen, I. T. Young and G. Ligthart, Cytometry 6, 81 (1985).
    """
    return np.asarray(np.sqrt(variance(grey)), np.float64)


def variance(grey: Grey) -> Values:
    """<(I - m)^2> / m^2.

    F. C. A. Groen, I. T. Young and G. Ligthart, Cytometry 6, 81 (1985): their normalised variance is over m.
    """
    return _mean_square(_centred(grey)) / _lamp(grey) ** 2


def entropy(grey: Grey) -> Values:
    """-sum p log2 p over the histogram of 256 counts, in bits; it depends on the lamp.

    L. Firestone et al., Cytometry 12, 195 (1991).
    """
    levels = np.clip(np.rint(grey), 0, 255).astype(np.uint8).reshape(-1, grey.shape[-2] * grey.shape[-1])
    shares = np.stack([np.bincount(one, minlength=256) for one in levels]) / levels.shape[-1]
    bits = -np.sum(shares * np.log2(np.where(shares > 0, shares, 1.0)), axis=-1)
    return np.asarray(bits.reshape(grey.shape[:-2]) + 0.0, np.float64)


def wavelet_transform(grey: Grey) -> Values:
    """DWT: <|W_LH|> + <|W_HL|> + <|W_HH|>, over m: magnitude of the finest level of Daubechies' D6 wavelet.

    Y. Sun, S. Duthaler and B. J. Nelson, Microsc. Res. Tech. 65, 139 (2004), their first wavelet function.
    """
    bands, _ = _decomposed(_centred(grey))
    return sum((_mean(np.abs(band)) for band in bands), _nothing(grey)) / _lamp(grey)


MEASURES: dict[str, Callable[[Grey], Values]] = {
    "high_pass_energy": high_pass_energy,
    "tenengrad": tenengrad,
    "laplacian_variance": laplacian_variance,
    "wavelet_energy": wavelet_energy,
    "modified_laplacian": modified_laplacian,
    "wavelet_sparsity": wavelet_sparsity,
    "brenner": brenner,
    "laplacian": laplacian,
    "modulus_difference": modulus_difference,
    "vollath_f4": vollath_f4,
    "vollath_f5": vollath_f5,
    "standard_deviation": standard_deviation,
    "variance": variance,
    "entropy": entropy,
    "wavelet_transform": wavelet_transform,
}


def _decomposed(image: Grey) -> tuple[list[Grey], Grey]:
    """One level of the wavelet: ([LH, HL, HH], LL), (..., (H - 6) // 2 + 1, (W - 6) // 2 + 1) each."""
    detail = D6[::-1] * (-1.0) ** np.arange(len(D6))
    low, high = (_filtered(image, taps, -1, 2) for taps in (D6, detail))
    bands = [_filtered(low, detail, -2, 2), _filtered(high, D6, -2, 2), _filtered(high, detail, -2, 2)]
    return bands, _filtered(low, D6, -2, 2)


def _filtered(image: Grey, taps: NDArray[np.float64], axis: int, stride: int = 1) -> Grey:
    """Correlate along one axis of (..., H, W), where all taps fall inside, at every `stride` pixels."""
    image = image if axis == -1 else image.swapaxes(-1, -2)
    count = image.shape[-1] - len(taps) + 1
    out = sum(np.float32(tap) * image[..., at : at + count : stride] for at, tap in enumerate(taps) if tap)
    out = np.asarray(out, np.float32)
    return out if axis == -1 else out.swapaxes(-1, -2)


def _laplacian(grey: Grey) -> Grey:
    """(..., H - 2, W - 2): the sum of four neighbours less four times the pixel."""
    sides = grey[..., 1:-1, :-2] + grey[..., 1:-1, 2:] + grey[..., :-2, 1:-1] + grey[..., 2:, 1:-1]
    return np.asarray(sides - 4 * grey[..., 1:-1, 1:-1], np.float32)


def _correlation(image: Grey, lag_px: int, axis: int) -> Values:
    image = image if axis == -1 else image.swapaxes(-1, -2)
    return _mean(image[..., lag_px:] * image[..., :-lag_px])


def _centred(grey: Grey) -> Grey:
    return np.asarray(grey - grey.mean(axis=(-2, -1), keepdims=True, dtype=np.float64), np.float32)


def _lamp(grey: Grey) -> Values:
    return np.maximum(_mean(grey), 1.0)


def _mean(image: Grey) -> Values:
    return np.asarray(image.mean(axis=(-2, -1), dtype=np.float64), np.float64)


def _mean_square(image: Grey) -> Values:
    return _mean(np.square(image))


def _nothing(grey: Grey) -> Values:
    return np.zeros(grey.shape[:-2], np.float64)
