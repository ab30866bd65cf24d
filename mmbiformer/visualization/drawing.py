"""Draw the routed regions and the attention of points over an image."""

from typing import NamedTuple, Optional, Sequence, Tuple

import matplotlib
import numpy as np
from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.gridspec import GridSpec, SubplotSpec
from matplotlib.patches import Rectangle

from .geometry import ImageGeometry
from .recording import LayerRecord
from .statistics import region_usage

COLOR_MAP = 'viridis'
"""str: Readable with color vision deficiency; brighter means more."""
QUERY_COLOR = '#D55E00'
"""str: Outline of the query, a color that is not in :data:`COLOR_MAP`."""

Point = Tuple[float, float]

# Inches. Panels of all aspect ratios get about the same area, and each a cell
# that is large enough for its labels.
_PANEL_AREA = 2.3**2
_MAX_SIDE = 4.0
_MIN_CELL = (2.1, 0.9)
_COLOR_BAR = 0.6
_TITLE = 0.5
_DPI = 120


class _Query(NamedTuple):
    """A point of an image, as the query of one layer.

    Attributes:
        record (LayerRecord): What the layer computed.
        point (tuple[float, float]): The point (x, y), in pixels of the image.
        geometry (ImageGeometry): How the image lies in the network's input.
        index (int): Index of the image in the batch.
    """

    record: LayerRecord
    point: Point
    geometry: ImageGeometry
    index: int

    @property
    def region(self) -> int:
        """int: Index of the region that contains the point."""
        return self.record.grid.region_at(self.point, self.geometry)

    def region_box(self, region: int) -> Tuple[float, float, float, float]:
        """Return the edges of a region, in pixels of the image."""
        return self.record.grid.region_box(region, self.geometry)


def _make_figure(
    image_size: Tuple[int, int], rows: int, columns: int
) -> Tuple[Figure, GridSpec]:
    """Create a figure and a grid of cells that fit panels of an image."""
    ratio = image_size[1] / image_size[0]
    panel = np.sqrt([_PANEL_AREA * ratio, _PANEL_AREA / ratio])
    panel *= min(1, _MAX_SIDE / panel.max())
    width, height = np.maximum(panel, _MIN_CELL)
    size = columns * (width + _COLOR_BAR), rows * height + _TITLE
    figure = Figure(size, dpi=_DPI, facecolor='white', layout='constrained')
    FigureCanvasAgg(figure)
    return figure, figure.add_gridspec(rows, columns)


def _add_panel(
    figure: Figure,
    cell: SubplotSpec,
    image: np.ndarray,
    title: str = '',
    label: str = '',
) -> Axes:
    """Add a panel whose data coordinates are pixels of the image."""
    height, width = image.shape[:2]
    axes = figure.add_subplot(cell)
    axes.imshow(image, extent=(0, width, height, 0))
    axes.set(xticks=[], yticks=[])
    axes.set_title(title, fontsize=9, pad=5)
    axes.set_ylabel(label, fontsize=8)
    return axes


def _add_color_bar(axes: Axes, norm: Normalize, percent: bool = False) -> None:
    """Add a color bar, with its ends labeled, to the right of a panel."""
    low, high = _format_ends(norm.vmin, norm.vmax, percent)
    if low == high:
        axes.annotate(
            high, (1, 0.5), (4, 0), xycoords='axes fraction',
            textcoords='offset points', fontsize=7, va='center',
            annotation_clip=False,
        )  # fmt: skip
        return
    bar = axes.figure.colorbar(
        ScalarMappable(norm, COLOR_MAP),
        cax=axes.inset_axes((1.03, 0, 0.05, 1)),
        ticks=[norm.vmin, norm.vmax],
    )
    bar.outline.set_visible(False)
    bar.ax.tick_params(length=0)
    labels = bar.ax.set_yticklabels([low, high], fontsize=7)
    for label, alignment in zip(labels, ('bottom', 'top'), strict=True):
        label.set_va(alignment)


def _format_percent(share: float, digits: int = 2) -> str:
    """Format a share as a percentage."""
    return '100 %' if share > 0.995 else f'{100 * share:.{digits}g} %'


def _format_ends(low: float, high: float, percent: bool) -> Tuple[str, str]:
    """Format two values with the fewest digits that distinguish them."""
    for digits in range(2, 5):
        texts = [
            _format_percent(value, digits)
            if percent
            else f'{value:.{digits}g}'
            for value in (low, high)
        ]
        if texts[0] != texts[1]:
            break
    return texts[0], texts[1]


def _fade(image: np.ndarray) -> np.ndarray:
    """Turn an RGB image into a pale gray one, to draw colors on."""
    gray = image @ np.array([0.299, 0.587, 0.114])
    return np.repeat(150 + 0.4 * gray[..., None], 3, axis=-1).astype(np.uint8)


