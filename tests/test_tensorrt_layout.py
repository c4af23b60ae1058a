"""Pieces of a batch cover it, and lie in the GPU's memory apart, aligned and within what is allocated."""

from __future__ import annotations

import pytest

from edge_app.nvidia.layout import MOST_PIECES, Layout, equal_pieces, pieces
from edge_app.nvidia.order import MOST


@pytest.mark.parametrize("count", range(1, MOST + 1))
def test_pieces_cover_a_batch_and_lie_apart_and_aligned(count: int) -> None:
    for px in (8, 224, 448):
        inputs, outputs = (px * px * 3, 18 * 4), (4, 7 * 4, 4)
        layout = Layout(inputs, outputs)
        for run in (pieces(count, 24), equal_pieces(count)):
            assert len(run) <= MOST_PIECES
            assert [n for piece in run for n in range(piece.first, piece.end)] == list(range(count))
            for room, at, rows_bytes in (
                (layout.input_bytes, layout.input_at, inputs), (layout.output_bytes, layout.output_at, outputs)
            ):  # fmt: skip
                apart(room, [(at(k, piece), piece.size * size) for k, size in enumerate(rows_bytes) for piece in run])
        assert len({piece.size for piece in equal_pieces(count)}) == 1


def apart(room: int, parts: list[tuple[int, int]]) -> None:
    ends = 0
    for first, size in parts:
        assert first % 256 == 0
        assert first >= ends
        ends = first + size
    assert ends <= room
