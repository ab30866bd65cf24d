"""Visualize routed regions and attention, and plot training curves."""

from importlib import import_module
from typing import Any

from .geometry import ImageGeometry, RegionGrid
from .points import default_points, object_points
from .recording import (
    LayerRecord,
    RoutingRecords,
    find_layers,
    record_routing,
    resolve_layer,
)
from .statistics import region_usage, routing_statistics

PICTURE_SUFFIXES = ('.png', '.pdf', '.svg')
"""tuple[str]: File formats that figures can be written to."""

# These modules need matplotlib, which takes seconds to import.
_DRAWING = {
    'draw_routing': 'drawing',
    'draw_stages': 'drawing',
    'draw_usage': 'drawing',
    'to_image': 'drawing',
    'write_page': 'page',
}

__all__ = [
    'PICTURE_SUFFIXES',
    'ImageGeometry',
    'LayerRecord',
    'RegionGrid',
    'RoutingRecords',
    'default_points',
    'draw_routing',
    'draw_stages',
    'draw_usage',
    'find_layers',
    'object_points',
    'record_routing',
    'region_usage',
    'resolve_layer',
    'routing_statistics',
    'to_image',
    'write_page',
]


def __getattr__(name: str) -> Any:
    """Import the drawing functions when first accessed (PEP 562)."""
    if name not in _DRAWING:
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    return getattr(import_module(f'.{_DRAWING[name]}', __name__), name)
