import numpy as np
import pytest

from mmbiformer.utils.errors import ConfigError
from mmbiformer.visualization import ImageGeometry, RegionGrid, default_points

# Odd images, resized and padded for the batch, and maps with sides that S
# does not divide. (image, scale factor (w, h), input, stride, S)
CASES = {
    'as it is': ((160, 160), (1, 1), (160, 160), 16, 5),
    'odd': ((37, 61), (1, 1), (37, 61), 4, 7),
    'resized': ((37, 61), (3.2, 1.7), (63, 195), 8, 3),
    'batch padding': ((50, 83), (2, 2), (128, 192), 16, 3),
    'more regions than tokens': ((40, 90), (1, 1), (40, 90), 16, 16),
}


@pytest.fixture(params=CASES)
def case(request):
    size, scale, given, stride, n_win = CASES[request.param]
    # Every convolution of stride 2 rounds up.
    map_size = tuple(-(-side // stride) for side in given)
    return ImageGeometry(size, scale), RegionGrid(n_win, map_size, stride)


def test_every_pixel_lies_in_the_box_of_its_region(case):
    geometry, grid = case
    height, width = geometry.size
    for y in range(height):
        for x in range(width):
            point = (x + 0.5, y + 0.5)
            region = grid.region_at(point, geometry)
            left, top, right, bottom = grid.region_box(region, geometry)
            assert left <= point[0] <= right
            assert top <= point[1] <= bottom


def test_boxes_tile_the_image(case):
    geometry, grid = case
    boxes = np.array(
        [grid.region_box(i, geometry) for i in range(grid.n_win**2)]
    )
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    assert areas.min() >= 0
    np.testing.assert_allclose(areas.sum(), np.prod(geometry.size))
    for i in range(grid.n_win**2):
        if areas[i] > 0:
            centre = (boxes[i, :2] + boxes[i, 2:]) / 2
            assert grid.region_at(tuple(centre), geometry) == i


def test_a_padded_map_by_hand():
    """A map of 5 x 7 tokens, padded to 6 x 9: regions of 2 x 3 tokens."""
    grid = RegionGrid(n_win=3, map_size=(5, 7), stride=8)
    geometry = ImageGeometry((20, 28), scale_factor=(2, 2))
    assert grid.padded_size == (6, 9)
    assert grid.padding == (1, 2)
    assert grid.region_size == (2, 3)
    # Input (54, 38) is in token column 6, row 4, which are region 2 and 2.
    assert grid.token_at((27, 19), geometry) == (4, 6)
    assert grid.region_at((27, 19), geometry) == 8
    # Tokens are 4 px wide in the image; the last region is cut at its edge.
    assert grid.region_box(8, geometry) == (24, 16, 28, 20)
    assert grid.region_box(1, geometry) == (12, 0, 24, 8)
    assert grid.map_extent(geometry) == (0, 28, 20, 0)


def test_a_cropped_image():
    """60 x 80 px, enlarged to 256 x 341, of which 224 x 224 are seen."""
    geometry = ImageGeometry.from_metainfo(
        dict(
            ori_shape=(60, 80),
            img_shape=(224, 224),
            scale_factor=(341 / 80, 256 / 60),
        )
    )
    # 16 px are cut off at the top, and 58.5 at the left.
    np.testing.assert_allclose(geometry.to_input((40, 30)), (112, 112))
    np.testing.assert_allclose(geometry.to_image((112, 112)), (40, 30))
    left, top, right, bottom = geometry.visible
    np.testing.assert_allclose(geometry.to_input((left, top)), 0, atol=1e-9)
    np.testing.assert_allclose(geometry.to_input((right, bottom)), 224)
    grid = RegionGrid(n_win=7, map_size=(14, 14), stride=16)
    assert grid.region_box(0, geometry)[:2] == pytest.approx((left, top))
    assert grid.region_at((left + 0.1, bottom - 0.1), geometry) == 42
    for point in default_points((60, 80), geometry.visible):
        geometry.check_point(point)
    with pytest.raises(ConfigError, match='cuts off: x must be at least 13.7'):
        grid.region_at((5, 30), geometry)


@pytest.mark.parametrize('direction', ['horizontal', 'vertical', 'diagonal'])
def test_flipped_images(direction):
    grid = RegionGrid(n_win=2, map_size=(4, 6), stride=4)
    geometry = ImageGeometry((16, 24), flip_direction=direction)
    x, y = geometry.to_input((1, 2))
    assert x == (23 if direction != 'vertical' else 1)
    assert y == (14 if direction != 'horizontal' else 2)
    np.testing.assert_allclose(geometry.to_image((x, y)), (1, 2))
    for point in [(0, 0), (1, 2), (23, 15)]:
        region = grid.region_at(point, geometry)
        left, top, right, bottom = grid.region_box(region, geometry)
        assert left <= point[0] <= right
        assert top <= point[1] <= bottom


def test_metainfo_of_detection_and_segmentation():
    # Detection, padded by its pipeline: img_shape includes the padding.
    geometry = ImageGeometry.from_metainfo(
        dict(
            ori_shape=(50, 100), img_shape=(640, 640), scale_factor=(6.4, 6.4),
            batch_input_shape=(640, 640),
        )
    )  # fmt: skip
    assert geometry == ImageGeometry((50, 100), (6.4, 6.4))
    # Segmentation, resized to a multiple: scale_factor does not know.
    geometry = ImageGeometry.from_metainfo(
        dict(ori_shape=(50, 100), img_shape=(64, 128), scale_factor=(1, 1))
    )
    assert geometry == ImageGeometry((50, 100), (1.28, 1.28))
    geometry = ImageGeometry.from_metainfo(
        dict(
            ori_shape=(50, 100), img_shape=(50, 100), flip=True,
            flip_direction='horizontal',
        )
    )  # fmt: skip
    assert geometry.flip_direction == 'horizontal'


@pytest.mark.parametrize('point', [(-1, 5), (100, 5), (5, 50), (5, -0.1)])
def test_points_outside_are_refused(point):
    grid = RegionGrid(n_win=2, map_size=(13, 25), stride=4)
    with pytest.raises(ValueError, match='100 pixels wide and 50 high'):
        grid.region_at(point, ImageGeometry((50, 100)))


def test_unknown_flips_are_refused():
    with pytest.raises(ValueError, match="flip_direction='left'"):
        ImageGeometry((1, 1), flip_direction='left')
