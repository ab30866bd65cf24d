"""Pictures of what the model looks at: routed regions and attention."""

from .drawing import draw_routing, draw_stages, to_image
from .geometry import ImageGeometry, RegionGrid
from .recording import (
    LayerRecord,
    RoutingRecords,
    find_layers,
    record_routing,
    resolve_layer,
)
from .statistics import region_usage, routing_statistics

__all__ = [
    'ImageGeometry',
    'LayerRecord',
    'RegionGrid',
    'RoutingRecords',
    'draw_routing',
    'draw_stages',
    'find_layers',
    'record_routing',
    'region_usage',
    'resolve_layer',
    'routing_statistics',
    'to_image',
]
