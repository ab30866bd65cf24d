"""Hook that visualizes the routing during training."""

from typing import Dict, List, Optional, Sequence, Tuple

import mmcv
import torch
from mmengine.dataset import pseudo_collate
from mmengine.dist import master_only
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.registry import HOOKS
from mmengine.runner import EpochBasedTrainLoop, Runner

from mmbiformer.utils.errors import ConfigError

from .geometry import ImageGeometry
from .points import default_points
from .recording import RoutingRecords, record_routing, resolve_layer
from .statistics import routing_statistics


@HOOKS.register_module()
class RoutingVisualizationHook(Hook):
    """Visualize the routing on a few fixed validation images.

    Every ``interval`` epochs or iterations, the hook adds to the visualizer's
    backends

    - for each image, a picture ``routing_<index>`` of the routed regions and
      the attention of query points, see
      :func:`mmbiformer.visualization.draw_routing`;
    - a picture ``routing_usage`` of how often each region is selected in the
      last block of each stage;
    - the scalars ``routing/stage<i>/<name>`` of
      :func:`mmbiformer.visualization.routing_statistics`, averaged over the
      images and the blocks of a stage; they are logged, too.

    The hook does not change the training.

    Args:
        interval (int): Interval in epochs or iterations. Default: 1.
        by_epoch (bool): Whether ``interval`` is in epochs; it must be False
            for iteration-based training. Default: True.
        indices (Sequence[int]): Indices of the images in the validation set.
            Default: (0, 1).
        stage (int): Stage of the layer in the pictures, counted from 1.
            Default: 3.
        block (int): Block of the stage, counted from 1, or backward from
            -1. Default: -1, the last.
        points (Sequence[tuple[float, float]], optional): Query points (x, y),
            relative to the image's width and height, in [0, 1). Default:
            None, which means three points on a diagonal.

    Raises:
        ConfigError: If an argument is out of range.

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
            raise ConfigError(
                f'interval must be at least 1, got interval={interval}'
            )
        for x, y in points or []:
            if not (0 <= x < 1 and 0 <= y < 1):
                raise ConfigError(
                    'points must be relative to width and height, in '
                    f'[0, 1), got points={points}'
                )
        self.interval = interval
        self.by_epoch = by_epoch
        self.indices = tuple(indices)
        self.stage = stage
        self.block = block
        self.points = points

    def before_train(self, runner: Runner) -> None:
        """Check that the hook fits the run."""
        resolve_layer(runner.model, self.stage, self.block)
        if self.by_epoch != isinstance(runner.train_loop, EpochBasedTrainLoop):
            raise ConfigError(
                f'by_epoch={self.by_epoch} of RoutingVisualizationHook does '
                'not match the training loop, '
                f'{type(runner.train_loop).__name__}'
            )
        if runner.val_loop is None:
            raise ConfigError(
                'RoutingVisualizationHook needs validation images, but the '
                'config has no val_dataloader'
            )
        count = len(runner.val_loop.dataloader.dataset)
        if not all(0 <= index < count for index in self.indices):
            raise ConfigError(
                f'indices must be between 0 and {count - 1}, as the '
                f'validation set has {count} images, got '
                f'indices={self.indices}'
            )

    def after_train_epoch(self, runner: Runner) -> None:
        """Visualize every ``interval`` epochs."""
        if self.by_epoch and self.every_n_epochs(runner, self.interval):
            self._visualize(runner, runner.iter)

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch=None, outputs=None
    ) -> None:
        """Visualize every ``interval`` iterations."""
        if not self.by_epoch and self.every_n_train_iters(
            runner, self.interval
        ):
            self._visualize(runner, runner.iter + 1)

    @master_only
    @torch.no_grad()
    def _visualize(self, runner: Runner, step: int) -> None:
        """Add the pictures and scalars of the current model."""
        # Matplotlib takes seconds to import, and is only needed here.
        from .drawing import draw_routing, draw_usage, to_image

        model = runner.model
        if is_model_wrapper(model):
            model = model.module
        layer = resolve_layer(model, self.stage, self.block)
        dataset = runner.val_loop.dataloader.dataset
        was_training = model.training
        model.eval()
        records_per_image: List[RoutingRecords] = []
        for index in self.indices:
            with (
                record_routing(model) as records,
                record_routing(model, [layer], keep_inputs=True) as drawn,
            ):
                (sample,) = model.test_step(pseudo_collate([dataset[index]]))
            records_per_image.append(records)
            path = dataset.get_data_info(index)['img_path']
            image = mmcv.imread(path, channel_order='rgb')
            height, width = image.shape[:2]
            geometry = ImageGeometry.from_metainfo(sample.metainfo)
            points = default_points((height, width), geometry.visible)
            if self.points:
                points = [(x * width, y * height) for x, y in self.points]
            figure = draw_routing(image, drawn[layer], points, geometry)
            runner.visualizer.add_image(
                f'routing_{index}', to_image(figure), step
            )
        model.train(was_training)

        merged = _merge_records(records_per_image)
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


def _merge_records(
    records_per_image: Sequence[RoutingRecords],
) -> RoutingRecords:
    """Merge the records of single images into those of one batch."""
    merged = records_per_image[0]
    for key, record in merged.items():
        record.routing = torch.cat(
            [records[key].routing for records in records_per_image]
        )
    return merged


def _stage_means(records: RoutingRecords) -> Dict[str, float]:
    """Return the statistics of each stage, averaged over its blocks."""
    sums: Dict[str, float] = {}
    for record in records.values():
        blocks = sum(other.stage == record.stage for other in records.values())
        for name, value in routing_statistics(record.routing).items():
            name = f'routing/stage{record.stage}/{name}'
            sums[name] = sums.get(name, 0.0) + value / blocks
    return sums
