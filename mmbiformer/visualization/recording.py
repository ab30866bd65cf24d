"""Record the routing and attention of a forward pass."""

import contextlib
from dataclasses import dataclass, field
from typing import Dict, Iterator, List, Optional, Sequence, Tuple

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from mmbiformer.models import (
    BiFormer,
    BiLevelRoutingAttention,
    ConvolutionLayer,
)
from mmbiformer.ops import map_to_regions, pad_to_regions, regions_to_map
from mmbiformer.utils.errors import ConfigError

from .geometry import RegionGrid

FIRST_STRIDE = 4
"""int: Stride of stage 1; it doubles with every further stage."""


def find_layers(model: nn.Module) -> Dict[Tuple[int, int], nn.Module]:
    """Return the attention layers of the BiFormer in a model.

    Args:
        model (nn.Module): A BiFormer, or anything that contains one, such as
            a detector or its distributed wrapper.

    Returns:
        dict[tuple[int, int], nn.Module]: Each layer by stage and block, both
        counted from 1; no convolutions that are in place of attention.

    Raises:
        ConfigError: If the model does not contain exactly one BiFormer.
    """
    found = [m for m in model.modules() if isinstance(m, BiFormer)]
    if len(found) != 1:
        raise ConfigError(
            f'the model must contain exactly one BiFormer, but this '
            f'{type(model).__name__} contains {len(found)}'
        )
    return {
        (stage, block): module.attn
        for stage, blocks in enumerate(found[0].stages, 1)
        for block, module in enumerate(blocks, 1)
        if not isinstance(module.attn, ConvolutionLayer)
    }


def resolve_layer(
    model: nn.Module, stage: int, block: int = -1, routed: bool = True
) -> Tuple[int, int]:
    """Check stage and block of a layer, and resolve a negative block.

    Args:
        model (nn.Module): A model that contains a BiFormer.
        stage (int): Stage, counted from 1 as in the paper.
        block (int): Block of the stage, counted from 1, or backward from
            -1. Default: -1, the last.
        routed (bool): Whether the layer must have routing. Default: True.

    Returns:
        tuple[int, int]: Stage and block, both positive.

    Raises:
        ConfigError: If there is no such layer, or it has no routing.
    """
    layers = find_layers(model)
    stages = sorted({number for number, _ in layers})
    if stage not in stages:
        raise ConfigError(
            f'stage must be one of {stages}, got stage={stage!r}'
        )
    count = sum(number == stage for number, _ in layers)
    resolved = count + 1 + block if block < 0 else block
    if not 1 <= resolved <= count:
        raise ConfigError(
            f'block must be between 1 and {count}, or -1 for the last, in '
            f'stage {stage}, got block={block!r}'
        )
    if routed and not _is_routed(layers[stage, resolved]):
        routed_stages = sorted(
            {number for (number, _), m in layers.items() if _is_routed(m)}
        )
        raise ConfigError(
            f'stage={stage} has global attention, and thus no routing; the '
            f'stages with routing are {routed_stages}'
        )
    return stage, resolved


def _is_routed(layer: nn.Module) -> bool:
    """Return whether a layer has routing, not global attention."""
    return isinstance(layer, BiLevelRoutingAttention)


