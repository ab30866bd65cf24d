"""Draw routing and attention over an image."""

from typing import Optional, Sequence, Tuple

import matplotlib
import numpy as np
from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from .geometry import ImageGeometry
from .recording import LayerRecord
from .statistics import region_usage

COLOR_MAP = 'viridis'
"""str: Told apart by colour-blind readers, and brighter means more."""
QUERY_COLOR = '#D55E00'
"""str: Outline of the query; a colour that :data:`COLOR_MAP` lacks."""

Point = Tuple[float, float]

# Inches. Panels of all shapes get about the same area, and each a place that
# is large enough for its labels.
_PANEL_AREA = 2.3**2
_MAX_SIDE = 4.0
_PLACE = (1.95, 0.85)
_GAP = 0.12
_TITLE = 0.46
_ROW_LABEL = 0.28
_COLOR_BAR = 0.58
_DPI = 120


class _Canvas:
    """A figure of panels with room for labels and colour bars.

    Args:
        size (tuple[int, int]): Height and width of the image.
        rows (int): Rows of panels.
        bars (Sequence[bool]): For each column, whether it has a colour bar.
    """

    def __init__(
        self, size: Tuple[int, int], rows: int, bars: Sequence[bool]
    ) -> None:
        ratio = size[1] / size[0]
        width, height = np.sqrt([_PANEL_AREA * ratio, _PANEL_AREA / ratio])
        scale = min(1, _MAX_SIDE / max(width, height))
        self.panel = (width * scale, height * scale)
        place_width, self.row = np.maximum(self.panel, _PLACE) + (0, _GAP)
        widths = place_width + _GAP + _COLOR_BAR * np.array(bars)
        lefts = _ROW_LABEL + np.cumsum([0, *widths[:-1]])
        self.lefts = lefts + (place_width - self.panel[0]) / 2
        total = (_ROW_LABEL + widths.sum(), _TITLE + rows * self.row)
        self.figure = Figure(figsize=total, dpi=_DPI, facecolor='white')
        FigureCanvasAgg(self.figure)
        self.total = total
        self.size = size

    def _add_axes(
        self, left: float, top: float, width: float, height: float
    ) -> Axes:
        """Add axes at a place in inches from the upper left corner."""
        total_width, total_height = self.total
        bottom = total_height - top - height
        return self.figure.add_axes(
            (
                left / total_width,
                bottom / total_height,
                width / total_width,
                height / total_height,
            )
        )

    def _top(self, row: float) -> float:
        """Return the upper edge of the panels in a row, in inches."""
        return _TITLE + row * self.row + (self.row - _GAP - self.panel[1]) / 2

    def add_panel(self, row: float, column: int, title: str = '') -> Axes:
        """Add a panel in pixels of the image."""
        axes = self._add_axes(self.lefts[column], self._top(row), *self.panel)
        axes.set(
            xlim=(0, self.size[1]), ylim=(self.size[0], 0), xticks=[],
            yticks=[],
        )  # fmt: skip
        if title:
            axes.set_title(title, fontsize=9, pad=5)
        return axes

    def left_of(self, row: float, column: int) -> Tuple[float, float]:
        """Return the place to the left of a panel, in shares of the figure."""
        top = self._top(row) + self.panel[1] / 2
        left = self.lefts[column] - 0.07
        return (left / self.total[0], 1 - top / self.total[1])

    def add_bar(
        self, row: float, column: int, norm: Normalize, percent: bool
    ) -> None:
        """Add the colour bar of a panel."""
        width, height = self.panel
        left = self.lefts[column] + width + 0.05
        axes = self._add_axes(left, self._top(row), 0.09, height)
        low, high = _format_ends(norm.vmin, norm.vmax, percent)
        ends = [(high, 1, 'top'), (low, 0, 'bottom')]
        if low == high:
            axes.set_axis_off()
            ends = [(high, 0.5, 'center')]
        else:
            bar = self.figure.colorbar(
                ScalarMappable(norm, COLOR_MAP), cax=axes, ticks=[]
            )
            bar.outline.set_visible(False)
        for text, place, align in ends:
            axes.text(
                1.5, place, text, fontsize=7, va=align,
                transform=axes.transAxes,
            )  # fmt: skip


