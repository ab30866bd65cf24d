import matplotlib
import numpy as np
import pytest
import torch
from matplotlib.colors import to_rgb

from mmbiformer import BiFormer
from mmbiformer.visualization import (
    ImageGeometry,
    draw_routing,
    draw_stages,
    draw_usage,
    record_routing,
    to_image,
)
from mmbiformer.visualization.drawing import COLOR_MAP, QUERY_COLOR

SIZE = (111, 233)
QUERY = np.array(to_rgb(QUERY_COLOR)) * 255


@pytest.fixture(scope='module')
def image():
    """Dark noise, which has nothing of the query's colour."""
    return np.random.default_rng(0).integers(
        0, 120, (*SIZE, 3), dtype=np.uint8
    )


@pytest.fixture(scope='module')
def records():
    torch.manual_seed(0)
    arch = dict(depths=(1, 1, 2, 1), dims=(32, 32, 64, 64))
    model = BiFormer(arch=arch, n_win=5, topks=(1, 4, 6, -2)).eval()
    layers = [(1, 1), (2, 1), (3, -1), (4, 1)]
    # The image is twice as large in the network's input.
    x = torch.randn(1, 3, 2 * SIZE[0], 2 * SIZE[1])
    with (
        torch.no_grad(),
        record_routing(model, layers, True, routed=False) as records,
    ):
        model(x)
    return records


@pytest.fixture(scope='module')
def geometry():
    return ImageGeometry(SIZE, (2, 2))


def place(picture, axes, point):
    """Return where a point of the image lies in the picture."""
    x, y = axes.transData.transform(point)
    return int(round(picture.shape[0] - 1 - y)), int(round(x))


def has_color(picture, row, column, color, margin=2):
    """Tell whether a colour is at a place, within antialiasing."""
    patch = picture[
        max(0, row - margin) : row + margin + 1,
        max(0, column - margin) : column + margin + 1,
    ].astype(float)
    return (np.abs(patch - color).max(axis=-1) < 25).any()


def edge_points(box):
    """Return points on all four edges of a box, away from its corners."""
    left, top, right, bottom = box
    for share in (0.25, 0.75):
        x, y = left + share * (right - left), top + share * (bottom - top)
        yield from [(x, top), (x, bottom), (left, y), (right, y)]


def test_the_query_is_outlined_at_its_region(image, records, geometry):
    record = records[3, -1]
    points = [(20, 15), (200, 100)]
    figure = draw_routing(image, record, points, geometry)
    picture = to_image(figure)
    panels = [axes for axes in figure.axes if axes.images]
    assert len(panels) == 6  # three in each of two rows
    for row, point in enumerate(points):
        region = record.grid.region_at(point, geometry)
        for axes in panels[3 * row : 3 * row + 2]:
            for on_edge in edge_points(
                record.grid.region_box(region, geometry)
            ):
                assert has_color(
                    picture, *place(picture, axes, on_edge), QUERY
                )
            assert has_color(picture, *place(picture, axes, point), QUERY)
            # Not so the next but one.
            other = record.grid.region_box((region + 12) % 25, geometry)
            for on_edge in edge_points(other):
                assert not has_color(
                    picture, *place(picture, axes, on_edge), QUERY
                )


def test_panels_have_the_ratio_of_the_image(image, records, geometry):
    figure = draw_routing(image, records[3, -1], [(20, 15)], geometry)
    assert to_image(figure).shape[2] == 3
    for axes in figure.axes:
        if axes.images:
            box = axes.get_window_extent()
            assert box.width / box.height == pytest.approx(
                SIZE[1] / SIZE[0], rel=0.01
            )


def colorfulness(picture, axes, box):
    """Return the median difference of channels inside a box."""
    left, top, right, bottom = box
    dx, dy = 0.25 * (right - left), 0.25 * (bottom - top)
    y0, x0 = place(picture, axes, (left + dx, top + dy))
    y1, x1 = place(picture, axes, (right - dx, bottom - dy))
    inside = picture[y0:y1, x0:x1].astype(float)
    return np.median(np.ptp(inside, axis=-1)), np.median(inside, axis=(0, 1))


