"""The routing of an exported model, as further outputs of its file."""

import contextlib
import functools
from typing import Any, Dict, Iterator, List, Sequence, Tuple

import numpy as np
import torch
from torch import Tensor, nn

from mmbiformer.models import BiLevelRoutingAttention
from mmbiformer.visualization.recording import (
    FIRST_STRIDE,
    find_layers,
    record_routing,
)

from .runtime import Session
from .table import TOLERANCES, Row
from .verify import is_stable, predict


class RoutingGraph(nn.Module):
    """A graph that also returns where its regions look.

    Args:
        graph (nn.Module): Function from images to tensors, of a model with a
            BiFormer.

    Raises:
        ConfigError: If the model does not contain exactly one BiFormer.
    """

    def __init__(self, graph: nn.Module) -> None:
        super().__init__()
        # Not `graph`, which modules of torch.fx have themselves.
        self.inner = graph
        self.output_names = (
            *graph.output_names,
            *(
                name
                for layer in describe_routing(graph)
                for name in _names(layer)
            ),
        )

    def forward(self, images: Tensor) -> Tuple[Tensor, ...]:
        """Compute the outputs of the graph and the routing of each layer.

        Args:
            images (Tensor): Images of shape (N, C, H, W).

        Returns:
            tuple[Tensor]: The outputs, and for each routed layer the indices
            of its routed regions by descending affinity and their affinities,
            both of shape (N, S*S, K).
        """
        with record_routing(self.inner) as records:
            outputs = self.inner(images)
        if isinstance(outputs, Tensor):
            outputs = (outputs,)
        routing = [
            x for one in records.values() for x in (one.routing, one.affinity)
        ]
        return (*outputs, *routing)


def describe_routing(model: nn.Module) -> List[Dict[str, Any]]:
    """Describe the routed layers of a model for the metadata of its file.

    Args:
        model (nn.Module): A model that contains a BiFormer.

    Returns:
        list[dict]: For each layer ``stage`` and ``block``, counted from 1,
        ``n_win``, ``topk`` and ``stride``, the pixels per token. Its outputs
        are ``routing_STAGE_BLOCK`` and ``affinity_STAGE_BLOCK``.

    Raises:
        ConfigError: If the model does not contain exactly one BiFormer.
    """
    return [
        dict(
            stage=stage,
            block=block,
            n_win=layer.n_win,
            topk=layer.router.topk,
            stride=FIRST_STRIDE * 2 ** (stage - 1),
        )
        for (stage, block), layer in find_layers(model).items()
        if isinstance(layer, BiLevelRoutingAttention)
    ]


def _names(layer: Dict[str, Any]) -> Tuple[str, str]:
    """Return the names of the outputs of a layer."""
    place = f'{layer["stage"]}_{layer["block"]}'
    return f'routing_{place}', f'affinity_{place}'


def verify_routing(
    path: str,
    model: nn.Module,
    kind: str,
    batches: Sequence[Tuple[str, np.ndarray]],
) -> List[Row]:
    """Compare the routing of a file with that of PyTorch.

    Regions of nearly the same affinity may have changed places, so that what
    is compared are affinities: those of the file, and those that its regions
    have in PyTorch, both with the highest ones there.

    Args:
        path (str): The file.
        model (nn.Module): The model.
        kind (str): Task, as in the metadata.
        batches (Sequence[tuple[str, np.ndarray]]): Names and images, uint8.

    Returns:
        list[Row]: A line for each batch.
    """
    session = Session(path)
    layers = describe_routing(model)
    session.output_names = [name for layer in layers for name in _names(layer)]
    rows = []
    for name, images in batches:
        with _record_affinities(model) as affinities:
            predict(model, images, kind)
        outputs = session(images.astype(np.float32))
        difference = 0.0
        for layer in layers:
            expected = affinities[layer['stage'], layer['block']]
            routing, affinity = (
                torch.from_numpy(outputs[output]) for output in _names(layer)
            )
            highest = expected.topk(layer['topk'], dim=-1).values
            scale = max(1.0, float(expected.abs().max()))
            for got in (affinity, expected.gather(-1, routing)):
                largest = float((got - highest).abs().max()) / scale
                difference = max(difference, largest)
        problem = ''
        if not difference <= TOLERANCES['affinities']:
            problem = f'affinities differ by {difference:.1e}'
        differences = dict(affinities=difference)
        unstable = bool(problem) and not is_stable(model, kind, images)
        rows.append(
            Row(name, images.shape, differences, '', problem, unstable)
        )
    return rows


@contextlib.contextmanager
def _record_affinities(
    model: nn.Module,
) -> Iterator[Dict[Tuple[int, int], Tensor]]:
    """Record the affinities of all pairs of regions, by stage and block."""
    affinities: Dict[Tuple[int, int], Tensor] = {}

    def keep(key: Tuple[int, int], router: nn.Module, args: tuple) -> None:
        queries, keys = args
        affinities[key] = (queries * router.scale) @ keys.mT

    with contextlib.ExitStack() as hooks:
        for key, layer in find_layers(model).items():
            if isinstance(layer, BiLevelRoutingAttention):
                handle = layer.router.register_forward_pre_hook(
                    functools.partial(keep, key)
                )
                hooks.callback(handle.remove)
        yield affinities