def _format_percent(share: float, digits: int = 2) -> str:
    """Format a share."""
    return '100 %' if share > 0.995 else f'{100 * share:.{digits}g} %'


def _format_ends(low: float, high: float, percent: bool) -> Tuple[str, str]:
    """Format two values with as many digits as it takes to tell them apart."""
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
    """Turn an RGB image into a pale grey one for colours to lie on."""
    grey = image @ np.array([0.299, 0.587, 0.114])
    return np.repeat(150 + 0.4 * grey[..., None], 3, axis=-1).astype(np.uint8)


def _show(axes: Axes, image: np.ndarray) -> None:
    """Show an image such that data coordinates are its pixels' edges."""
    height, width = image.shape[:2]
    axes.imshow(
        image, extent=(0, width, height, 0), aspect='auto',
        interpolation='antialiased',
    )  # fmt: skip


def _add_box(
    axes: Axes, box: Tuple[float, float, float, float], **style
) -> Rectangle:
    """Add a rectangle by its left, top, right and bottom edge."""
    left, top, right, bottom = box
    return axes.add_patch(
        Rectangle((left, top), right - left, bottom - top, **style)
    )


def _mark_query(
    axes: Axes,
    record: LayerRecord,
    point: Point,
    geometry: ImageGeometry,
    outline: bool = True,
) -> None:
    """Mark a point, and outline its region."""
    halo = [patheffects.withStroke(linewidth=3.5, foreground='white')]
    if outline and record.routing is not None:
        region = record.grid.region_at(point, geometry)
        box = _add_box(
            axes, record.grid.region_box(region, geometry), fill=False,
            edgecolor=QUERY_COLOR, linewidth=1.8, clip_on=False, zorder=4,
        )  # fmt: skip
        box.set_path_effects(halo)
    axes.plot(
        *point, marker='o', markersize=5, color=QUERY_COLOR,
        markeredgecolor='white', markeredgewidth=1, clip_on=False, zorder=5,
    )  # fmt: skip


def _draw_regions(
    axes: Axes,
    record: LayerRecord,
    point: Point,
    geometry: ImageGeometry,
    index: int,
) -> Normalize:
    """Shade the routed regions of a point by affinity."""
    region = record.grid.region_at(point, geometry)
    routed = record.routing[index, region].tolist()
    affinity = record.affinity[index, region].float().cpu().numpy()
    norm = Normalize(affinity.min(), affinity.max())
    # A single affinity is the highest.
    shades = norm(affinity) if norm.vmin < norm.vmax else affinity * 0 + 1
    colors = matplotlib.colormaps[COLOR_MAP](shades)
    for target, color in zip(routed, colors, strict=True):
        box = record.grid.region_box(target, geometry)
        _add_box(axes, box, facecolor=color, alpha=0.72, linewidth=0)
        _add_box(axes, box, fill=False, edgecolor='white', linewidth=0.8)
    return norm


def _draw_attention(
    axes: Axes,
    record: LayerRecord,
    attention: np.ndarray,
    geometry: ImageGeometry,
) -> Normalize:
    """Draw the attention of a token, of shape (Hp, Wp), as a heat map."""
    height, width = record.grid.map_size
    heat = np.ma.masked_equal(attention[:height, :width], 0)
    norm = Normalize(heat.min(), heat.max())
    axes.imshow(
        heat, extent=record.grid.map_extent(geometry), norm=norm,
        cmap=COLOR_MAP, alpha=0.72, aspect='auto', interpolation='nearest',
    )  # fmt: skip
    height, width = geometry.size
    axes.set(xlim=(0, width), ylim=(height, 0))
    return norm


def _add_note(axes: Axes, text: str) -> None:
    """Write a line into the lower right corner of a panel."""
    axes.annotate(
        text, (1, 0), (-3, 3), xycoords='axes fraction',
        textcoords='offset points', fontsize=7, ha='right',
        bbox=dict(facecolor='white', alpha=0.85, linewidth=0, pad=1.5),
    )  # fmt: skip


