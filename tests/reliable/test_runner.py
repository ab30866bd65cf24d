"""What a run refuses before it begins, and what it leaves then."""

import io

import pytest
import torch
from mmengine.fileio import BaseStorageBackend, register_backend
from toy import ToyModel, toy_runner

from mmbiformer.reliable.labels import LabelCheck
from mmbiformer.utils.datasets import leaf_datasets
from mmbiformer.utils.errors import CheckpointError, ConfigError, DataError


def save(path, **content):
    torch.save(content, path)
    return str(path)


@pytest.fixture
def weights():
    return ToyModel().state_dict()


def run(work_dir, path, resume):
    return toy_runner(work_dir, load_from=path, resume=resume).train()


@pytest.mark.parametrize('resume', [False, True])
def test_a_file_without_weights_is_named(tmp_path, resume):
    path = tmp_path / 'a.pth'
    torch.save([1, 2], path)
    message = f'^checkpoint={str(path)!r} holds no weights'
    with pytest.raises(CheckpointError, match=message):
        run(tmp_path / 'run', str(path), resume)
    assert not (tmp_path / 'run').exists()


def test_weights_without_an_optimizer_are_not_resumed(tmp_path, weights):
    path = save(tmp_path / 'a.pth', state_dict=weights, meta=dict(iter=4))
    with pytest.raises(CheckpointError) as error:
        run(tmp_path / 'run', path, resume=True)
    assert str(error.value) == (
        f'checkpoint={path!r} holds no state of the optimizer, and cannot be '
        'resumed; to start from its weights: --cfg-options '
        f'load_from={path}'
    )


def test_missing_weights_do_not_stay_random(tmp_path, weights):
    """As in mmengine."""
    del weights['linear.bias']
    path = save(tmp_path / 'a.pth', state_dict=weights, optimizer={})
    message = f'checkpoint={path!r} does not fit.*missing: linear.bias'
    with pytest.raises(CheckpointError, match=message):
        run(tmp_path / 'resumed', path, resume=True)
    loader = dict(
        batch_size=2,
        dataset=dict(type='ToyDataset'),
        sampler=dict(type='DefaultSampler', shuffle=False),
    )
    options = dict(
        load_from=path,
        test_dataloader=loader,
        test_evaluator=dict(type='ToyMetric'),
        test_cfg=dict(),
    )
    with pytest.raises(CheckpointError, match=message):
        toy_runner(tmp_path / 'tested', **options).test()
    # To train from them may be what the user wants.
    run(tmp_path / 'trained', path, resume=False)


@pytest.mark.parametrize(
    ('option', 'kind', 'message'),
    [
        (
            {'optim_wrapper.optimizer.type': 'AdamZ'},
            ConfigError,
            "^optim_wrapper.optimizer.type='AdamZ' is not in .*'Adam'",
        ),
        (
            {'model.size': 3},
            ConfigError,
            '^model.size=3: ToyModel has no argument',
        ),
        (
            {'train_dataloader.dataset.size': 0},
            DataError,
            'the data set in data_root=.* is empty',
        ),
        *(({key: value}, ConfigError, message) for key, value, message in [
            ('train_dataloader.suffle', True,
             "^a dataloader has no argument 'suffle'.*'shuffle'"),
            ('train_dataloader.sampler.shufle', True,
             "^train_dataloader.sampler.shufle=True.*'shuffle'"),
            ('train_dataloader.sampler.type', 'DefaultSamplr',
             "^train_dataloader.sampler.type='DefaultSamplr'"),
            ('train_dataloader.collate_fn', dict(type='pseudo_colate'),
             "^collate_fn.type='pseudo_colate' is not in.*'pseudo_collate'"),
            ('val_dataloader.persistent_workers', True,
             'persistent_workers=True needs num_workers of at least 1'),
            ('default_hooks', dict(checkpoint=dict(
                type='CheckpointHook', intervall=1)),
             "^default_hooks.checkpoint.intervall=1: .*'interval'"),
            ('optim_wrapper.optimizer.lr', 'fast',
             "^optim_wrapper.optimizer.lr must be a number, got 'fast'"),
            ('train_cfg.max_epochs', 0, '^train_cfg.max_epochs must be'),
            ('train_dataloader.sampler.type', 'InfiniteSampler',
             "^train_dataloader.sampler.type='InfiniteSampler' never ends"),
            ('train_dataloader', dict(drop_last=True, batch_size=9),
             'of the 8 samples.* batch_size=9 with drop_last=True leave none'),
        ]),
    ],
)  # fmt: skip
def test_a_refused_run_leaves_nothing(tmp_path, option, kind, message):
    work_dir = tmp_path / 'run'
    with pytest.raises(kind, match=message):
        toy_runner(work_dir, **option).train()
    assert not work_dir.exists()
    # Nothing of another run is deleted.
    work_dir.mkdir()
    (work_dir / 'file').touch()
    with pytest.raises(kind, match=message):
        toy_runner(work_dir, **option).train()
    left = {path.name for path in work_dir.iterdir()}
    assert left - {'toy.py'} == {'file'}


