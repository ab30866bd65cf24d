"""Hooks that every run has, so that nothing is lost and nothing gets in."""

import functools
import inspect
import math
import os
import signal
import threading
from pathlib import Path
from types import FrameType
from typing import Any, Dict, Iterator, List, Optional

import torch
from mmengine.dist import (
    all_reduce,
    get_world_size,
    is_main_process,
    master_only,
)
from mmengine.hooks import CheckpointHook, EMAHook, Hook, LoggerHook
from mmengine.model import is_model_wrapper
from mmengine.optim import AmpOptimWrapper, OptimWrapper, OptimWrapperDict
from mmengine.runner import EpochBasedTrainLoop, Runner
from mmengine.structures import BaseDataElement
from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from mmbiformer.datacheck.checks import check_labels
from mmbiformer.utils.errors import (
    ConfigError,
    NonFiniteError,
    TrainingInterrupted,
)
from mmbiformer.utils.text import list_some, suggest

from .batches import ITERATION, seed_generators
from .resume import INTERRUPTED, write_last_checkpoint

SIGNALS = (signal.SIGINT, signal.SIGTERM)
"""tuple: Signals that end training in order: Ctrl-C, and a scheduler's."""


class LabelCheck(Hook):
    """Refuse label maps with values that are no class.

    The loss would end with an index out of range, on a GPU with an assertion
    that names nothing, and the metric would ignore them.
    """

    priority = 'VERY_HIGH'

    def __init__(self) -> None:
        self._ignored: Optional[List[int]] = None
        self._failing: Optional[bool] = None

    def _before_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: Optional[dict] = None,
        mode: str = 'train',
    ) -> None:
        """Check the labels of a batch."""
        dataset = getattr(runner, f'{mode}_dataloader').dataset
        classes = (getattr(dataset, 'metainfo', None) or {}).get('classes')
        if not classes:
            return
        ignored = [
            getattr(dataset, 'ignore_index', 255),
            *self._ignored_by_heads(runner.model),
        ]
        for sample in _data_samples(data_batch):
            if 'gt_sem_seg' not in sample:
                continue
            labels = sample.gt_sem_seg.data
            name = sample.get('seg_map_path', 'a label map')
            check_labels(labels, len(classes), ignored, name)
            if mode == 'train' and self._fails_on_ignored(runner.model):
                _check_all_pixels_count(labels, len(classes), runner, name)

    def _ignored_by_heads(self, model: nn.Module) -> List[int]:
        """Return the labels that the heads of a model ignore."""
        if self._ignored is None:
            values = (
                getattr(module, 'ignore_index', None)
                for module in model.modules()
            )
            self._ignored = [one for one in values if isinstance(one, int)]
        return self._ignored

    def _fails_on_ignored(self, model: nn.Module) -> bool:
        """Tell whether a loss of a model fails on pixels that are ignored."""
        if self._failing is None:
            self._failing = any(
                _fails_on_ignored(loss)
                for head in model.modules()
                # Other heads do not apply their losses to label maps.
                if getattr(
                    type(head), 'loss_by_feat', _fails_on_ignored
                ).__qualname__
                == 'BaseDecodeHead.loss_by_feat'
                for loss in head.loss_decode.modules()
            )
        return self._failing


def _fails_on_ignored(loss: nn.Module) -> bool:
    """Tell whether a loss looks up the class weight of ignored pixels."""
    weights = getattr(loss, 'class_weight', None)
    if weights is None or len(weights) > 255:
        return False
    scores = torch.zeros(1, len(weights), 1, 1)
    try:
        loss(scores, torch.full((1, 1, 1), 255), ignore_index=255)
    except IndexError:
        return True
    except Exception:
        # It takes something else.
        return False
    return False


def _check_all_pixels_count(
    labels: torch.Tensor, classes: int, runner: Runner, name: str
) -> None:
    """Check that no pixel is ignored, here or by padding."""
    model = runner.model
    model = model.module if is_model_wrapper(model) else model
    shape = labels.shape[-2:]
    size = getattr(model.data_preprocessor, 'size', None) or shape
    padded = shape[0] < size[0] or shape[1] < size[1]
    if padded or (labels >= classes).any():
        raise ConfigError(
            f'{name} has pixels that are ignored, or is padded with some, and '
            "mmseg's CrossEntropyLoss with class_weight fails on them; "
            "loss_decode=dict(type='WeightedCrossEntropyLoss', "
            'class_weight=…) of mmbiformer leaves them out'
        )


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
            for wrapper in _optim_wrappers(runner)
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


def _optim_wrappers(runner: Runner) -> List[OptimWrapper]:
    """Return the optimizers of a run, which may be several."""
    wrapper = runner.optim_wrapper
    if isinstance(wrapper, OptimWrapperDict):
        return list(wrapper.values())
    return [wrapper]


def _data_samples(data_batch: object) -> Iterator[BaseDataElement]:
    """Yield the data samples of a batch, which may have any form.

    Of the views of an image in test-time augmentation, the first is taken.
    """
    if isinstance(data_batch, dict):
        for sample in data_batch.get('data_samples') or ():
            sample = sample[0] if isinstance(sample, list) else sample
            if isinstance(sample, BaseDataElement):
                yield sample


