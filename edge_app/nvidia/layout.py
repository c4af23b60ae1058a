"""Layout: where each piece of a batch lies in the GPU's memory."""

from __future__ import annotations

from dataclasses import dataclass

from edge_app.nvidia.order import MOST

PIECE = 24
_LEAST = 12
MOST_PIECES = -(-MOST // _LEAST)
_FLOAT_BYTES = 4
_ALIGNED_BYTES = 256
"""What TensorRT asks of every address (`IExecutionContext::setTensorAddress`)."""


@dataclass(frozen=True)
class Piece:
    """Patches `first` to `end` of a batch, its piece number `index`, of pieces of `stride` patches."""

    index: int
    first: int
    end: int
    stride: int

    @property
    def size(self) -> int:
        """How many patches."""
        return self.end - self.first


def pieces(count: int, stride: int) -> list[Piece]:
    """A batch in pieces of `stride`, the last perhaps smaller."""
    starts = range(0, count, stride)
    return [Piece(index, first, min(first + stride, count), stride) for index, first in enumerate(starts)]


def equal_pieces(count: int) -> list[Piece]:
    """A batch in pieces of one size, 12 to 24 patches; in one piece where none of these divides it."""
    sizes = [size for size in range(PIECE, _LEAST - 1, -1) if count % size == 0]
    return pieces(count, sizes[0] if sizes else count)


@dataclass(frozen=True)
class Layout:
    """Addresses, from the beginning of the memory for the input and for the outputs, all aligned.

    Batches of up to MOST patches fit, in pieces of any size from 12.
    """

    patch_px: int
    outputs: int

    @property
    def input_bytes(self) -> int:
        """Room for all pieces of the input."""
        return MOST * self._patch_bytes + MOST_PIECES * _ALIGNED_BYTES

    @property
    def output_bytes(self) -> int:
        """Room for all pieces of all outputs."""
        return self.outputs * self._row_bytes

    def input_at(self, piece: Piece) -> int:
        """Where a piece's patches begin."""
        return piece.index * _aligned(piece.stride * self._patch_bytes)

    def output_at(self, row: int, piece: Piece) -> int:
        """Where an output's answers for a piece begin."""
        return row * self._row_bytes + piece.index * _aligned(piece.stride * _FLOAT_BYTES)

    @property
    def _patch_bytes(self) -> int:
        return self.patch_px * self.patch_px * 3

    @property
    def _row_bytes(self) -> int:
        return _aligned(MOST * _FLOAT_BYTES) + MOST_PIECES * _ALIGNED_BYTES


def _aligned(size_bytes: int) -> int:
    return -(-size_bytes // _ALIGNED_BYTES) * _ALIGNED_BYTES
