"""What must be there before a run starts."""

import os.path as osp
from typing import Iterator, Sequence, Tuple

from mmengine.config import Config

# Where the two frameworks say how the data sets that they know are laid out.
_GUIDES = {
    'mmdet': 'https://mmdetection.readthedocs.io/en/latest/user_guides/'
    'dataset_prepare.html',
    'mmseg': 'https://mmsegmentation.readthedocs.io/en/latest/user_guides/'
    '2_dataset_prepare.html',
}


def _is_local(path: object) -> bool:
    """Tell whether a path is one on this machine, not a URL or a bucket."""
    return isinstance(path, str) and bool(path) and ':' not in path[2:]


def _dataset_paths(dataset: dict) -> Iterator[Tuple[str, str]]:
    """Yield each setting of a data set that names a path, and the path."""
    for key in ('dataset', 'datasets'):
        inner = dataset.get(key, [])
        for one in inner if isinstance(inner, (list, tuple)) else [inner]:
            yield from _dataset_paths(one)
    if dataset.get('backend_args'):
        return
    root = dataset.get('data_root') or ''
    settings = {'ann_file': dataset.get('ann_file')}
    settings.update(
        {
            f'data_prefix.{key}': value
            for key, value in dataset.get('data_prefix', {}).items()
        }
    )
    for key, path in settings.items():
        if path and _is_local(osp.join(root, path)):
            yield key, osp.join(root, path)


def check_data(cfg: Config, dataloaders: Sequence[str]) -> None:
    """Check that the files of the data sets are there.

    Args:
        cfg (Config): Config of a run. Its ``data_preparation``, where it has
            one, tells how to prepare the data set.
        dataloaders (Sequence[str]): Keys of the dataloaders to check; those
            that the config sets to None are passed over.

    Raises:
        FileNotFoundError: If anything is missing; the message says where it
            was looked for and what prepares it.
        ValueError: If the config has no such dataloader.
    """
    missing = []
    for name in dataloaders:
        if name not in cfg:
            raise ValueError(f'{cfg.filename} has no {name!r}')
        if cfg[name] is None:
            continue
        missing += [
            f'  {name}.dataset.{key}: {osp.abspath(path)}'
            for key, path in _dataset_paths(cfg[name].dataset)
            if not osp.exists(path)
        ]
    if missing:
        how = cfg.get('data_preparation', f'see {_GUIDES[cfg.default_scope]}')
        raise FileNotFoundError(
            'the data set is not there. Looked for\n'
            + '\n'.join(missing)
            + f'\nTo prepare it: {how}'
        )


def check_checkpoint(path: str, argument: str = 'checkpoint') -> None:
    """Check that a checkpoint is there.

    Args:
        path (str): Path or URL.
        argument (str): What to call it. Default: ``'checkpoint'``.

    Raises:
        FileNotFoundError: If it is a path, and no file.
    """
    full = osp.abspath(osp.expanduser(path))
    if _is_local(path) and not osp.isfile(full):
        raise FileNotFoundError(
            f'{argument}={path!r} is not a file (looked for {full})'
        )


def check_pretrained(cfg: Config) -> None:
    """Check that the files of pretrained weights are there.

    Args:
        cfg (Config): Config of a run.

    Raises:
        FileNotFoundError: If one is missing; the message names the setting.
    """

    def check(node: object, where: str) -> None:
        if isinstance(node, dict):
            if node.get('type') == 'Pretrained':
                path = node.get('checkpoint')
                if _is_local(path) and not osp.isfile(osp.expanduser(path)):
                    raise FileNotFoundError(
                        f'{where}.checkpoint={path!r} is not a file (looked '
                        f'for {osp.abspath(osp.expanduser(path))}). Put the '
                        'weights there, name others by --cfg-options '
                        f'{where}.checkpoint=PATH, or train from scratch by '
                        f'--cfg-options {where}=None'
                    )
            for key, value in node.items():
                check(value, f'{where}.{key}')
        elif isinstance(node, (list, tuple)):
            for index, value in enumerate(node):
                check(value, f'{where}.{index}')

    check(cfg.model, 'model')
