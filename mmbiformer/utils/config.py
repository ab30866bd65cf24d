"""From a command line to the config of a run."""

import importlib.util
import inspect
import logging
import os
import os.path as osp
from contextlib import contextmanager
from copy import deepcopy
from importlib.metadata import PackageNotFoundError, distribution
from typing import Iterator, Optional

from mmengine.config import Config
from mmengine.config.utils import MODULE2PACKAGE
from mmengine.device import get_device
from mmengine.hub import get_config
from mmengine.logging import print_log
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import MODELS, init_default_scope
from mmengine.runner import Runner
from mmengine.utils import import_modules_from_strings
from torch import nn

from .building import config_errors, walk
from .errors import ConfigError, MissingFileError
from .files import check_checkpoint, is_local
from .text import list_some, suggest

# Settings of paramwise_cfg for which mmengine asks for a weight decay.
_DECAY_SCALES = {'bias_decay_mult', 'dwconv_decay_mult', 'norm_decay_mult'}

TASKS = {
    'mmdet': 'detection',
    'mmseg': 'segmentation',
    'mmpretrain': 'classification',
}
"""dict[str, str]: The task behind each ``default_scope`` that is allowed."""


READ_KEYS = {
    *inspect.signature(Runner).parameters,
    # Of mmengine's runners.
    'activation_checkpointing',
    'compile',
    'efficient_conv_bn_eval',
    'find_unused_parameters',
    'model_wrapper_cfg',
    'runner_type',
    'strategy',
    'sync_bn',
    # Of its config files.
    'custom_imports',
    'env_cfg',
    # Of the frameworks' tools and hooks, and of ours.
    'data_preparation',
    'extend_schedule',
    'gpu_ids',
    'tta_model',
    'tta_pipeline',
} - {'cfg'}
"""set[str]: Keys of a config that something reads after it is loaded."""


@contextmanager
def installed_frameworks() -> Iterator[None]:
    """Let mmengine find ``'mmseg::…'`` and the like in both families.

    The table of mmengine's fork has names of distributions that are not those
    of the forks. The table is restored at the end of the block.
    """
    before = {
        module: MODULE2PACKAGE[module]
        for module in TASKS
        if module in MODULE2PACKAGE
    }
    for module, name in before.items():
        if not _is_distribution(name):
            MODULE2PACKAGE[module] = module
    try:
        yield
    finally:
        MODULE2PACKAGE.update(before)


def _is_distribution(name: str) -> bool:
    """Return whether a distribution of this name is installed."""
    try:
        distribution(name)
    except PackageNotFoundError:
        return False
    return True


def read_config(path: str, cfg_options: Optional[dict] = None) -> Config:
    """Read a config file with all that it inherits.

    Args:
        path (str): Config file, or the name of one in an installed package,
            such as ``'mmdet::retinanet/retinanet_r50_fpn_1x_coco.py'``.
        cfg_options (dict, optional): Values that replace the file's. Default:
            None.

    Returns:
        Config: The merged config.

    Raises:
        MissingFileError: If there is no such file.
        ConfigError: If it cannot be read, the overrides do not fit it, it is
            for none of the three tasks, or its framework is missing.
    """
    named = '::' in path
    if not named and not osp.isfile(path):
        raise MissingFileError(
            f'config={path!r} is not a file (looked for {osp.abspath(path)})'
        )
    try:
        with installed_frameworks():
            cfg = (
                get_config(path)
                if named
                else Config.fromfile(path, import_custom_modules=False)
            )
    except Exception as error:
        # A config is code, and may raise anything. mmengine lists sys.path.
        reason = str(error).partition(', the current sys.path')[0]
        if isinstance(error, ImportError) and 'mmpretrain' in reason:
            _check_mmpretrain(path)
        raise ConfigError(
            f'config={path!r} cannot be read ({type(error).__name__}: '
            f'{reason})'
        ) from error
    _import_custom_modules(cfg)
    roots = {key: key.partition('.')[0] for key in cfg_options or {}}
    before = {root: deepcopy(cfg.get(root)) for root in roots.values()}
    try:
        cfg.merge_from_dict(cfg_options or {})
    except (KeyError, TypeError) as error:
        raise ConfigError(
            f'--cfg-options do not fit config={path!r}: {error}'
        ) from error
    for key, root in roots.items():
        _check_override(cfg, key, root, before[root])
    if cfg.get('default_scope') is None:
        cfg.default_scope = _scope_of_type(
            (cfg.get('model') or {}).get('type')
        )
    if task_of(cfg) == 'classification':
        _check_mmpretrain(path)
    return cfg


def _check_mmpretrain(path: str) -> None:
    """Raise an error for a config of classification without mmpretrain.

    Other tasks do not need it, so it is not installed with the frameworks.

    Args:
        path (str): The config file.

    Raises:
        ConfigError: If mmpretrain is missing.
    """
    if importlib.util.find_spec('mmpretrain') is None:
        raise ConfigError(
            f'config={path!r} is for classification, which needs mmpretrain '
            '(or onedl-mmpretrain, beside the forks), and it is not '
            'installed: see docs/classification.md'
        )


