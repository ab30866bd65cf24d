"""A hook that draws the routing while a model trains."""

from typing import Dict, List, Optional, Sequence, Tuple

import mmcv
import torch
from mmengine.dataset import pseudo_collate
from mmengine.dist import master_only
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.registry import HOOKS
from mmengine.runner import EpochBasedTrainLoop, Runner

from .geometry import ImageGeometry
from .points import default_points
from .recording import RoutingRecords, record_routing, resolve_layer
from .statistics import routing_statistics


@HOOKS.register_module()
class RoutingVisualizationHook(Hook):
    """Show how the routing develops on a few fixed validation images.

    To the visualizer's backends go, every ``interval`` epochs or iterations,

    - for each image, a picture ``routing_<index>`` of where points of it
      look, see :func:`mmbiformer.visualization.draw_routing`;
    - a picture ``routing_usage`` of how often each region is chosen in the
      last block of each stage;
    - the scalars ``routing/stage<i>/<name>``, and a line in the log, of
      :func:`mmbiformer.visualization.routing_statistics`, as means over the
      images and the blocks of a stage.

    Training goes on as it would without the hook.

    Args:
        interval (int): Epochs or iterations from one time to the next.
            Default: 1.
        by_epoch (bool): Whether ``interval`` counts epochs; False for a run
            by iterations. Default: True.
        indices (Sequence[int]): Which images of the validation set. Default:
            (0, 1).
        stage (int): Stage of the layer in the pictures, counted from 1.
            Default: 3.
        block (int): Block of the stage, counted from 1, or from -1 at the
            end. Default: -1.
        points (Sequence[tuple[float, float]], optional): Points (x, y) to
            look from, in units of the image's width and height, from 0 to
            below 1. Default: None, which means three on a diagonal.

    Raises:
        ValueError: If an argument is outside what is said above.

    Example:
        >>> custom_hooks = [dict(type='RoutingVisualizationHook')]
    """

    priority = 'LOW'

    def __init__(
        self,
        interval: int = 1,
        by_epoch: bool = True,
        indices: Sequence[int] = (0, 1),
        stage: int = 3,
        block: int = -1,
        points: Optional[Sequence[Tuple[float, float]]] = None,
    ) -> None:
        if interval < 1:
            raise ValueError(
                f'interval must be at least 1, got interval={interval}'
            )
        for x, y in points or []:
            if not (0 <= x < 1 and 0 <= y < 1):
                raise ValueError(
                    'points are in units of width and height, from 0 to '
                    f'below 1, got points={points}'
                )
        self.interval = interval
        self.by_epoch = by_epoch
        self.indices = tuple(indices)
        self.stage = stage
        self.block = block
        self.points = points

    def before_train(self, runner: Runner) -> None:
        """Refuse a run that the hook cannot serve."""
        resolve_layer(runner.model, self.stage, self.block)
        if self.by_epoch != isinstance(runner.train_loop, EpochBasedTrainLoop):
            raise ValueError(
                f'by_epoch={self.by_epoch} of RoutingVisualizationHook does '
                'not fit the training loop, '
                f'{type(runner.train_loop).__name__}'
            )
        if runner.val_loop is None:
            raise ValueError(
                'RoutingVisualizationHook draws validation images, but the '
                'config has no val_dataloader'
            )
        count = len(runner.val_loop.dataloader.dataset)
        if not all(0 <= index < count for index in self.indices):
            raise ValueError(
                f'indices must be between 0 and {count - 1}, as the '
                f'validation set has {count} images, got '
                f'indices={self.indices}'
            )

    def after_train_epoch(self, runner: Runner) -> None:
        """Draw, where intervals are of epochs."""
        if self.by_epoch and self.every_n_epochs(runner, self.interval):
            self._draw(runner, runner.iter)

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch=None, outputs=None
    ) -> None:
        """Draw, where intervals are of iterations."""
        if not self.by_epoch and self.every_n_train_iters(
            runner, self.interval
        ):
            self._draw(runner, runner.iter + 1)

    @master_only
    @torch.no_grad()
    def _draw(self, runner: Runner, step: int) -> None:
        """Add pictures and scalars of this moment."""
        # Matplotlib takes seconds to import: once it is needed.
        from .drawing import draw_routing, draw_usage, to_image

        model = runner.model
        if is_model_wrapper(model):
            model = model.module
        layer = resolve_layer(model, self.stage, self.block)
        dataset = runner.val_loop.dataloader.dataset
        was_training = model.training
        model.eval()
        every: List[RoutingRecords] = []
        for index in self.indices:
            with (
                record_routing(model) as records,
                record_routing(model, [layer], keep_inputs=True) as drawn,
            ):
                (sample,) = model.test_step(pseudo_collate([dataset[index]]))
            every.append(records)
            path = dataset.get_data_info(index)['img_path']
            image = mmcv.imread(path, channel_order='rgb')
            height, width = image.shape[:2]
            points = default_points((height, width))
            if self.points:
                points = [(x * width, y * height) for x, y in self.points]
            figure = draw_routing(
                image, drawn[layer], points,
                ImageGeometry.from_metainfo(sample.metainfo),
            )  # fmt: skip
            runner.visualizer.add_image(
                f'routing_{index}', to_image(figure), step
            )
        model.train(was_training)

        merged = _merge(every)
        last = {record.stage: record for record in merged.values()}
        runner.visualizer.add_image(
            'routing_usage', to_image(draw_usage(list(last.values()))), step
        )
        scalars = _stage_means(merged)
        runner.visualizer.add_scalars(scalars, step=step)
        runner.logger.info(
            f'Routing at iteration {step}: '
            + '  '.join(f'{name}: {v:.4f}' for name, v in scalars.items())
        )


def _merge(every: Sequence[RoutingRecords]) -> RoutingRecords:
    """Join the records of several images to those of one batch."""
    merged = every[0]
    for key, record in merged.items():
        record.routing = torch.cat([one[key].routing for one in every])
    return merged


def _stage_means(records: RoutingRecords) -> Dict[str, float]:
    """Return the statistics of each stage, as means over its blocks."""
    sums: Dict[str, float] = {}
    for record in records.values():
        blocks = sum(other.stage == record.stage for other in records.values())
        for name, value in routing_statistics(record.routing).items():
            name = f'routing/stage{record.stage}/{name}'
            sums[name] = sums.get(name, 0.0) + value / blocks
    return sums