@dataclass
class LayerRecord:
    """What one attention layer computed for a batch of N images.

    Attributes:
        stage (int): Stage, counted from 1.
        block (int): Block of the stage, counted from 1.
        num_blocks (int): Number of blocks in the stage.
        grid (RegionGrid): The regions; a single one for global attention.
        routing (Tensor, optional): Indices of the routed regions of every
            region by descending affinity, of shape (N, S*S, K), int64. None
            for global attention.
        affinity (Tensor, optional): Their affinities, of the same shape. None
            for global attention.
    """

    stage: int
    block: int
    num_blocks: int
    grid: RegionGrid
    routing: Optional[Tensor] = None
    affinity: Optional[Tensor] = None
    _layer: Optional[nn.Module] = field(default=None, repr=False)
    _input: Optional[Tensor] = field(default=None, repr=False)

    @torch.no_grad()
    def attention(
        self,
        tokens: Sequence[Tuple[int, int]],
        index: int = 0,
        average: bool = True,
    ) -> Tensor:
        """Compute the attention of given query tokens (equation 6).

        Only the rows of these tokens are computed, from the recorded input
        and the current weights of the layer.

        Args:
            tokens (Sequence[tuple[int, int]]): Row and column of each of the Q
                query tokens.
            index (int): Index of the image in the batch. Default: 0.
            average (bool): Whether to average over the heads. Default: True.

        Returns:
            Tensor: Attention weights of each query over the padded map, of
            shape (Q, Hp, Wp), or (Q, heads, Hp, Wp) without averaging. The
            weights of each query and head sum to 1.

        Raises:
            RuntimeError: If the input was not recorded.
            ConfigError: If the layer attends to pooled keys, not to tokens.
            ValueError: If a token lies outside the map.
        """
        if self._input is None:
            raise RuntimeError(
                'attention needs the recorded inputs of the layers; record '
                'with keep_inputs=True'
            )
        if getattr(self._layer, 'kv_down', None) is not None:
            raise ConfigError(
                f'stage {self.stage}, block {self.block} attends to pooled '
                'keys (kv_downsample_mode): there are no weights of single '
                'tokens to show'
            )
        height, width = self.grid.map_size
        for token in tokens:
            if not (0 <= token[0] < height and 0 <= token[1] < width):
                raise ValueError(
                    f'token={tuple(token)} lies outside the map of {height} '
                    f'rows and {width} columns'
                )
        layer, n_win = self._layer, self.grid.n_win
        x = pad_to_regions(self._input[index : index + 1], n_win)
        regions = map_to_regions(x, n_win)[0]
        rows, columns = torch.tensor(tokens, device=x.device).unbind(1)
        if self.routing is None:
            routed = rows.new_zeros(len(tokens), 1)
            scale = (x.shape[-1] // layer.num_heads) ** -0.5
        else:
            own = [self.grid.region_of_token(token) for token in tokens]
            routed = self.routing[index, own]
            scale = layer.scale

        def split_heads(y: Tensor) -> Tensor:
            return y.unflatten(-1, (layer.num_heads, -1)).transpose(1, 2)

        q = layer.project(x[0, rows, columns])[0]
        k = layer.project(regions[routed].flatten(1, 2))[1]
        if getattr(layer, 'soft_routing', False):
            weights = self.affinity[index, own].softmax(-1)
            k = k * weights.repeat_interleave(regions.shape[1], 1)[..., None]
        products = split_heads(q[:, None] * scale) @ split_heads(k).mT
        weights = products.softmax(dim=-1).unflatten(-1, (routed.shape[1], -1))
        # Scatter (Q, heads, K, T) into all R regions: (Q, heads, R, T).
        weights = weights.squeeze(2)
        index = routed[:, None, :, None].expand_as(weights)
        maps = weights.new_zeros(*weights.shape[:2], *regions.shape[:2])
        maps = maps.scatter(2, index, weights)
        maps = regions_to_map(
            maps.flatten(0, 1).unsqueeze(-1), self.grid.padded_size, n_win
        ).view(*weights.shape[:2], *self.grid.padded_size)
        return maps.mean(1) if average else maps


class RoutingRecords(Dict[Tuple[int, int], LayerRecord]):
    """Records of a forward pass, by stage and block, counted from 1.

    Negative blocks count from the end: ``records[3, -1]`` is the last block
    of stage 3.
    """

    def __missing__(self, key: Tuple[int, int]) -> LayerRecord:
        """Look up a negative block, or name the available layers."""
        stage, block = key
        for record in list(self.values()):
            resolved = (stage, record.num_blocks + 1 + block)
            if block < 0 and record.stage == stage and resolved in self:
                return self[resolved]
        raise KeyError(
            f'stage {stage}, block {block} was not recorded; recorded are '
            f'{list(self)} of the latest forward pass'
        )


@contextlib.contextmanager
def record_routing(
    model: nn.Module,
    layers: Optional[Sequence[Tuple[int, int]]] = None,
    keep_inputs: bool = False,
    routed: bool = True,
) -> Iterator[RoutingRecords]:
    """Record the routing of every forward pass within the context.

    The outputs of the model do not change: forward hooks store what the layers
    compute anyway, and are removed at the end of the context. Every forward
    pass replaces the records of the previous one.

    Args:
        model (nn.Module): A model that contains a BiFormer, such as a
            detector, a segmentor or their distributed wrapper.
        layers (Sequence[tuple[int, int]], optional): Stage and block of the
            layers to record, see :func:`resolve_layer`. Default: None, which
            means all layers with routing.
        keep_inputs (bool): Whether to keep the inputs of the layers, which
            :meth:`LayerRecord.attention` needs. Default: False.
        routed (bool): Whether the layers must have routing. Default: True.

    Yields:
        RoutingRecords: The records, empty until the first forward pass.

    Raises:
        ConfigError: If the model contains no BiFormer, or a given layer does
            not exist or has no routing.

    Example:
        >>> import torch
        >>> from mmbiformer import BiFormer
        >>> from mmbiformer.visualization import record_routing
        >>> model = BiFormer(arch='tiny', n_win=7).eval()
        >>> with torch.no_grad(), record_routing(model) as records:
        ...     _ = model(torch.rand(1, 3, 224, 224))
        >>> records[3, -1].routing.shape
        torch.Size([1, 49, 16])
    """
    found = find_layers(model)
    if layers is None:
        chosen = [key for key, layer in found.items() if _is_routed(layer)]
    else:
        chosen = [resolve_layer(model, *key, routed) for key in layers]
    records = RoutingRecords()
    with contextlib.ExitStack() as hooks:
        for key in dict.fromkeys(chosen):
            num_blocks = sum(stage == key[0] for stage, _ in found)
            for handle in _attach(
                found[key], key, num_blocks, keep_inputs, records
            ):
                hooks.callback(handle.remove)
        yield records


def _attach(
    layer: nn.Module,
    key: Tuple[int, int],
    num_blocks: int,
    keep_inputs: bool,
    records: RoutingRecords,
) -> List[RemovableHandle]:
    """Register the hooks that record a layer; return their handles."""
    stride = FIRST_STRIDE * 2 ** (key[0] - 1)

    def start_record(layer: nn.Module, args: Tuple[Tensor]) -> None:
        x = args[0]
        n_win = layer.n_win if _is_routed(layer) else 1
        grid = RegionGrid(n_win, tuple(x.shape[1:3]), stride)
        records[key] = LayerRecord(*key, num_blocks, grid, _layer=layer)
        if keep_inputs:
            records[key]._input = x.detach()

    def add_routing(
        router: nn.Module, args: tuple, output: Tuple[Tensor, Tensor]
    ) -> None:
        routing, affinity = output
        records[key].routing = routing
        records[key].affinity = affinity.detach()

    handles = [layer.register_forward_pre_hook(start_record)]
    if _is_routed(layer):
        handles.append(layer.router.register_forward_hook(add_routing))
    return handles
