"""Layout: where each piece of a batch lies in the GPU's memory."""

from __future__ import annotations

from dataclasses import dataclass

from edge_app.nvidia.order import MOST

PIECE = 24
_LEAST = 12
MOST_PIECES = -(-MOST // _LEAST)
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

    Batches of up to MOST patches fit, in pieces of any size from 12. `inputs` and `outputs` are the bytes of a patch's
    row in each.
    """

    inputs: tuple[int, ...]
    outputs: tuple[int, ...]

    @property
    def input_bytes(self) -> int:
        """Room for all pieces of all inputs."""
        return sum(map(_room, self.inputs))

    @property
    def output_bytes(self) -> int:
        """Room for all pieces of all outputs."""
        return sum(map(_room, self.outputs))

    def input_at(self, index: int, piece: Piece) -> int:
        """Where a piece begins in the input of this number."""
        return _at(self.inputs, index, piece)

    def output_at(self, index: int, piece: Piece) -> int:
        """Where the answers for a piece begin in the output of this number."""
        return _at(self.outputs, index, piece)


def _at(rows_bytes: tuple[int, ...], index: int, piece: Piece) -> int:
    before = sum(map(_room, rows_bytes[:index]))
    return before + piece.index * _aligned(piece.stride * rows_bytes[index])


def _room(row_bytes: int) -> int:
    return _aligned(MOST * row_bytes) + MOST_PIECES * _ALIGNED_BYTES


def _aligned(size_bytes: int) -> int:
    return -(-size_bytes // _ALIGNED_BYTES) * _ALIGNED_BYTES
