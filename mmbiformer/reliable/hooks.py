"""Hooks that every run has, so that nothing is lost and nothing gets in."""

import inspect
import math
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional

import torch
from mmengine.dist import is_main_process, master_only
from mmengine.hooks import CheckpointHook, Hook, LoggerHook
from mmengine.optim import AmpOptimWrapper, OptimWrapper, OptimWrapperDict
from mmengine.runner import EpochBasedTrainLoop, Runner
from mmengine.structures import BaseDataElement
from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from mmbiformer.utils.errors import ConfigError, NonFiniteError
from mmbiformer.utils.text import list_some, suggest

from .batches import ITERATION, seed_generators
from .resume import INTERRUPTED, write_last_checkpoint


class IterationSeed(Hook):
    """Let the random numbers of an iteration depend on its number alone."""

    priority = 'VERY_HIGH'

    def before_train_epoch(self, runner: Runner) -> None:
        """Set the epoch of the batches."""
        loop = runner.train_loop
        if isinstance(loop, EpochBasedTrainLoop):
            batches = getattr(loop.dataloader, 'resumable', None)
            if batches is not None:
                batches.epoch = runner.epoch

    def before_train_iter(
        self, runner: Runner, batch_idx: int, data_batch=None
    ) -> None:
        """Seed what the model and the losses draw from."""
        seed_generators(ITERATION, runner.seed, runner.iter)


class InvalidLossCheck(Hook):
    """Stop when the loss or the norm of its gradients is not finite.

    Every iteration: mmengine fetches both from the GPU for its log anyway.
    """

    priority = 'VERY_HIGH'

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch=None, outputs=None
    ) -> None:
        """Check the numbers of an iteration."""
        numbers = {
            name: float(torch.as_tensor(value).detach())
            for name, value in (outputs or {}).items()
            if 'loss' in name and torch.as_tensor(value).numel() == 1
        }
        norm = runner.message_hub.log_scalars.get('train/grad_norm')
        # In mixed precision such a gradient is normal: the step is left out,
        # and the loss is scaled less.
        if norm and not any(
            isinstance(wrapper, AmpOptimWrapper)
            for wrapper in optim_wrappers(runner)
        ):
            numbers['grad_norm'] = float(norm.current())
        if all(map(math.isfinite, numbers.values())):
            return
        listed = ', '.join(f'{name}: {v:.4g}' for name, v in numbers.items())
        last = runner.last_checkpoint or 'none was written yet'
        raise NonFiniteError(
            f'the numbers of iteration {runner.iter + 1} (epoch '
            f'{runner.epoch + 1}) are not finite: {listed}. '
            f'Its images: {", ".join(_image_files(data_batch))}. The last '
            f'good checkpoint: {last}. Resumed unchanged, the run comes here '
            'again; a lower learning rate, a longer warm-up or '
            'optim_wrapper.clip_grad may help'
        )


def optim_wrappers(runner: Runner) -> List[OptimWrapper]:
    """Return the optimizers of a run, which may be several.

    Args:
        runner (Runner): Runner of the run.

    Returns:
        list[OptimWrapper]: Its optimizers.
    """
    wrapper = runner.optim_wrapper
    if isinstance(wrapper, OptimWrapperDict):
        return list(wrapper.values())
    return [wrapper]


def data_samples(data_batch: object) -> Iterator[BaseDataElement]:
    """Yield the data samples of a batch, which may have any form.

    Of the views of an image in test-time augmentation, the first is taken.

    Args:
        data_batch (object): What the dataloader gave.

    Yields:
        BaseDataElement: The data sample of an image.
    """
    if isinstance(data_batch, dict):
        for sample in data_batch.get('data_samples') or ():
            sample = sample[0] if isinstance(sample, list) else sample
            if isinstance(sample, BaseDataElement):
                yield sample


def _image_files(data_batch: object) -> List[str]:
    """Return the image files of a batch, as far as it names them."""
    return [
        str(sample.get('img_path', '?')) for sample in data_samples(data_batch)
    ]


def check_finite(model: nn.Module) -> None:
    """Check that the weights and batch statistics of a model are finite.

    Args:
        model (nn.Module): The model.

    Raises:
        NonFiniteError: If any is not.
    """
    values = dict(model.named_parameters())
    for name, module in model.named_modules():
        if isinstance(module, _NormBase) and module.track_running_stats:
            for kind in ('running_mean', 'running_var'):
                values[f'{name}.{kind}'] = getattr(module, kind)
    for name, value in values.items():
        if not torch.isfinite(value).all():
            raise NonFiniteError(
                f'the weights hold numbers that are not finite ({name}), and '
                'are not saved'
            )


