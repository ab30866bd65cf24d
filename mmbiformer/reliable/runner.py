"""mmengine's Runner, with checks of what it takes, and exact resuming."""

import errno
import os
import os.path as osp
import shutil
from collections.abc import Sized
from contextlib import contextmanager
from typing import Callable, Dict, Iterator, Optional, Tuple, Union

from mmengine.config import Config
from mmengine.device import get_device
from mmengine.dist import broadcast_object_list, get_rank, is_main_process
from mmengine.fileio import (
    FileClient,
    HardDiskBackend,
    LocalBackend,
    get_file_backend,
)
from mmengine.hooks import CheckpointHook, LoggerHook
from mmengine.model import (
    BaseTTAModel,
    is_model_wrapper,
    revert_sync_batchnorm,
)
from mmengine.optim import OptimWrapper
from mmengine.registry import HOOKS, LOOPS, MODEL_WRAPPERS, OPTIMIZERS, RUNNERS
from mmengine.runner import (
    BaseLoop,
    EpochBasedTrainLoop,
    IterBasedTrainLoop,
    Runner,
)
from torch import nn
from torch.optim import Optimizer
from torch.utils.data import DataLoader

from mmbiformer.checkpoints.classifiers import weights_of_authors
from mmbiformer.checkpoints.io import load_checkpoint
from mmbiformer.checkpoints.plain_data import to_plain
from mmbiformer.checkpoints.strict import strict_loading
from mmbiformer.checkpoints.weights import load_all_weights, state_dict_of
from mmbiformer.datacheck.checked_pipeline import check_samples
from mmbiformer.datacheck.evaluators import check_evaluator
from mmbiformer.datacheck.loading import (
    check_leaves,
    check_not_empty,
    describe_dataset,
    loading_errors,
    settings_of,
)
from mmbiformer.datacheck.objects import check_category_ids, check_objects
from mmbiformer.datacheck.records import collection_paused
from mmbiformer.utils.building import config_errors, describe_unregistered
from mmbiformer.utils.errors import (
    CheckpointError,
    ConfigError,
    OutputError,
    UserError,
)
from mmbiformer.utils.files import atomic_write, remove_leftovers
from mmbiformer.utils.text import list_some

from .batches import RunDataLoader, make_resumable, shield_workers
from .features import check_features
from .hooks import (
    InvalidLossCheck,
    IterationSeed,
    SafeCheckpointHook,
    SafeLoggerHook,
    check_finite,
)
from .interruption import Interruption
from .labels import LabelCheck
from .loops import ResumableEpochBasedTrainLoop, SkippedBatches, check_loop
from .resume import Schedule, find_checkpoint

# Where a training dataloader is to start, beside its settings.
_START = '_start_'


