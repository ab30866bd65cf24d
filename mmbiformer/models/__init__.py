"""The backbone, its attention layers, and a loss."""

from .attention import BiLevelRoutingAttention, GlobalAttention
from .biformer import BiFormer
from .losses import WeightedCrossEntropyLoss

__all__ = [
    'BiFormer',
    'BiLevelRoutingAttention',
    'GlobalAttention',
    'WeightedCrossEntropyLoss',
]