class SafeLoggerHook(LoggerHook):
    """mmengine's LoggerHook, whose first process alone writes the metrics.

    All processes write the same file there, at the same time: it then may hold
    the end of one text after the other.
    """

    @master_only
    def after_test_epoch(
        self, runner: Runner, metrics: Optional[Dict[str, float]] = None
    ) -> None:
        """Write the metrics of a test to the log and to a file."""
        super().after_test_epoch(runner, metrics)


class SafeCheckpointHook(CheckpointHook):
    """mmengine's hook, which deletes old checkpoints only after a new one.

    Arguments are those of mmengine's ``CheckpointHook``.

    Raises:
        ConfigError: If there is no such argument. mmengine's hook takes any,
            and fails when it saves the first checkpoint.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        for name in self.args:
            known = inspect.signature(CheckpointHook).parameters
            raise ConfigError(
                f'default_hooks.checkpoint.{name}={kwargs[name]!r}: '
                f'CheckpointHook has no argument {name!r}'
                f'{suggest(name, known)}. Its arguments: '
                f'{list_some([one for one in known if one != "kwargs"], 30)}'
            )

    def _save_checkpoint_with_step(
        self, runner: Runner, step: int, meta: dict
    ) -> None:
        """Save a checkpoint, name it as the last, and delete outdated ones."""
        outdated = []
        if self.max_keep_ckpts > 0 and step not in self.keep_ckpt_ids:
            kept = [*self.keep_ckpt_ids, step]
            outdated = kept[: -self.max_keep_ckpts]
            self.keep_ckpt_ids.append(step)
            runner.message_hub.update_info(
                'keep_ckpt_ids', list(self.keep_ckpt_ids)
            )
        name = self.filename_tmpl.format(step)
        self.last_ckpt = self.file_backend.join_path(self.out_dir, name)
        runner.message_hub.update_info('last_ckpt', self.last_ckpt)
        runner.save_checkpoint(
            self.out_dir,
            name,
            self.file_client_args,
            save_optimizer=self.save_optimizer,
            save_param_scheduler=self.save_param_scheduler,
            meta=meta,
            by_epoch=self.by_epoch,
            backend_args=self.backend_args,
            **self.args,
        )
        if is_main_process():
            write_last_checkpoint(runner.work_dir, self.last_ckpt)
            for step in outdated:
                self._remove(self.filename_tmpl.format(step))
            Path(runner.work_dir, INTERRUPTED).unlink(missing_ok=True)

    def _remove(self, name: str) -> None:
        """Delete a checkpoint; those of DeepSpeed are folders."""
        path = self.file_backend.join_path(self.out_dir, name)
        if self.file_backend.isfile(path):
            self.file_backend.remove(path)
        elif self.file_backend.isdir(path):
            self.file_backend.rmtree(path)

    def _save_best_checkpoint(self, runner: Runner, metrics: dict) -> None:
        """Save the best checkpoint, and then delete the one before."""
        if not self.save_best:
            return
        missing = set(self.key_indicators) - {'auto', *metrics}
        if missing:
            raise ConfigError(
                f'default_hooks.checkpoint.save_best={min(missing)!r} is not '
                'a metric of the validation, which has '
                f'{list_some(list(metrics), 30)}'
            )
        before = self._best()
        self._set_best(dict.fromkeys(before))
        super()._save_best_checkpoint(runner, metrics)
        after = self._best()
        self._set_best({key: after.get(key) or before[key] for key in before})
        if is_main_process():
            for key, path in before.items():
                if path and after.get(key) not in (None, path):
                    self._remove(Path(path).name)

    def _best(self) -> Dict[str, Optional[str]]:
        """Return the best checkpoint by each metric."""
        if hasattr(self, 'best_ckpt_path_dict'):
            return dict(self.best_ckpt_path_dict)
        return {'': self.best_ckpt_path}

    def _set_best(self, paths: Dict[str, Optional[str]]) -> None:
        """Set the best checkpoint by each metric."""
        if hasattr(self, 'best_ckpt_path_dict'):
            self.best_ckpt_path_dict = paths
        else:
            self.best_ckpt_path = paths['']
