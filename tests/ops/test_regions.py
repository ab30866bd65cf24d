import pytest
import torch

from mmbiformer.ops import (
    map_to_regions,
    pad_to_regions,
    pool_regions,
    regions_to_map,
)


@pytest.mark.parametrize('size', [(8, 12), (4, 4), (16, 4)])
def test_regions_lie_row_by_row(size):
    height, width = size
    x = torch.arange(height * width).view(1, height, width, 1)
    regions = map_to_regions(x, 4)
    for index in range(16):
        row, column = index // 4, index % 4
        h, w = height // 4, width // 4
        cut = x[0, row * h : (row + 1) * h, column * w : (column + 1) * w, 0]
        assert torch.equal(regions[0, index, :, 0], cut.flatten())


def test_round_trip_of_a_non_contiguous_map():
    x = torch.rand(2, 5, 14, 21).permute(0, 2, 3, 1)
    regions = map_to_regions(x, 7)
    assert regions.shape == (2, 49, 6, 5)
    assert torch.equal(regions_to_map(regions, (14, 21), 7), x)


@pytest.mark.parametrize(
    ('size', 'padded'),
    [((1, 1), (7, 7)), ((14, 15), (14, 21)), ((7, 7), (7, 7))],
)
def test_padding_is_zero_and_on_the_right_and_bottom(size, padded):
    x = torch.rand(2, *size, 3) + 1
    out = pad_to_regions(x, 7)
    assert out.shape == (2, *padded, 3)
    assert torch.equal(out[:, : size[0], : size[1]], x)
    assert out.sum() == pytest.approx(x.sum().item())


@pytest.mark.parametrize('size', [(10, 15), (1, 1)])
def test_regions_are_pooled_by_themselves(size):
    """Rows and columns of a region that fill no window are left out."""
    x = torch.randn(2, 5 * size[0], 5 * size[1], 3)
    window = min(2, *size)
    pooled = pool_regions(x, 5, torch.nn.MaxPool2d(window))
    height, width = size[0] // window, size[1] // window
    assert pooled.shape == (2, 5 * height, 5 * width, 3)
    for row in range(5 * height):
        for column in range(5 * width):
            top = row // height * size[0] + row % height * window
            left = column // width * size[1] + column % width * window
            part = x[:, top : top + window, left : left + window]
            assert torch.equal(pooled[:, row, column], part.amax((1, 2)))