def _fill_regions_panel(
    canvas: _Canvas,
    place: Tuple[float, int],
    title: str,
    grey: np.ndarray,
    record: LayerRecord,
    point: Point,
    geometry: ImageGeometry,
    index: int,
) -> None:
    """Draw the panel of the routed regions."""
    axes = canvas.add_panel(*place, title)
    _show(axes, grey)
    if record.routing is None:
        _mark_query(axes, record, point, geometry)
        return
    norm = _draw_regions(axes, record, point, geometry, index)
    _mark_query(axes, record, point, geometry)
    canvas.add_bar(*place, norm, percent=False)
    region = record.grid.region_at(point, geometry)
    boxes = [
        record.grid.region_box(target, geometry)
        for target in record.routing[index, region].tolist()
    ]
    hidden = sum(
        left == right or top == bottom for left, top, right, bottom in boxes
    )
    if hidden:
        _add_note(axes, f'{hidden} of {len(boxes)} lie in the padding')


def _fill_attention_panel(
    canvas: _Canvas,
    place: Tuple[float, int],
    title: str,
    grey: np.ndarray,
    record: LayerRecord,
    point: Point,
    geometry: ImageGeometry,
    index: int,
) -> None:
    """Draw the panel of the attention of the token at a point."""
    axes = canvas.add_panel(*place, title)
    _show(axes, grey)
    token = record.grid.token_at(point, geometry)
    attention = record.attention([token], index)[0].float().cpu().numpy()
    norm = _draw_attention(axes, record, attention, geometry)
    _mark_query(axes, record, point, geometry, outline=False)
    canvas.add_bar(*place, norm, percent=True)
    height, width = record.grid.map_size
    on_padding = 1 - attention[:height, :width].sum()
    if on_padding > 0.005:
        _add_note(axes, f'{_format_percent(on_padding)} lie on padding')


def _label(axes: Axes, text: str, offset: float = -5) -> None:
    """Write a label along the left side of a panel."""
    axes.annotate(
        text, (0, 0.5), (offset, 0), xycoords='axes fraction',
        textcoords='offset points', fontsize=8, rotation=90, ha='right',
        va='center',
    )  # fmt: skip


def _describe(record: LayerRecord) -> str:
    """Name a layer and say how it routes."""
    layer = (
        f'Stage {record.stage}, block {record.block} of {record.num_blocks}'
    )
    if record.routing is None:
        return f'{layer}\nglobal attention'
    topk, regions = record.routing.shape[-1], record.routing.shape[1]
    return f'{layer}\n{topk} of {regions} regions'


