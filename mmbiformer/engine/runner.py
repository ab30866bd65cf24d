"""mmengine's Runner, with errors where it would go on or be obscure."""

import os.path as osp
from typing import Callable, Optional, Union

from mmengine.config import Config
from mmengine.device import get_device
from mmengine.hooks import Hook
from mmengine.model import (
    BaseTTAModel,
    is_model_wrapper,
    revert_sync_batchnorm,
)
from mmengine.registry import DATASETS, MODEL_WRAPPERS, RUNNERS
from mmengine.runner import Runner
from torch import nn
from torch.utils.data import DataLoader

from .checks import check_annotations, check_labels
from .samples import check_samples


class LabelCheck(Hook):
    """Refuse label maps with values that are no class.

    The loss would end with an index out of range, on a GPU with an assertion
    that names nothing, and the metric would pass over them.
    """

    priority = 'VERY_HIGH'

    def _before_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: Optional[dict] = None,
        mode: str = 'train',
    ) -> None:
        """Check the labels of a batch."""
        dataset = getattr(runner, f'{mode}_dataloader').dataset
        classes = dataset.metainfo.get('classes')
        samples = (data_batch or {}).get('data_samples', ())
        if not classes:
            return
        for sample in samples:
            # With test-time augmentation, the views of an image.
            sample = sample[0] if isinstance(sample, list) else sample
            if 'gt_sem_seg' in sample:
                check_labels(
                    sample.gt_sem_seg.data,
                    len(classes),
                    getattr(dataset, 'ignore_index', 255),
                    sample.get('seg_map_path', 'a label map'),
                )


class CheckedRunner(Runner):
    """A Runner that refuses data and weights which do not fit the config."""

    _testing = False

    def register_default_hooks(self, hooks: Optional[dict] = None) -> None:
        """Register the default hooks, and the check of the labels."""
        super().register_default_hooks(hooks)
        if self.cfg.get('default_scope') == 'mmseg':
            self.register_hook(LabelCheck())

    @staticmethod
    def build_dataloader(
        dataloader: Union[DataLoader, dict], *args, **kwargs
    ) -> DataLoader:
        """Build a dataloader; arguments are those of mmengine's Runner.

        Raises:
            ValueError: If the data set is empty or cannot be read.
        """
        try:
            loader = Runner.build_dataloader(dataloader, *args, **kwargs)
        except (
            AssertionError,
            AttributeError,
            LookupError,
            TypeError,
            ValueError,
        ) as error:
            if _is_empty(dataloader['dataset']):
                _refuse_empty(dataloader['dataset'])
            raise ValueError(
                'this data set cannot be built or read '
                f'({type(error).__name__}: {error}): '
                f'{_settings_of(dataloader["dataset"])}'
            ) from error
        if not len(loader.dataset):
            _refuse_empty(dataloader['dataset'])
        if isinstance(dataloader, dict):
            name = f'data set {_settings_of(dataloader["dataset"])}'
            check_annotations(loader.dataset, name)
            check_samples(loader.dataset)
        return loader

    def wrap_model(
        self, model_wrapper_cfg: Optional[dict], model: nn.Module
    ) -> nn.Module:
        """Wrap the model for several processes, on CPUs too.

        mmengine names a device, which only a GPU has a number for, and
        synced batch norm needs a GPU.
        """
        if not self.distributed or get_device() != 'cpu':
            return super().wrap_model(model_wrapper_cfg, model)
        unused = self.cfg.get('find_unused_parameters', False)
        wrapper = dict(
            type='MMDistributedDataParallel',
            broadcast_buffers=False,
            find_unused_parameters=unused,
        )
        wrapper.update(model_wrapper_cfg or {})
        return MODEL_WRAPPERS.build(
            dict(wrapper, module=revert_sync_batchnorm(model))
        )

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
            ValueError: If the runner tests or resumes, and weights are
                missing or of another shape: mmengine would go on with random
                ones. Or if it resumes, and the optimizer's state is missing.
        """
        try:
            checkpoint = super().load_checkpoint(
                filename, map_location, *args, **kwargs
            )
        except (AttributeError, TypeError) as error:
            raise ValueError(
                f'checkpoint={filename!r} holds no weights'
            ) from error
        if self._testing or self._resume:
            model = self.model
            if is_model_wrapper(model):
                model = model.module
            if isinstance(model, BaseTTAModel):
                model = model.module
            check_weights(model, checkpoint, filename)
        if self._resume and 'optimizer' not in checkpoint:
            raise ValueError(
                f'checkpoint={filename!r} holds no state of the optimizer, '
                'and cannot be resumed; to start from its weights: '
                f'--cfg-options load_from={filename}'
            )
        return checkpoint


def build_runner(cfg: Config) -> Runner:
    """Build the runner of a config.

    Args:
        cfg (Config): Config of a run.

    Returns:
        Runner: A :class:`CheckedRunner`, or what ``runner_type`` names.
    """
    if 'runner_type' in cfg:
        return RUNNERS.build(cfg)
    return CheckedRunner.from_cfg(cfg)


def _settings_of(dataset: dict) -> dict:
    """Return the settings that say where a data set lies and what is in it."""
    keys = ('data_root', 'ann_file', 'data_prefix', 'metainfo', 'filter_cfg')
    return {key: dataset[key] for key in keys if dataset.get(key)}


def _is_empty(dataset: dict) -> bool:
    """Tell whether a data set could be read, and has no image.

    mmengine's data sets cannot serialize an empty list, and say only that
    nothing can be concatenated.
    """
    try:
        return not len(DATASETS.build(dict(dataset, serialize_data=False)))
    except Exception:
        return False


def _refuse_empty(dataset: dict) -> None:
    """Say which data set is empty, and what may have emptied it."""
    root = osp.abspath(dataset.get('data_root') or '.')
    raise ValueError(
        f'the data set in data_root={root!r} is empty: no image is left. '
        'Check that the annotations are not empty, and that their category '
        'names are those of metainfo.classes. Its settings: '
        f'{_settings_of(dataset)}'
    )


def check_weights(model: nn.Module, checkpoint: dict, filename: str) -> None:
    """Load weights; refuse those that leave weights of a model as they were.

    Args:
        model (nn.Module): The model; changed in place.
        checkpoint (dict): What the file holds.
        filename (str): The file, for the message.

    Raises:
        ValueError: If weights are missing or of another shape, or the
            backbone has none of the names of some.
    """
    weights = checkpoint.get('state_dict', checkpoint)
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
