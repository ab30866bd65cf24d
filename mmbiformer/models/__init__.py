"""The backbone and its attention layers."""

from .attention import BiLevelRoutingAttention, GlobalAttention
from .biformer import BiFormer

__all__ = ['BiFormer', 'BiLevelRoutingAttention', 'GlobalAttention']
