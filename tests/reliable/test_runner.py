"""What a run refuses before it begins, and what it leaves then."""

import pytest
import torch
from toy import ToyModel, toy_runner

from mmbiformer.reliable.hooks import LabelCheck
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
    ],
)
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
