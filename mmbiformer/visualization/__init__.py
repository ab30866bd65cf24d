"""Pictures of what the model looks at: routed regions and attention."""

from .drawing import draw_routing, draw_stages, draw_usage, to_image
from .geometry import ImageGeometry, RegionGrid
from .page import write_page
from .points import default_points, object_points
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