def _image_files(data_batch: object) -> List[str]:
    """Return the image files of a batch, as far as it names them."""
    return [
        str(sample.get('img_path', '?'))
        for sample in _data_samples(data_batch)
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


# The runs that take signals now, and the signals that each thread that forks
# has blocked before.
_active: List['Interruption'] = []
_forking = threading.local()


def _before_fork() -> None:
    """Hold the signals back until the child has its own handlers."""
    if _active:
        _forking.mask = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)


def _after_fork() -> None:
    """Let the signals in again."""
    mask = vars(_forking).pop('mask', None)
    if mask is not None:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _after_fork_in_child() -> None:
    """Give a child the handlers that it would have without a run of ours.

    A worker of a pool that notes SIGTERM and lives on would be waited for
    without end.
    """
    while _active:
        _active.pop().restore()
    _after_fork()


@functools.cache
def _register_at_fork() -> None:
    """Register the three functions above, once in a process."""
    if hasattr(os, 'register_at_fork'):
        os.register_at_fork(
            before=_before_fork,
            after_in_parent=_after_fork,
            after_in_child=_after_fork_in_child,
        )


def spare_children(interruption: 'Interruption') -> None:
    """Keep the signal handlers of a run out of the processes that it forks.

    Args:
        interruption (Interruption): What takes the signals of the run.
    """
    _register_at_fork()
    _active.append(interruption)


class Interruption(Hook):
    """End training at the next iteration after a signal, and save its state.

    As a context manager it takes the signals; a second one ends the run at
    once. Several processes agree on when to stop every tenth iteration.
    """

    priority = 'LOWEST'

    def __init__(self) -> None:
        self.signum: Optional[int] = None
        self.running = False
        self._former = {}

    def __enter__(self) -> 'Interruption':
        """Take the signals, as far as this thread can."""
        if threading.current_thread() is threading.main_thread():
            self._former = {
                signum: signal.signal(signum, self._handle)
                for signum in SIGNALS
            }
            spare_children(self)
        return self

    def __exit__(self, *_) -> None:
        """Restore the former signal handlers."""
        self.running = False
        if self._former:
            _active.remove(self)
            self.restore()

    def restore(self) -> None:
        """Restore the former signal handlers."""
        for signum, handler in self._former.items():
            # None stands for one that Python did not set and cannot restore.
            signal.signal(
                signum, signal.SIG_DFL if handler is None else handler
            )
        self._former = {}

    def _handle(self, signum: int, frame: Optional[FrameType]) -> None:
        """Stop after this iteration; at a second signal, at once."""
        if not self.running or self.signum is not None:
            raise TrainingInterrupted(signum, 'ended at once, without saving')
        self.signum = signum
        # Not by the logger, which may be what was interrupted.
        os.write(
            2,
            f'\n{signal.Signals(signum).name}: training ends after this '
            'iteration and saves its state; a second one ends it at once\n'
            .encode(),
        )  # fmt: skip

    def before_train(self, runner: Runner) -> None:
        """Save the state from now on, if a signal ends the run."""
        self.running = True

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch=None, outputs=None
    ) -> None:
        """Stop after an iteration that stepped."""
        loop = runner.train_loop
        by_epoch = isinstance(loop, EpochBasedTrainLoop)
        position = dict(epoch=runner.epoch, iter=runner.iter + 1)
        if by_epoch:
            if self.end_of_epoch(loop.dataloader, batch_idx):
                return
            position['batch'] = batch_idx + 1
        if self._agreed(runner.iter) and all(
            wrapper.should_update() for wrapper in _optim_wrappers(runner)
        ):
            self._stop(runner, position)

    def after_train_epoch(self, runner: Runner) -> None:
        """Stop after an epoch."""
        by_epoch = isinstance(runner.train_loop, EpochBasedTrainLoop)
        if by_epoch and self._agreed():
            self._stop(runner, dict(epoch=runner.epoch + 1, iter=runner.iter))

    def after_val_iter(
        self, runner: Runner, batch_idx: int, data_batch=None, outputs=None
    ) -> None:
        """Stop in a validation; its metrics are lost, no weights are."""
        # Processes may have different numbers of batches to validate.
        if self.running and get_world_size() == 1 and self.signum is not None:
            for hook in runner.hooks:
                if isinstance(hook, EMAHook):
                    # It swaps the trained weights in again.
                    hook.after_val_epoch(runner)
            self._stop(runner, dict(epoch=runner.epoch, iter=runner.iter))

    def _agreed(self, iteration: int = -1) -> bool:
        """Tell whether to stop, in all processes alike."""
        if get_world_size() == 1:
            return self.signum is not None
        if (iteration + 1) % 10:
            return False
        signum = torch.tensor(float(self.signum or 0))
        all_reduce(signum, 'max')
        self.signum = int(signum) or None
        return self.signum is not None

    def _stop(self, runner: Runner, position: dict) -> None:
        """Save the state, if no checkpoint has it, and end."""
        if (position['epoch'], position['iter']) != runner.saved_position:
            runner.save_checkpoint(
                runner.work_dir, INTERRUPTED, meta=position, by_epoch=False
            )
            if is_main_process():
                write_last_checkpoint(
                    runner.work_dir, os.path.join(runner.work_dir, INTERRUPTED)
                )
        raise TrainingInterrupted(
            self.signum,
            f'after iteration {position["iter"]}; its state is in '
            f'{runner.last_checkpoint}. Resume it by --resume',
        )
