"""The backbone, its attention layers, and the layers for other networks."""

from .attention import (
    BiLevelRoutingAttention,
    ConvolutionLayer,
    GlobalAttention,
)
from .biformer import BiFormer
from .layer_decay import LayerDecayOptimWrapperConstructor
from .plugin import BRANeck, BRAPlugin

__all__ = [
    'BRANeck',
    'BRAPlugin',
    'BiFormer',
    'BiLevelRoutingAttention',
    'ConvolutionLayer',
    'GlobalAttention',
    'LayerDecayOptimWrapperConstructor',
]
