"""mmengine's Runner, with errors where it would go on or be obscure."""

import os.path as osp
from collections import OrderedDict
from typing import Callable, Union

from mmengine.config import Config
from mmengine.model import BaseTTAModel, is_model_wrapper
from mmengine.registry import DATASETS, RUNNERS
from mmengine.runner import Runner
from torch import nn
from torch.utils.data import DataLoader

from .launch import init_cpu_process_group


class CheckedRunner(Runner):
    """A Runner that refuses empty data sets and, in tests, foreign weights."""

    _testing = False

    @staticmethod
    def build_dataloader(
        dataloader: Union[DataLoader, dict], *args, **kwargs
    ) -> DataLoader:
        """Build a dataloader; arguments are those of mmengine's Runner.

        Raises:
            ValueError: If the data set is empty.
        """
        try:
            loader = Runner.build_dataloader(dataloader, *args, **kwargs)
        except ValueError:
            # mmengine's data sets cannot serialize an empty list, and say
            # only that nothing can be concatenated.
            dataset = dict(dataloader['dataset'], serialize_data=False)
            if len(DATASETS.build(dataset)):
                raise
            _refuse_empty(dataset)
        if not len(loader.dataset):
            _refuse_empty(dataloader['dataset'])
        return loader

    def test(self) -> dict:
        """Test; the checkpoint must hold every weight of the model."""
        self._testing = True
        return super().test()

    def load_checkpoint(
        self,
        filename: str,
        map_location: Union[str, Callable] = 'cpu',
        *args,
        **kwargs,
    ) -> dict:
        """Load a checkpoint; arguments are those of mmengine's Runner.

        Raises:
            ValueError: If the runner tests and weights are missing or of
                another shape; mmengine would test random weights.
        """
        checkpoint = super().load_checkpoint(
            filename, map_location, *args, **kwargs
        )
        if self._testing:
            model = self.model
            if is_model_wrapper(model):
                model = model.module
            if isinstance(model, BaseTTAModel):
                model = model.module
            _check_weights(model, checkpoint, filename)
        return checkpoint


def build_runner(cfg: Config) -> Runner:
    """Build the runner of a config, with its processes where it has several.

    Args:
        cfg (Config): Config of a run.

    Returns:
        Runner: A :class:`CheckedRunner`, or what ``runner_type`` names.
    """
    init_cpu_process_group(cfg.launcher)
    if 'runner_type' in cfg:
        return RUNNERS.build(cfg)
    return CheckedRunner.from_cfg(cfg)


def _refuse_empty(dataset: dict) -> None:
    """Say which data set is empty, and what may have emptied it."""
    settings = {
        key: dataset[key]
        for key in ('ann_file', 'data_prefix', 'metainfo', 'filter_cfg')
        if dataset.get(key)
    }
    root = osp.abspath(dataset.get('data_root') or '.')
    raise ValueError(
        f'the data set in data_root={root!r} is empty: no image is left. '
        'Check that the annotations are not empty, and that their category '
        f'names are those of metainfo.classes. Its settings: {settings}'
    )


def _check_weights(model: nn.Module, checkpoint: dict, filename: str) -> None:
    """Refuse a checkpoint that leaves weights of a model as they were."""
    weights = OrderedDict(checkpoint.get('state_dict', checkpoint))
    weights = {
        name[len('module.') :] if name.startswith('module.') else name: value
        for name, value in weights.items()
    }
    try:
        missing, surplus = model.load_state_dict(weights, strict=False)
    except RuntimeError as error:
        raise ValueError(
            f'checkpoint={filename!r} is not for the model of this config: '
            f'{error}'
        ) from None
    # Heads may be left out on purpose, such as an auxiliary one.
    surplus = [name for name in surplus if name.startswith('backbone.')]
    for problem, names in (('lacks', missing), ('has besides', surplus)):
        if names:
            raise ValueError(
                f'checkpoint={filename!r} is not for the model of this '
                f'config: it {problem} {len(names)} weights, such as '
                f'{names[:5]}'
            )