@pytest.mark.parametrize('scope', ['mmseg', 'mmengine'])
def test_labels_are_checked_in_runs_of_segmentors(tmp_path, scope):
    runner = toy_runner(tmp_path, default_scope=scope)
    checks = [hook for hook in runner.hooks if isinstance(hook, LabelCheck)]
    assert len(checks) == (scope == 'mmseg')


def test_the_metric_of_the_best_checkpoint_must_be_one(tmp_path):
    hook = dict(type='CheckpointHook', save_best='coco/bbox_mAP')
    runner = toy_runner(tmp_path, default_hooks=dict(checkpoint=hook))
    with pytest.raises(ConfigError, match="'coco/bbox_mAP' is not a.* acc"):
        runner.train()


def test_checks_look_into_a_data_set_of_which_a_part_is_used(tmp_path):
    """Attributes are read through mmengine's wrapper, but not written."""
    runner = toy_runner(
        tmp_path, **{'train_dataloader.num_batch_per_epoch': 2}
    )
    inner = runner.train_dataloader.dataset._dataset
    assert list(leaf_datasets(runner.train_dataloader.dataset)) == [inner]


def test_checkpoints_in_other_storage_are_written_by_it(tmp_path):
    """Also where its paths look like those of this machine."""
    written = {}

    @register_backend('memory', force=True)
    class Memory(BaseStorageBackend):
        def get(self, filepath):
            return written[filepath]

        get_text = get

        def put(self, obj, filepath):
            written[str(filepath)] = obj

        def join_path(self, *parts):
            return '/'.join(map(str, parts))

        def isfile(self, filepath):
            return filepath in written

        def isdir(self, filepath):
            return False

        def remove(self, filepath):
            del written[filepath]

    backend = dict(backend='memory')
    hook = dict(
        type='CheckpointHook', interval=1, max_keep_ckpts=1,
        out_dir='/bucket', backend_args=backend,
    )  # fmt: skip
    toy_runner(
        tmp_path, custom_hooks=[], default_hooks=dict(checkpoint=hook)
    ).train()
    (path,) = written
    assert path == f'/bucket/{tmp_path.name}/epoch_3.pth'
    checkpoint = torch.load(io.BytesIO(written[path]), weights_only=True)
    assert checkpoint['meta']['epoch'] == 3


@pytest.mark.parametrize('name', ['a.pth', 'in/a/folder.pth'])
def test_the_arguments_of_save_checkpoint_are_mmengines(tmp_path, name):
    """In their order, and without those that have a default."""
    runner = toy_runner(tmp_path / 'run', custom_hooks=[])
    runner.train()
    runner.save_checkpoint(str(tmp_path), name, None, False, False)
    saved = torch.load(tmp_path / name, weights_only=True)
    assert not {'optimizer', 'param_schedulers'} & set(saved)
    assert saved['meta']['iter'] == 12