def _check_override(cfg: Config, key: str, root: str, before: object) -> None:
    """Check that something reads what an override sets.

    A key below one of the runner's is read or refused where it is. What is
    left are variables of the config file, which were read when other settings
    were computed from them, and keys that are not there.

    Args:
        cfg (Config): The config with the override.
        key (str): The key.
        root (str): Its part before the first dot.
        before (object): The value of `root` without the override; None if
            there was none.

    Raises:
        ConfigError: If the settings that were computed from a variable have
            its former value, or a key that is not there is similar to one
            that is read.
    """
    if root in READ_KEYS or before == cfg[root]:
        return
    value = f'--cfg-options {key}'
    if key == root:
        value += f'={cfg[key]!r}'
    if before is None:
        similar = suggest(root, READ_KEYS)
        if similar:
            raise ConfigError(f'{value}: nothing reads {root!r}{similar}')
        print_log(
            f'{value}: the config has no {root!r}, and neither the runner nor '
            'the frameworks read it',
            'current',
            logging.WARNING,
        )
        return
    changes_nothing = (
        f'changes nothing: {root!r} is a variable of the config file, and '
        f'what was computed from it keeps its value'
    )
    places = [
        f'{where}.{root}'
        for where, node in walk(cfg)
        if root in node and node[root] == before
    ]
    if places:
        raise ConfigError(
            f'{value} {changes_nothing}, {before!r}. Set '
            f'{list_some(places, 4)}'
        )
    print_log(f'{value} {changes_nothing}', 'current', logging.WARNING)


def _scope_of_type(kind: object) -> Optional[str]:
    """Return the framework of a model's type, if it has one.

    Pure Python configs name classes, and need no ``default_scope``.
    """
    if isinstance(kind, str):
        scope = kind.partition('.')[0]
        return scope if scope in TASKS else None
    for base in getattr(kind, '__mro__', ()):
        scope = base.__module__.partition('.')[0]
        if scope in TASKS:
            return scope
    return None


def type_name(kind: object) -> str:
    """Return the name of the class that a ``type`` in a config stands for.

    Args:
        kind (object): A name, perhaps with a scope such as ``'mmdet.'``, or,
            in pure Python configs, the class.

    Returns:
        str: The name without scope and modules.
    """
    name = kind if isinstance(kind, str) else getattr(kind, '__name__', '')
    return name.rpartition('.')[2]


def _import_custom_modules(cfg: Config) -> None:
    """Import what ``custom_imports`` names; their errors are not changed."""
    if not cfg.get('custom_imports'):
        return
    try:
        import_modules_from_strings(**cfg.custom_imports)
    except ImportError as error:
        missing = error.__cause__ or error.__context__ or error
        if not isinstance(missing, ModuleNotFoundError):
            raise
        raise ConfigError(
            f'{cfg.filename} has custom_imports={cfg.custom_imports}, and '
            f'there is no module {missing.name!r}: is its folder in '
            'PYTHONPATH?'
        ) from error


def load_config(
    path: str,
    cfg_options: Optional[dict] = None,
    work_dir: Optional[str] = None,
    launcher: str = 'none',
    local_rank: int = 0,
) -> Config:
    """Load the config of a run as OpenMMLab's tools do.

    Args:
        path (str): Config file.
        cfg_options (dict, optional): Values that replace the file's. Default:
            None.
        work_dir (str, optional): Folder of the run. Default: None, which
            means the config's ``work_dir`` or, failing that,
            ``./work_dirs/<name of the config>``.
        launcher (str): ``'none'``, ``'pytorch'``, ``'slurm'`` or ``'mpi'``.
            Default: ``'none'``.
        local_rank (int): Number of this process on its machine, which
            mmengine reads from the environment. Default: 0.

    Returns:
        Config: The merged config.

    Raises:
        MissingFileError: As :func:`read_config`.
        ConfigError: As :func:`read_config`.
    """
    cfg = read_config(path, cfg_options)
    set_up_run(cfg, path, work_dir, launcher, local_rank)
    return cfg


def set_up_run(
    cfg: Config,
    path: str,
    work_dir: Optional[str] = None,
    launcher: str = 'none',
    local_rank: int = 0,
) -> None:
    """Say where a run writes, and how its processes start.

    Args:
        cfg (Config): Config of the run; changed in place.
        path (str): File that the run is of.
        work_dir (str, optional): As of :func:`load_config`. Default: None.
        launcher (str): As of :func:`load_config`. Default: ``'none'``.
        local_rank (int): As of :func:`load_config`. Default: 0.
    """
    cfg.launcher = launcher
    os.environ['LOCAL_RANK'] = str(local_rank)
    if work_dir is not None:
        cfg.work_dir = work_dir
    elif cfg.get('work_dir') is None:
        name = osp.splitext(osp.basename(path))[0]
        cfg.work_dir = osp.join('./work_dirs', name)


