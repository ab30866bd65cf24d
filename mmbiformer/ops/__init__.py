"""Pure functions on tensors: regions, routing and routed attention."""

from .regions import (
    map_to_regions,
    pad_to_regions,
    pool_regions,
    regions_to_map,
)
from .routed_attention import (
    ATTENTION_BACKENDS,
    FLEXIBLE_BACKENDS,
    routed_attention,
)
from .routing import region_means, route

__all__ = [
    'ATTENTION_BACKENDS',
    'FLEXIBLE_BACKENDS',
    'map_to_regions',
    'pad_to_regions',
    'pool_regions',
    'region_means',
    'regions_to_map',
    'route',
    'routed_attention',
]