def _add_box(
    axes: Axes, box: Tuple[float, float, float, float], **style
) -> Rectangle:
    """Add a rectangle by its left, top, right and bottom edge."""
    left, top, right, bottom = box
    return axes.add_patch(
        Rectangle((left, top), right - left, bottom - top, **style)
    )


def _add_note(axes: Axes, text: str) -> None:
    """Write a line into the lower right corner of a panel."""
    axes.annotate(
        text, (1, 0), (-3, 3), xycoords='axes fraction',
        textcoords='offset points', fontsize=7, ha='right',
        bbox=dict(facecolor='white', alpha=0.85, linewidth=0, pad=1.5),
    )  # fmt: skip


def _mark_query(axes: Axes, query: _Query, outline: bool = True) -> None:
    """Mark the query point, and outline its region."""
    if outline and query.record.routing is not None:
        box = _add_box(
            axes, query.region_box(query.region), fill=False,
            edgecolor=QUERY_COLOR, linewidth=1.8, clip_on=False, zorder=4,
        )  # fmt: skip
        halo = patheffects.withStroke(linewidth=3.5, foreground='white')
        box.set_path_effects([halo])
    axes.plot(
        *query.point, marker='o', markersize=5, color=QUERY_COLOR,
        markeredgecolor='white', markeredgewidth=1, clip_on=False, zorder=5,
    )  # fmt: skip


def _draw_regions(axes: Axes, query: _Query) -> None:
    """Shade the regions that the query is routed to, by affinity."""
    _mark_query(axes, query)
    record = query.record
    if record.routing is None:
        return
    routed = record.routing[query.index, query.region].tolist()
    affinity = record.affinity[query.index, query.region].float().cpu().numpy()
    norm = Normalize(affinity.min(), affinity.max())
    # Equal affinities all get the color of the highest one.
    shades = norm(affinity) if norm.vmin < norm.vmax else affinity * 0 + 1
    colors = matplotlib.colormaps[COLOR_MAP](shades)
    hidden = 0
    for region, color in zip(routed, colors, strict=True):
        left, top, right, bottom = box = query.region_box(region)
        hidden += left == right or top == bottom
        _add_box(axes, box, facecolor=color, alpha=0.72, linewidth=0)
        _add_box(axes, box, fill=False, edgecolor='white', linewidth=0.8)
    _add_color_bar(axes, norm)
    if hidden:
        _add_note(axes, f'{hidden} of {len(routed)} lie in the padding')


def _draw_attention(axes: Axes, query: _Query) -> None:
    """Draw the attention of the query's token as a heat map."""
    record, geometry = query.record, query.geometry
    token = record.grid.token_at(query.point, geometry)
    attention = record.attention([token], query.index)[0].float().cpu().numpy()
    height, width = record.grid.map_size
    attention = attention[:height, :width]
    heat = np.ma.masked_equal(attention, 0)
    norm = Normalize(heat.min(), heat.max())
    limits = axes.get_xlim(), axes.get_ylim()
    axes.imshow(
        heat, extent=record.grid.map_extent(geometry), norm=norm,
        cmap=COLOR_MAP, alpha=0.72, interpolation='nearest',
    )  # fmt: skip
    # The padding of the batch lies outside the image.
    axes.set(xlim=limits[0], ylim=limits[1])
    _mark_query(axes, query, outline=False)
    _add_color_bar(axes, norm, percent=True)
    on_padding = 1 - attention.sum()
    if on_padding > 0.005:
        _add_note(axes, f'{_format_percent(on_padding)} lie on padding')


def _describe(record: LayerRecord) -> str:
    """Return the title of a layer: its place, and how it routes."""
    layer = (
        f'Stage {record.stage}, block {record.block} of {record.num_blocks}'
    )
    if record.routing is None:
        return f'{layer}\nglobal attention'
    topk, regions = record.routing.shape[-1], record.routing.shape[1]
    return f'{layer}\n{topk} of {regions} regions'


def _check_arguments(
    image: np.ndarray,
    points: Sequence[Point],
    geometry: Optional[ImageGeometry],
) -> ImageGeometry:
    """Check that image, points and geometry match; return the geometry."""
    if not points:
        raise ValueError('points must name at least one point, got none')
    if geometry is None:
        geometry = ImageGeometry(image.shape[:2])
    if tuple(image.shape) != (*geometry.size, 3):
        raise ValueError(
            f'image must be of shape {(*geometry.size, 3)} to match its '
            f'geometry, got {tuple(image.shape)}'
        )
    for point in points:
        geometry.check_point(point)
    return geometry


