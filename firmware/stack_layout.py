"""StackLayout: how the bytes of a TIFF make one stack of equal slices."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tifffile
from numpy.typing import NDArray

from firmware.errors import StackError

Stored = NDArray[np.uint8] | NDArray[np.uint16]
"""(H, W) or (H, W, 3) values as the file has them."""

Pages = list[tifffile.TiffPage | tifffile.TiffFrame]

_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_RUNS_IN_Z = set("ZIQTR")
_READABLE = (tifffile.PHOTOMETRIC.MINISBLACK, tifffile.PHOTOMETRIC.RGB)


@dataclass(frozen=True)
class StackLayout:
    """`count` slices of `shape` (H, W) or (H, W, 3), in one run of bytes from `offset`, or on a page each.

    `dtype` is numpy's name with the file's byte order, as "<u2".
    """

    path: Path
    count: int
    shape: tuple[int, ...]
    dtype: str
    offset: int | None
    pages: tuple[int, ...]

    def read(self, index: int) -> Stored:
        """The stored values of one slice.

        Raises:
            StackError: The file has changed or its data are damaged.
        """
        try:
            if self.offset is None:
                return tifffile.imread(self.path, key=self.pages[index]).reshape(self.shape)
            size = int(np.prod(self.shape))
            start = self.offset + index * size * np.dtype(self.dtype).itemsize
            return np.fromfile(self.path, self.dtype, size, offset=start).reshape(self.shape)
        except Exception as error:  # a decoder that meets damaged bytes may raise anything
            raise StackError(f"slice {index} of {self.path.name} cannot be read: {error}") from error


def check_magic(path: Path) -> None:
    """Refuse what is no TIFF at all.

    Raises:
        StackError: There is no such file, or it does not begin as a TIFF.
    """
    try:
        with path.open("rb") as file:
            magic = file.read(4)
    except OSError as error:
        raise StackError(f"cannot read {path}: {error.strerror}; check the path") from error
    if magic not in _MAGIC:
        raise StackError(f"{path.name} is not a TIFF file; give a z-stack as TIFF or OME-TIFF")


def read_layout(tif: tifffile.TiffFile, path: Path) -> StackLayout:
    """Find the slices of an open file.

    Raises:
        StackError: The file is cut short, or not one stack of at least two equal grey or RGB slices.
    """
    _check_directories(tif, path)
    series = _only_series(tif, path)
    shape, count = _slice_shape(series, path)
    pages = [page for page in series.pages if page is not None]
    colours = tifffile.PHOTOMETRIC(series.keyframe.photometric)
    if colours not in _READABLE:
        raise StackError(f"{path.name} stores {colours.name.lower()} pixels; save it as plain grey or RGB")
    if series.dtype not in (np.uint8, np.uint16):
        raise StackError(f"{path.name} holds {series.dtype} pixels; save it with 8 or 16 bits, unsigned")
    if series.dataoffset is None and len(pages) != count:
        raise StackError(f"{path.name} holds {len(pages)} of {count} slices; save the stack in one file")
    dtype = np.dtype(series.dtype).newbyteorder(tif.byteorder)
    numbers = tuple(page.index for page in pages)
    layout = StackLayout(path, count, shape, dtype.str, series.dataoffset, numbers)
    _check_data(tif, layout, pages)
    return layout


def _only_series(tif: tifffile.TiffFile, path: Path) -> tifffile.TiffPageSeries:
    if not tif.series:
        raise StackError(f"{path.name} holds no image")
    if len(tif.series) > 1:
        shapes = " and ".join(sorted({"x".join(str(size) for size in s.shape) for s in tif.series}))
        raise StackError(f"{path.name} holds images of different shapes ({shapes}); a stack has one")
    return tif.series[0]


def _slice_shape(series: tifffile.TiffPageSeries, path: Path) -> tuple[tuple[int, ...], int]:
    """Shape of a slice, and how many there are."""
    axes = [(a, n) for a, n in zip(series.axes, series.shape, strict=True) if n > 1 or a in "YX"]
    letters = "".join(a for a, _ in axes)
    if letters in ("YX", "YXS"):
        raise StackError(f"{path.name} has one slice; a z-stack needs at least two")
    along, colour = letters[0] in _RUNS_IN_Z, letters[1:] == "YXS" and axes[-1][1] == 3
    if not along or not (colour or letters[1:] == "YX"):
        sizes = ", ".join(f"{a}={n}" for a, n in axes)
        raise StackError(f"{path.name} has the axes {sizes}; save one channel or RGB, one time, all z")
    return tuple(n for _, n in axes[1:]), axes[0][1]


def _check_directories(tif: tifffile.TiffFile, path: Path) -> None:
    """Every page's directory, and every value that one points to, must lie inside the file."""
    form, file = tif.tiff, tif.filehandle
    at, seen = tif.pages.first.offset, set[int]()
    while at and at not in seen:
        seen.add(at)
        file.seek(at)
        (tags,) = struct.unpack(form.tagnoformat, file.read(form.tagnosize))
        entries = file.read(tags * form.tagsize)
        for start in range(0, len(entries), form.tagsize):
            _, kind = struct.unpack(form.tagformat1, entries[start : start + 4])
            values, inline = struct.unpack(form.tagformat2, entries[start + 4 : start + form.tagsize])
            size = values * struct.calcsize(tifffile.TIFF.DATA_FORMATS.get(kind, ""))
            if size > form.offsetsize and struct.unpack(form.offsetformat, inline)[0] + size > file.size:
                raise _cut(path)
        (at,) = struct.unpack(form.offsetformat, file.read(form.offsetsize))


def _check_data(tif: tifffile.TiffFile, layout: StackLayout, pages: Pages) -> None:
    ends = [o + n for page in pages for o, n in zip(page.dataoffsets, page.databytecounts, strict=True)]
    if layout.offset is not None:
        whole = layout.count * int(np.prod(layout.shape)) * np.dtype(layout.dtype).itemsize
        ends.append(layout.offset + whole)
    if max(ends, default=0) > tif.filehandle.size:
        raise _cut(layout.path)


def _cut(path: Path) -> StackError:
    return StackError(f"{path.name} is cut short; copy it again")