def test_routed_regions_and_they_alone_are_shaded(image, records, geometry):
    """The image has colours, but its pale copy is grey."""
    record = records[3, -1]
    point = (120, 60)
    figure = draw_routing(image, record, [point], geometry)
    picture = to_image(figure)
    axes = [axes for axes in figure.axes if axes.images][1]
    region = record.grid.region_at(point, geometry)
    routed = record.routing[0, region].tolist()
    shades = matplotlib.colormaps[COLOR_MAP]
    seen = []
    for other in range(25):
        left, top, right, bottom = box = record.grid.region_box(
            other, geometry
        )
        if right - left < 8 or bottom - top < 8 or other == region:
            continue
        colored, color = colorfulness(picture, axes, box)
        assert (colored > 20) == (other in routed), other
        seen.append(other)
        for rank, shade in ((0, 1.0), (-1, 0.0)):
            if other == routed[rank]:
                tint = np.array(shades(shade)[:3]) * 255
                # 0.72 of the shade over a pale grey of 150 to 198.
                grey = (color - 0.72 * tint) / 0.28
                assert 140 < grey.min() <= grey.max() < 210
    assert set(routed) & set(seen)


def test_attention_is_drawn_where_tokens_are_attended(
    image, records, geometry
):
    record = records[2, 1]
    point = (120, 60)
    figure = draw_routing(image, record, [point], geometry)
    axes = [axes for axes in figure.axes if axes.images][2]
    heat = axes.images[1]
    attention = record.attention([record.grid.token_at(point, geometry)])[0]
    height, width = record.grid.map_size
    np.testing.assert_allclose(
        heat.get_array().filled(0), attention[:height, :width], rtol=1e-6
    )
    # 8 px of the input are 4 px of the image.
    assert heat.get_extent() == [0, 4 * width, 4 * height, 0]
    assert axes.get_xlim() == (0, SIZE[1])


def test_all_stages_side_by_side(image, records, geometry):
    figure = draw_stages(image, list(records.values()), [(20, 15)], geometry)
    titles = [axes.get_title() for axes in figure.axes if axes.get_title()]
    assert titles == [
        'Input',
        'Stage 1, block 1 of 1\n1 of 25 regions',
        'Stage 2, block 1 of 1\n4 of 25 regions',
        'Stage 3, block 2 of 2\n6 of 25 regions',
        'Stage 4, block 1 of 1\nglobal attention',
    ]
    assert len([axes for axes in figure.axes if axes.images]) == 9


@pytest.mark.parametrize('size', [(30, 400), (400, 30), (111, 233)])
def test_no_text_overlaps(records, size):
    """For images of any shape, with titles inside the picture."""
    scale = (2 * SIZE[1] / size[1], 2 * SIZE[0] / size[0])
    geometry = ImageGeometry(size, scale)
    image = np.zeros((*size, 3), np.uint8)
    points = [(3, 3), (size[1] - 3, size[0] - 3)]
    for figure in (
        draw_routing(image, records[3, -1], points, geometry),
        draw_stages(image, list(records.values()), points, geometry),
    ):
        figure.canvas.draw()
        texts = [
            text
            for axes in figure.axes
            for text in (axes.title, *axes.texts)
            if text.get_text()
        ]
        boxes = [text.get_window_extent() for text in texts + figure.texts]
        for i, box in enumerate(boxes):
            assert box.x0 >= 0 and box.y0 >= 0
            assert box.x1 <= figure.bbox.x1 and box.y1 <= figure.bbox.y1
            for other in boxes[i + 1 :]:
                assert not box.overlaps(other)


def test_usage(records):
    routed = [records[key] for key in ((1, 1), (3, 2))]
    figure = draw_usage(routed)
    cells = [axes.images[0].get_array() for axes in figure.axes if axes.images]
    # As many routes as regions times K.
    assert cells[0].sum() == pytest.approx(1)
    assert cells[1].sum() == pytest.approx(6)


def test_bad_input(image, records, geometry):
    record = records[3, -1]
    with pytest.raises(ValueError, match='outside the image'):
        draw_routing(image, record, [(233, 0)], geometry)
    with pytest.raises(ValueError, match='at least one point'):
        draw_routing(image, record, [], geometry)
    with pytest.raises(ValueError, match=r'\(111, 233, 3\).*\(222, 233, 3\)'):
        draw_stages(np.repeat(image, 2, 0), [record], [(0, 0)], geometry)