def draw_routing(
    image: np.ndarray,
    record: LayerRecord,
    points: Sequence[Point],
    geometry: Optional[ImageGeometry] = None,
    index: int = 0,
) -> Figure:
    """Draw the routing and attention of one layer, as in Figure 4.

    Each point gets a row: the input with the point's region outlined, the
    regions that it is routed to, shaded by affinity, and the attention of the
    token at the point as a heat map.

    Args:
        image (np.ndarray): RGB image of shape (H, W, 3), uint8, before any
            resizing.
        record (LayerRecord): What the layer computed, recorded with
            ``keep_inputs=True``.
        points (Sequence[tuple[float, float]]): The query points (x, y), in
            pixels of the image.
        geometry (ImageGeometry, optional): How the image lies in the
            network's input. Default: None, which means that the image is the
            input.
        index (int): Index of the image in the batch. Default: 0.

    Returns:
        Figure: The figure; ``figure.savefig(path)`` writes it.

    Raises:
        ValueError: If a point lies outside the image, or image and geometry
            do not match.
    """
    geometry = _check_arguments(image, points, geometry)
    figure, grid = _make_figure(geometry.size, len(points), 3)
    gray = _fade(image)
    titles = [
        'Input',
        f'{_describe(record)}, by affinity',
        'Attention of the\ntoken at the point',
    ]
    for row, point in enumerate(points):
        query = _Query(record, point, geometry, index)
        label = f'x {point[0]:g}, y {point[1]:g}'
        axes = _add_panel(figure, grid[row, 0], image, titles[0], label)
        _mark_query(axes, query)
        axes = _add_panel(figure, grid[row, 1], gray, titles[1])
        _draw_regions(axes, query)
        axes = _add_panel(figure, grid[row, 2], gray, titles[2])
        _draw_attention(axes, query)
        titles = [''] * 3
    return figure


def draw_stages(
    image: np.ndarray,
    records: Sequence[LayerRecord],
    points: Sequence[Point],
    geometry: Optional[ImageGeometry] = None,
    index: int = 0,
) -> Figure:
    """Draw the routing and attention of several layers side by side.

    Each point gets two rows: the regions that it is routed to, shaded by
    affinity, and the attention of the token at the point as a heat map.

    Args:
        image (np.ndarray): RGB image of shape (H, W, 3), uint8, before any
            resizing.
        records (Sequence[LayerRecord]): What the layers computed, recorded
            with ``keep_inputs=True``; they may have global attention.
        points (Sequence[tuple[float, float]]): The query points (x, y), in
            pixels of the image.
        geometry (ImageGeometry, optional): How the image lies in the
            network's input. Default: None, which means that the image is the
            input.
        index (int): Index of the image in the batch. Default: 0.

    Returns:
        Figure: The figure; ``figure.savefig(path)`` writes it.

    Raises:
        ValueError: If a point lies outside the image, or image and geometry
            do not match.
    """
    geometry = _check_arguments(image, points, geometry)
    figure, grid = _make_figure(
        geometry.size, 2 * len(points), 1 + len(records)
    )
    gray = _fade(image)
    for row, point in zip(range(0, 2 * len(points), 2), points, strict=True):
        label = f'x {point[0]:g}, y {point[1]:g}'
        title = '' if row else 'Input'
        axes = _add_panel(figure, grid[row : row + 2, 0], image, title, label)
        queries = [
            _Query(record, point, geometry, index) for record in records
        ]
        _mark_query(axes, queries[0], outline=False)
        labels = ['routed regions', 'attention']
        for column, query in enumerate(queries, 1):
            title = '' if row else _describe(query.record)
            cell = grid[row, column]
            axes = _add_panel(figure, cell, gray, title, labels[0])
            _draw_regions(axes, query)
            cell = grid[row + 1, column]
            axes = _add_panel(figure, cell, gray, label=labels[1])
            _draw_attention(axes, query)
            labels = [''] * 2
    return figure


def draw_usage(records: Sequence[LayerRecord]) -> Figure:
    """Draw how often each region is selected, a panel for each layer.

    Args:
        records (Sequence[LayerRecord]): What the layers computed; all have
            routing.

    Returns:
        Figure: The figure: S x S cells in each panel, colored by the share
        of regions that are routed to the cell's region, as a mean over the
        images.
    """
    figure, grid = _make_figure((1, 1), 1, len(records))
    for record, cell in zip(records, grid, strict=True):
        n_win = record.grid.n_win
        usage = region_usage(record.routing).mean(0).view(n_win, n_win)
        usage = usage.cpu().numpy()
        axes = _add_panel(figure, cell, usage, _describe(record))
        (cells,) = axes.images
        cells.set(cmap=COLOR_MAP, norm=Normalize(0, usage.max()))
        _add_color_bar(axes, cells.norm, percent=True)
    return figure


def to_image(figure: Figure) -> np.ndarray:
    """Render a figure.

    Args:
        figure (Figure): The figure.

    Returns:
        np.ndarray: RGB image of shape (H, W, 3), uint8.
    """
    figure.canvas.draw()
    return np.asarray(figure.canvas.buffer_rgba())[..., :3].copy()
