"""Write an interactive HTML page that shows the routing of every region."""

import base64
import html
import json
from pathlib import Path
from typing import Optional, Sequence, Tuple, Union

import cv2
import matplotlib
import numpy as np
from matplotlib.colors import to_hex

from .drawing import COLOR_MAP, QUERY_COLOR
from .geometry import ImageGeometry
from .recording import LayerRecord

MAX_SIDE = 1600
"""int: Longest side of the embedded image; larger images are downscaled."""
_NUM_COLORS = 33


def _encode(values: np.ndarray, dtype: str) -> str:
    """Encode numbers as base64."""
    return base64.b64encode(values.astype(dtype).tobytes()).decode()


def _image_uri(image: np.ndarray) -> str:
    """Encode an RGB image as a data URI."""
    shrink = min(1, MAX_SIDE / max(image.shape[:2]))
    image = cv2.resize(
        image, None, fx=shrink, fy=shrink, interpolation=cv2.INTER_AREA
    )
    _, data = cv2.imencode(
        '.jpg',
        cv2.cvtColor(image, cv2.COLOR_RGB2BGR),
        [cv2.IMWRITE_JPEG_QUALITY, 92],
    )
    return f'data:image/jpeg;base64,{base64.b64encode(data).decode()}'


def write_page(
    path: Union[str, Path],
    image: np.ndarray,
    records: Sequence[LayerRecord],
    geometry: Optional[ImageGeometry] = None,
    start: Optional[Tuple[float, float]] = None,
    first: Optional[Tuple[int, int]] = None,
    title: str = 'Routing',
    index: int = 0,
) -> None:
    """Write a self-contained HTML page, which needs no server or network.

    On the page, stage and block can be selected. For the region chosen by
    mouse, touch or arrow keys, its routed regions are shaded by affinity.

    Args:
        path (str | Path): File to write.
        image (np.ndarray): RGB image of shape (H, W, 3), uint8, before any
            resizing.
        records (Sequence[LayerRecord]): The layers to show; those without
            routing are skipped.
        geometry (ImageGeometry, optional): How the image lies in the
            network's input. Default: None, which means that the image is the
            input.
        start (tuple[float, float], optional): The point (x, y) whose region
            is selected initially. Default: None, which means the center.
        first (tuple[int, int], optional): Stage and block selected initially.
            Default: None, which means the last of the records.
        title (str): Heading of the page. Default: ``'Routing'``.
        index (int): Index of the image in the batch. Default: 0.

    Raises:
        ValueError: If no record has routing, or ``start`` lies outside the
            image.
    """
    records = [record for record in records if record.routing is not None]
    if not records:
        raise ValueError(
            'records must contain at least one layer with routing'
        )
    height, width = image.shape[:2]
    geometry = geometry or ImageGeometry((height, width))
    start = (width / 2, height / 2) if start is None else start
    geometry.check_point(start)
    colors = matplotlib.colormaps[COLOR_MAP](np.linspace(0, 1, _NUM_COLORS))
    data = dict(
        image=_image_uri(image),
        width=width,
        height=height,
        start=start,
        first=first or (records[-1].stage, records[-1].block),
        colors=[to_hex(color) for color in colors],
        boxes={
            record.stage: [
                np.round(record.grid.region_box(region, geometry), 3).tolist()
                for region in range(record.grid.n_win**2)
            ]
            for record in records
        },
        layers=[
            dict(
                stage=record.stage,
                block=record.block,
                n_win=record.grid.n_win,
                topk=record.routing.shape[-1],
                routing=_encode(record.routing[index].cpu().numpy(), '<u2'),
                affinity=_encode(
                    record.affinity[index].float().cpu().numpy(), '<f4'
                ),
            )
            for record in records
        ],
    )
    page = Path(__file__).with_name('page.html').read_text(encoding='utf-8')
    for key, value in {
        '__TITLE__': html.escape(title),
        '__QUERY_COLOR__': QUERY_COLOR,
        # The data must not close the script element.
        '__DATA__': json.dumps(data).replace('<', '\\u003c'),
    }.items():
        page = page.replace(key, value)
    Path(path).write_text(page, encoding='utf-8')