def task_of(cfg: Config) -> str:
    """Return ``'detection'``, ``'segmentation'`` or ``'classification'``.

    Args:
        cfg (Config): Config of a run.

    Returns:
        str: The task.

    Raises:
        ConfigError: If the config is for none of them, or has no model.
    """
    scope = cfg.get('default_scope')
    if scope not in TASKS or 'model' not in cfg:
        lacks = '' if 'model' in cfg else " and has no 'model'"
        raise ConfigError(
            f'{cfg.filename} is not a config for detection, segmentation or '
            f'classification: default_scope must be one of {tuple(TASKS)}, '
            f'got default_scope={scope!r}{lacks}'
        )
    return TASKS[scope]


def build_model(cfg: Config) -> nn.Module:
    """Build the model of a config, without initializing its weights.

    Args:
        cfg (Config): Config for one of :data:`TASKS`.

    Returns:
        nn.Module: The model in evaluation mode. Its synced batch norms, which
        need several GPUs, are plain ones.

    Raises:
        ConfigError: If a ``type`` or a setting of it does not exist.
    """
    init_default_scope(cfg.default_scope)
    settings = dict(cfg.model)
    # Where mmpretrain's configs have it, mmengine's runner looks for it, too.
    if cfg.get('data_preprocessor') is not None:
        settings.setdefault('data_preprocessor', cfg.data_preprocessor)
    with config_errors(cfg):
        model = MODELS.build(settings)
    return revert_sync_batchnorm(model).eval()


def check_pretrained(cfg: Config) -> None:
    """Check that the files of pretrained weights are there.

    Args:
        cfg (Config): Config of a run.

    Raises:
        MissingFileError: If one is missing; the message names the setting.
    """
    for where, node in walk(cfg.model, 'model'):
        if type_name(node.get('type')) in ('Pretrained', 'PretrainedInit'):
            path = node.get('checkpoint')
            if is_local(path) and not osp.isfile(osp.expanduser(path)):
                raise MissingFileError(
                    f'{where}.checkpoint={path!r} is not a file (looked for '
                    f'{osp.abspath(osp.expanduser(path))}). Put the weights '
                    'there, name others by --cfg-options '
                    f'{where}.checkpoint=PATH, or train from scratch by '
                    f'--cfg-options {where}=None'
                )


def check_weight_decay(cfg: Config) -> None:
    """Check that an optimizer has the weight decay that is to be scaled.

    Args:
        cfg (Config): Config of a run.

    Raises:
        ConfigError: If ``paramwise_cfg`` scales the weight decay, and the
            optimizer has none; mmengine would fail without naming either.
    """
    wrapper = cfg.get('optim_wrapper') or {}
    optimizer = wrapper.get('optimizer')
    if not isinstance(optimizer, dict) or 'constructor' in wrapper:
        return
    paramwise = wrapper.get('paramwise_cfg') or {}
    scales = sorted(paramwise.keys() & _DECAY_SCALES)
    scales += [
        f'custom_keys.{name}.decay_mult'
        for name, settings in paramwise.get('custom_keys', {}).items()
        if 'decay_mult' in settings
    ]
    if scales and optimizer.get('weight_decay') is None:
        raise ConfigError(
            f'optim_wrapper.paramwise_cfg.{scales[0]} scales the weight '
            'decay, and optim_wrapper.optimizer sets none: set '
            'optim_wrapper.optimizer.weight_decay (0 for none)'
        )


def enable_amp(cfg: Config) -> None:
    """Train in mixed precision, for ``--amp``.

    Args:
        cfg (Config): Config of a run; changed in place.

    Raises:
        ConfigError: If there is no accelerator.
    """
    if get_device() == 'cpu':
        raise ConfigError(
            '--amp needs a GPU, and none is there: leave it '
            'out, and training runs in float32'
        )
    cfg.optim_wrapper.type = 'AmpOptimWrapper'
    cfg.optim_wrapper.loss_scale = 'dynamic'


def enable_auto_scale_lr(cfg: Config) -> None:
    """Scale the learning rate with the batch, for ``--auto-scale-lr``.

    Args:
        cfg (Config): Config of a run; changed in place.

    Raises:
        ConfigError: If the config does not say for which batch its learning
            rate is meant.
    """
    if 'base_batch_size' not in cfg.get('auto_scale_lr', {}):
        raise ConfigError(
            '--auto-scale-lr needs auto_scale_lr.base_batch_size in the '
            'config, e.g. auto_scale_lr = dict(base_batch_size=16)'
        )
    cfg.auto_scale_lr.enable = True


def set_resume(cfg: Config, resume: str) -> None:
    """Resume from a checkpoint, for ``--resume``.

    Args:
        cfg (Config): Config of a run; changed in place.
        resume (str): Path of a checkpoint, or ``'auto'`` for the latest one in
            the work directory.

    Raises:
        MissingFileError: If there is no such file.
    """
    if resume != 'auto':
        check_checkpoint(resume, '--resume')
    cfg.load_from = None if resume == 'auto' else resume
    cfg.resume = True