def _check(
    image: np.ndarray,
    points: Sequence[Point],
    geometry: Optional[ImageGeometry],
) -> ImageGeometry:
    """Refuse what cannot be drawn; return the geometry."""
    if not points:
        raise ValueError('points must name at least one point, got none')
    if geometry is None:
        geometry = ImageGeometry(image.shape[:2])
    if tuple(image.shape) != (*geometry.size, 3):
        raise ValueError(
            f'image must be of shape {(*geometry.size, 3)}, as its geometry '
            f'says, got {tuple(image.shape)}'
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
    """Draw where points of an image look in one layer, as in Figure 4.

    A row for each point: the input with the query's region outlined, its
    routed regions shaded by affinity, and the attention of the query's token
    as a heat map.

    Args:
        image (np.ndarray): RGB image of shape (H, W, 3), uint8, before any
            resizing.
        record (LayerRecord): What the layer did, recorded with
            ``keep_inputs=True``.
        points (Sequence[tuple[float, float]]): The points (x, y), in pixels
            of the image.
        geometry (ImageGeometry, optional): How the image lies in the
            network's input. Default: None, which means as it is.
        index (int): Which image of the batch. Default: 0.

    Returns:
        Figure: The picture; ``figure.savefig(path)`` writes it.

    Raises:
        ValueError: If a point lies outside the image, or image and geometry
            disagree.
    """
    geometry = _check(image, points, geometry)
    canvas = _Canvas(geometry.size, len(points), [False, True, True])
    grey = _fade(image)
    titles = [
        'Input',
        f'{_describe(record)}, by affinity',
        'Attention of the\ntoken at the point',
    ]
    for row, point in enumerate(points):
        axes = canvas.add_panel(row, 0, titles[0])
        _show(axes, image)
        _mark_query(axes, record, point, geometry)
        _label(axes, f'x {point[0]:g}, y {point[1]:g}')
        rest = (grey, record, point, geometry, index)
        _fill_regions_panel(canvas, (row, 1), titles[1], *rest)
        _fill_attention_panel(canvas, (row, 2), titles[2], *rest)
        titles = [''] * 3
    return canvas.figure


def draw_stages(
    image: np.ndarray,
    records: Sequence[LayerRecord],
    points: Sequence[Point],
    geometry: Optional[ImageGeometry] = None,
    index: int = 0,
) -> Figure:
    """Draw where points of an image look in several layers, side by side.

    Two rows for each point: its routed regions shaded by affinity, and the
    attention of its token.

    Args:
        image (np.ndarray): RGB image of shape (H, W, 3), uint8, before any
            resizing.
        records (Sequence[LayerRecord]): What the layers did, recorded with
            ``keep_inputs=True``; layers with global attention are welcome.
        points (Sequence[tuple[float, float]]): The points (x, y), in pixels
            of the image.
        geometry (ImageGeometry, optional): How the image lies in the
            network's input. Default: None, which means as it is.
        index (int): Which image of the batch. Default: 0.

    Returns:
        Figure: The picture; ``figure.savefig(path)`` writes it.

    Raises:
        ValueError: If a point lies outside the image, or image and geometry
            disagree.
    """
    geometry = _check(image, points, geometry)
    columns = 1 + len(records)
    canvas = _Canvas(geometry.size, 2 * len(points), [True] * columns)
    grey = _fade(image)
    for number, point in enumerate(points):
        row = 2 * number
        axes = canvas.add_panel(row + 0.5, 0, 'Input' if not number else '')
        _show(axes, image)
        _mark_query(axes, records[0], point, geometry, outline=False)
        _label(axes, f'x {point[0]:g}, y {point[1]:g}')
        for column, record in enumerate(records, 1):
            title = _describe(record) if not number else ''
            rest = (grey, record, point, geometry, index)
            _fill_regions_panel(canvas, (row, column), title, *rest)
            _fill_attention_panel(canvas, (row + 1, column), '', *rest)
        for offset, text in enumerate(['routed regions', 'attention']):
            canvas.figure.text(
                *canvas.left_of(row + offset, 1), text, fontsize=8,
                rotation=90, ha='right', va='center',
            )  # fmt: skip
    return canvas.figure


def draw_usage(records: Sequence[LayerRecord]) -> Figure:
    """Draw how often each region is chosen, a panel for each layer.

    Args:
        records (Sequence[LayerRecord]): What the layers did; they have
            routing.

    Returns:
        Figure: The picture: S x S cells in each panel, coloured by the share
        of regions that are routed to the cell's, as a mean over the images.
    """
    canvas = _Canvas((1, 1), 1, [True] * len(records))
    for column, record in enumerate(records):
        n_win = record.grid.n_win
        usage = region_usage(record.routing).mean(0).view(n_win, n_win)
        usage = usage.cpu().numpy()
        norm = Normalize(0, usage.max())
        axes = canvas.add_panel(0, column, _describe(record))
        axes.imshow(usage, cmap=COLOR_MAP, norm=norm, extent=(0, 1, 1, 0))
        canvas.add_bar(0, column, norm, percent=True)
    return canvas.figure


def to_image(figure: Figure) -> np.ndarray:
    """Render a picture.

    Args:
        figure (Figure): The picture.

    Returns:
        np.ndarray: RGB image of shape (H, W, 3), uint8.
    """
    figure.canvas.draw()
    return np.asarray(figure.canvas.buffer_rgba())[..., :3].copy()