@RUNNERS.register_module()
class CheckedRunner(Runner):
    """A Runner that refuses what does not fit, and resumes exactly.

    It refuses data and weights that do not fit the config, stops at numbers
    that are not finite, loads checkpoints strictly and saves them atomically,
    resumes as if it had never stopped, and ends in order at Ctrl-C or SIGTERM.

    What it saves, ``torch.load(weights_only=True)`` can load once
    ``mmbiformer`` is imported, so mmdet's and mmseg's own tools can use it.

    Attributes:
        started (bool): Whether training or testing has begun.
        last_checkpoint (str, optional): The last checkpoint that can be
            resumed, written or resumed by this run.
        saved_position (tuple[int, int], optional): Its epoch and iteration.
    """

    _testing = False
    _source = ''
    started = False
    last_checkpoint: Optional[str] = None
    saved_position: Optional[Tuple[int, int]] = None

    def __init__(
        self,
        model: Union[nn.Module, dict],
        work_dir: str,
        *args,
        cfg: Optional[Union[Config, dict]] = None,
        **kwargs,
    ) -> None:
        self._new_work_dir = not osp.exists(work_dir)
        self._start = {}
        self._left_out = set()
        self._interruption = Interruption()
        with self._refusing(cfg or {}):
            super().__init__(model, work_dir, *args, cfg=cfg, **kwargs)

    @contextmanager
    def _refusing(self, cfg: Union[Config, dict]) -> Iterator[None]:
        """Name a setting that is wrong, and delete the folder of such a run.

        If the run fails before it starts, and for another reason than an
        error of the user, its log is kept.
        """
        try:
            with config_errors(cfg):
                yield
        except UserError:
            log_dir = getattr(self, '_log_dir', None)
            if log_dir and not self.started and is_main_process():
                shutil.rmtree(log_dir, ignore_errors=True)
                if self._new_work_dir:
                    name = osp.basename(self.cfg.filename or '')
                    if osp.isfile(osp.join(self.work_dir, name)):
                        os.remove(osp.join(self.work_dir, name))
                    if not os.listdir(self.work_dir):
                        os.rmdir(self.work_dir)
            raise

    def call_hook(self, fn_name: str, **kwargs) -> None:
        """Call all hooks; arguments are those of mmengine's Runner."""
        if fn_name == 'after_load_checkpoint':
            # Before all hooks: these would fail on weights that do not fit.
            self._check_checkpoint(kwargs['checkpoint'])
        super().call_hook(fn_name, **kwargs)
        if fn_name == 'before_save_checkpoint':
            # After all hooks: these may add anything.
            self._make_plain(kwargs['checkpoint'])
        self.started = self.started or fn_name in (
            'before_train',
            'before_test',
        )

    def _make_plain(self, checkpoint: dict) -> None:
        """Turn all that a checkpoint holds into data that can be loaded."""
        left_out = {}
        plain = to_plain(checkpoint, left_out)
        checkpoint.clear()
        checkpoint.update(plain)
        for key in left_out.keys() - self._left_out:
            self._left_out.add(key)
            self.logger.warning(
                f'{key} is not saved in checkpoints: it holds an object of '
                f'type {left_out[key]}, and only weights and plain data are '
                'loaded from a file'
            )

    def register_default_hooks(self, hooks: Optional[dict] = None) -> None:
        """Register the default hooks, and those that every run has."""
        hooks = dict(hooks or {})
        if 'checkpoint' not in hooks:
            hooks['checkpoint'] = dict(type='CheckpointHook', interval=1)
        hooks.setdefault('logger', dict(type='LoggerHook'))
        for name, stock, ours in (
            ('checkpoint', CheckpointHook, SafeCheckpointHook),
            ('logger', LoggerHook, SafeLoggerHook),
        ):
            hook = hooks[name]
            if isinstance(hook, dict):
                kind = hook.get('type')
                kind = HOOKS.get(kind) if isinstance(kind, str) else kind
                if kind is stock:
                    hooks[name] = dict(hook, type=ours)
        super().register_default_hooks(hooks)
        if self.cfg.get('default_scope') == 'mmseg':
            self.register_hook(LabelCheck())
        self.register_hook(IterationSeed())
        self.register_hook(InvalidLossCheck())
        self.register_hook(self._interruption)

    def train(self) -> nn.Module:
        """Train; see the class.

        Returns:
            nn.Module: The model.

        Raises:
            NonFiniteError: If the loss, its gradients or the weights are
                not finite.
            OutputError: If the disk is full.
            TrainingInterrupted: If a signal ended it.
        """
        with strict_loading(), self._refusing(self.cfg), self._interruption:
            if self._resume:
                self._find_start()
            try:
                return super().train()
            except OSError as error:
                if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                    raise
                last = self.last_checkpoint or 'none was written yet'
                raise OutputError(
                    error.errno,
                    f'{os.strerror(error.errno)}: work_dir={self.work_dir!r} '
                    f'is full. The last good checkpoint: {last}. Make room, '
                    'and resume by --resume',
                ) from error

    def _find_start(self) -> None:
        """Find where to resume, before the data are read in their order."""
        if self._load_from is None:
            found = [find_checkpoint(self.work_dir) if get_rank() == 0 else 0]
            broadcast_object_list(found)
            (self._load_from,) = found
        if self._load_from is None:
            self.logger.info(
                f'No checkpoint to resume is in {self.work_dir}: training '
                'starts from the beginning'
            )
            self._resume = False
            return
        checkpoint = load_checkpoint(self._load_from, 'cpu')
        if isinstance(checkpoint, dict):
            self._start = checkpoint.get('meta', {})
        seed = self._start.get('seed')
        # Without one in the config, each start would draw another.
        if seed is not None and self._randomness_cfg.get('seed') is None:
            self._randomness_cfg['seed'] = seed
            self.set_randomness(**self._randomness_cfg)

    def build_train_loop(self, loop: Union[BaseLoop, dict]) -> BaseLoop:
        """Build the training loop; it starts where the run resumes.

        Args:
            loop (BaseLoop | dict): As in mmengine's Runner.

        Returns:
            BaseLoop: The loop.
        """
        kind = self._train_loop_type(loop)
        # Other loops may take their data in any form and order.
        if kind is None:
            loop = super().build_train_loop(loop)
            check_loop(loop)
            return loop
        by_iter = issubclass(kind, IterBasedTrainLoop)
        skip = self._start.get('iter' if by_iter else 'batch', 0)
        if isinstance(self._train_dataloader, dict):
            start = dict(
                seed=self.seed,
                epoch=0 if by_iter else self._start.get('epoch', 0),
                skip=skip,
            )
            self._train_dataloader = dict(
                self._train_dataloader, **{_START: start}
            )
        if kind is EpochBasedTrainLoop:
            loop = dict(loop, type=ResumableEpochBasedTrainLoop, skipped=skip)
            loop.pop('by_epoch', None)
        loop = super().build_train_loop(loop)
        check_loop(loop)
        if by_iter and skip and isinstance(loop.dataloader, RunDataLoader):
            loop.dataloader_iterator = SkippedBatches(
                skip, loop.dataloader_iterator
            )
        return loop

    def build_val_loop(self, loop: Union[BaseLoop, dict]) -> BaseLoop:
        """Build the validation loop; its metrics must fit its data set.

        Args:
            loop (BaseLoop | dict): As in mmengine's Runner.

        Returns:
            BaseLoop: The loop.
        """
        loop = super().build_val_loop(loop)
        check_evaluator(loop, self.cfg.get('val_evaluator'), 'val_evaluator')
        return loop

    def build_test_loop(self, loop: Union[BaseLoop, dict]) -> BaseLoop:
        """Build the test loop; its metrics must fit its data set.

        Args:
            loop (BaseLoop | dict): As in mmengine's Runner.

        Returns:
            BaseLoop: The loop.
        """
        loop = super().build_test_loop(loop)
        check_evaluator(loop, self.cfg.get('test_evaluator'), 'test_evaluator')
        return loop

    @staticmethod
    def _train_loop_type(loop: dict) -> Optional[type]:
        """Return the type of a training loop, if it is one of mmengine's.

        None is also returned for what mmengine refuses.
        """
        if not isinstance(loop, dict) or ('type' in loop) == (
            'by_epoch' in loop
        ):
            return None
        if 'type' not in loop:
            by_epoch = loop['by_epoch']
            return EpochBasedTrainLoop if by_epoch else IterBasedTrainLoop
        kind = loop['type']
        kind = LOOPS.get(kind) if isinstance(kind, str) else kind
        known = (EpochBasedTrainLoop, IterBasedTrainLoop)
        if isinstance(kind, type) and issubclass(kind, known):
            return kind
        return None

    @staticmethod
    def build_dataloader(
        dataloader: Union[DataLoader, dict],
        seed: Optional[int] = None,
        diff_rank_seed: bool = False,
    ) -> DataLoader:
        """Build a dataloader; arguments are those of mmengine's Runner.

        Raises:
            DataError: If the data set is empty, or its files cannot be read
                or do not fit the config.
            ConfigError: If torch's DataLoader refuses a setting.
        """
        if isinstance(dataloader, DataLoader):
            return Runner.build_dataloader(dataloader)
        dataloader = shield_workers(dict(dataloader), seed)
        start = dataloader.pop(_START, None)
        with loading_errors(dataloader), collection_paused():
            loader = Runner.build_dataloader(dataloader, seed, diff_rank_seed)
        # Built by torch's own class, so that all its attributes are right.
        loader.__class__ = RunDataLoader
        settings = settings_of(dataloader)
        if isinstance(loader.dataset, Sized):
            check_not_empty(loader.dataset, settings)
        if start is not None:
            make_resumable(loader, **start)
        name = f'data set {describe_dataset(settings)}'
        check_category_ids(loader.dataset, name)
        check_leaves(loader.dataset, settings)
        check_objects(loader.dataset, name)
        check_samples(loader.dataset)
        return loader

    def build_model(self, model: Union[nn.Module, dict]) -> nn.Module:
        """Build the model; its parts must fit one another.

        Args:
            model (nn.Module | dict): As in mmengine's Runner.

        Returns:
            nn.Module: The model.

        Raises:
            ConfigError: If neck or heads do not take the maps of the backbone.
        """
        model = super().build_model(model)
        check_features(model)
        return model

    def build_optim_wrapper(
        self, optim_wrapper: Union[Optimizer, OptimWrapper, dict]
    ) -> Union[OptimWrapper, Dict[str, OptimWrapper]]:
        """Build the optimizer; arguments are those of mmengine's Runner.

        Raises:
            ConfigError: If there is no such optimizer, or its rate or decay
                is a text; mmengine would name neither.
        """
        if isinstance(optim_wrapper, dict):
            optimizer = optim_wrapper.get('optimizer')
            kind = None
            if isinstance(optimizer, dict):
                kind = optimizer.get('type')
                for name in ('lr', 'weight_decay'):
                    if isinstance(optimizer.get(name), str):
                        raise ConfigError(
                            f'optim_wrapper.optimizer.{name} must be a '
                            f'number, got {optimizer[name]!r}'
                        )
            with OPTIMIZERS.switch_scope_and_registry(None) as registry:
                known = not isinstance(kind, str) or registry.get(kind)
            if not known:
                raise ConfigError(
                    describe_unregistered(
                        kind, registry, 'optim_wrapper.optimizer.type'
                    )
                )
        return super().build_optim_wrapper(optim_wrapper)

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
        with strict_loading(), self._refusing(self.cfg):
            return super().test()

    def resume(self, filename: str, *args, **kwargs) -> None:
        """Resume from a checkpoint; arguments are those of the Runner."""
        # Schedulers that are not built yet are built by mmengine.
        built = isinstance(self.optim_wrapper, OptimWrapper)
        schedule = Schedule(self) if built else None
        super().resume(filename, *args, **kwargs)
        if schedule is not None:
            self._choose_schedule(schedule)
        self.last_checkpoint = filename
        self.saved_position = (self.epoch, self.iter)

    def _choose_schedule(self, schedule: Schedule) -> None:
        """Follow the checkpoint's schedule, or the config's on request."""
        differences = schedule.differences(self)
        if not differences:
            return
        if self.cfg.get('extend_schedule'):
            schedule.follow(self)
            self.logger.info('The run follows the schedule of the config')
            return
        self.logger.warning(
            'The run follows the schedule of its checkpoint, which is not '
            f'that of the config: {list_some(differences)}. To follow the '
            'one of the config as if it had been used from the start: '
            '--cfg-options extend_schedule=True'
        )

    def save_checkpoint(
        self,
        out_dir: str,
        filename: str,
        file_client_args: Optional[dict] = None,
        save_optimizer: bool = True,
        save_param_scheduler: bool = True,
        meta: Optional[dict] = None,
        by_epoch: bool = True,
        backend_args: Optional[dict] = None,
    ) -> None:
        """Save a checkpoint, visible under its name only when it is complete.

        Arguments are those of mmengine's Runner.

        Raises:
            FloatingPointError: If weights are not finite.
        """
        check_finite(self.model)
        path = osp.join(out_dir, filename)

        def save(name: str) -> None:
            super(CheckedRunner, self).save_checkpoint(
                out_dir,
                name,
                file_client_args,
                save_optimizer=save_optimizer,
                save_param_scheduler=save_param_scheduler,
                meta=meta,
                by_epoch=by_epoch,
                backend_args=backend_args,
            )

        # Other places than folders, such as buckets, show complete files only.
        if is_main_process() and _is_folder(
            out_dir, file_client_args, backend_args
        ):
            remove_leftovers(osp.dirname(path), '.pth')
            with atomic_write(path) as scratch:
                save(osp.join(osp.dirname(filename), scratch.name))
        else:
            save(filename)
        if save_optimizer:
            self.last_checkpoint = path
            if meta:
                self.saved_position = (meta['epoch'], meta['iter'])

    def load_checkpoint(
        self,
        filename: str,
        map_location: Union[str, Callable] = 'cpu',
        *args,
        **kwargs,
    ) -> dict:
        """Load a checkpoint; arguments are those of mmengine's Runner.

        Raises:
            CheckpointError: If the file cannot be read or could run code; if
                the runner tests or resumes, or the file is a released
                classifier, and weights are missing or of another shape, for
                which mmengine would use random ones; or if it resumes, and
                the optimizer's state is missing.
        """
        self._source = filename
        with strict_loading():
            return super().load_checkpoint(
                filename, map_location, *args, **kwargs
            )

    def _check_checkpoint(self, checkpoint: object) -> None:
        """Refuse a checkpoint from which the run cannot go on."""
        weights = state_dict_of(checkpoint, self._source)
        released = weights_of_authors(checkpoint) is not None
        if released:
            # Where hooks look for them.
            checkpoint['state_dict'] = weights
        if self._testing or self._resume or released:
            model = self.model
            if is_model_wrapper(model):
                model = model.module
            if isinstance(model, BaseTTAModel):
                model = model.module
            load_all_weights(model, checkpoint, self._source)
        if self._resume and 'optimizer' not in checkpoint:
            raise CheckpointError(
                f'checkpoint={self._source!r} holds no state of the '
                'optimizer, and cannot be resumed; to start from its weights: '
                f'--cfg-options load_from={self._source}'
            )


def _is_folder(
    out_dir: str,
    file_client_args: Optional[dict],
    backend_args: Optional[dict],
) -> bool:
    """Tell whether mmengine would write to a folder of this machine."""
    if file_client_args is not None:
        backend = FileClient.infer_client(file_client_args, out_dir).client
        return isinstance(backend, (HardDiskBackend, LocalBackend))
    backend = get_file_backend(out_dir, backend_args=backend_args)
    return isinstance(backend, LocalBackend)


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
