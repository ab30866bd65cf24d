"""Importing mmbiformer changes nothing for other code, but for one list.

The tools and functions of mmdet and mmseg that are called here are their own.
"""

import json
import os
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import mmdet
import mmseg
import pytest
import tiny_run
import torch

from mmbiformer.checkpoints.io import load_checkpoint

TOOLS = {
    package.__name__: Path(package.__path__[0], '.mim/tools')
    for package in (mmdet, mmseg)
}
ROOT = Path(__file__).resolve().parents[2]


def is_distribution(name):
    try:
        distribution(name)
    except PackageNotFoundError:
        return False
    return True


STATE = """
import json, os, sys, warnings
import torch
import mmcv, mmdet, mmengine, mmseg
import mmcv.cnn, mmengine.hub, mmengine.infer, mmengine.runner.checkpoint
from mmengine.config.utils import MODULE2PACKAGE
from mmengine.infer import BaseInferencer
from mmengine.runner import Runner
from mmengine.runner.checkpoint import CheckpointLoader

HOSTS = ('mmcv', 'mmdet', 'mmengine', 'mmseg', 'torch')
modules = {
    name: module
    for name, module in sys.modules.items()
    if name.partition('.')[0] in HOSTS
}

def state():
    found = {}
    for name, module in modules.items():
        for key, value in vars(module).items():
            if not key.startswith('_') and type(value) is not type(sys):
                found[f'{name}.{key}'] = value
    for owner in (CheckpointLoader, BaseInferencer, Runner):
        for key, value in vars(owner).items():
            found[f'{owner.__name__}.{key}'] = value
    found['schemes'] = tuple(CheckpointLoader._schemes.items())
    found['warnings'] = tuple(warnings.filters)
    return found

def identities(state):
    return {key: id(value) for key, value in state.items()}

def allowed():
    return set(torch.serialization.get_safe_globals())

%s
environment = dict(os.environ)
packages = dict(MODULE2PACKAGE)
types = allowed()
before = state()
import mmbiformer
after = state()
changed = sorted(
    key
    for key in before.keys() | after.keys()
    if (
        after.get(key) != before.get(key)
        if key in ('schemes', 'warnings')
        else after.get(key) is not before.get(key)
    )
)
assert dict(os.environ) == environment
print(json.dumps(dict(
    changed=changed,
    packages={
        key: value
        for key, value in MODULE2PACKAGE.items()
        if packages.get(key) != value
    },
    removed=[str(kind) for kind in types - allowed()],
    exact=allowed() - types == set(
        mmbiformer.checkpoints.allowed_types.MMENGINE_TYPES
    ),
    added=[
        kind[1] if isinstance(kind, tuple)
        else f'{kind.__module__}.{kind.__qualname__}'
        for kind in allowed() - types
    ],
)))
"""


def run_python(code, *arguments, **environment):
    """Run code in a fresh process; return what it prints last."""
    result = subprocess.run(
        [sys.executable, '-c', code, *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=dict(os.environ, **environment),
    )
    assert result.returncode == 0, result.stderr[-3000:]
    return result.stdout.strip().splitlines()[-1]


@pytest.mark.parametrize(
    'host',
    ['', 'torch.serialization.add_safe_globals([getattr, complex])'],
    ids=['alone', 'getattr allowed'],
)
def test_the_import_changes_only_the_allow_list(host):
    found = json.loads(
        run_python(STATE % host, TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD='1')
    )
    # Where the package's own operators are.
    assert set(found['changed']) <= {'torch.ops.mmbiformer'}
    assert found['packages'] == dict(mmbiformer='mmbiformer.version')
    assert found['removed'] == []
    assert found['exact']
    assert not [name for name in found['added'] if 'builtins' in name]
    assert all(
        name.startswith('numpy.')
        or name == 'mmengine.logging.history_buffer.HistoryBuffer'
        for name in found['added']
    )


def test_the_import_loads_no_other_package():
    """Each of these takes a second or more to import, or may be missing."""
    code = (
        'import sys\n'
        'import mmbiformer\n'
        "print([n for n in sys.modules if n in {'matplotlib', 'mmdet', "
        "'mmseg', 'pkg_resources', 'pycocotools', 'scipy', 'skimage'}])"
    )
    assert run_python(code) == '[]'


DETECTION = """
_base_ = '{root}/configs/detection/maskrcnn_biformer_digits.py'
custom_imports = dict(imports=['mmbiformer'])
model = dict(
    backbone=dict(
        arch=dict(depths=(1, 1, 1, 1), dims=(32, 32, 32, 32)), n_win=4
    ),
    neck=dict(in_channels=[32] * 4, out_channels=32),
    rpn_head=dict(in_channels=32, feat_channels=32),
    roi_head=dict(
        bbox_roi_extractor=dict(out_channels=32),
        bbox_head=dict(in_channels=32, fc_out_channels=32),
        mask_roi_extractor=dict(out_channels=32),
        mask_head=dict(num_convs=1, in_channels=32, conv_out_channels=32),
    ),
)
train_dataloader = dict(
    num_workers=0, persistent_workers=False,
    dataset=dict(data_root='{data}/'),
)
val_dataloader = dict(
    num_workers=0, persistent_workers=False,
    dataset=dict(data_root='{data}/'),
)
val_evaluator = dict(
    ann_file='{data}/annotations/instances_val.json', metric='bbox'
)
test_dataloader = val_dataloader
test_evaluator = val_evaluator
train_cfg = dict(max_epochs=1, val_interval=1)
custom_hooks = [dict(type='EMAHook', momentum=0.1)]
default_hooks = dict(checkpoint=dict(save_best='coco/bbox_mAP'))
"""


class Run:
    """A config, an image, and the checkpoint that our tools/train.py saved."""

    def __init__(self, config, image, checkpoint, more):
        self.config = config
        self.image = image
        self.checkpoint = checkpoint
        # Options that double the length of the run.
        self.more = more


@pytest.fixture(scope='module')
def runs(digits, tmp_path_factory, run_tool):
    """A trained detector and a trained segmentor."""
    folder = tmp_path_factory.mktemp('runs')
    detection = folder / 'detection.py'
    detection.write_text(DETECTION.format(root=ROOT, data=digits))
    segmentation = tiny_run.write(folder)
    with open(segmentation, 'a') as file:
        file.write(
            "test_pipeline = [dict(type='LoadImageFromFile'), "
            "dict(type='PackSegInputs')]\n"
        )
    for config in (detection, segmentation):
        run_tool('train.py', config, '--work-dir', folder / config.stem)
    return dict(
        mmdet=Run(
            detection,
            next((digits / 'images').rglob('*.png')),
            folder / 'detection/epoch_1.pth',
            ['train_cfg.max_epochs=2'],
        ),
        mmseg=Run(
            segmentation,
            folder / 'val/images/0.png',
            folder / 'tiny/iter_6.pth',
            ['train_cfg.max_iters=12'],
        ),
    )


@pytest.fixture(scope='module')
def run_their_tool(run_tool):
    """Run a tool of mmdet or mmseg; return all that it prints."""

    def run(package, script, *arguments):
        result = run_tool(TOOLS[package] / script, *arguments)
        return result.stdout + result.stderr

    return run


@pytest.mark.parametrize('package', ['mmdet', 'mmseg'])
def test_our_checkpoints_hold_plain_data(runs, package):
    """That torch loads, with only the types that the import allows."""
    path = runs[package].checkpoint
    assert torch.serialization.get_unsafe_globals_in_checkpoint(path) == []
    torch.load(path, weights_only=True)
    for best in path.parent.glob('best_*.pth'):
        torch.load(best, weights_only=True)


@pytest.mark.parametrize(
    ('package', 'metric'), [('mmdet', 'coco/bbox_mAP'), ('mmseg', 'mIoU')]
)
def test_their_test_tool(runs, run_their_tool, package, metric, tmp_path):
    if package == 'mmseg' and not is_distribution('mmsegmentation'):
        pytest.skip("mmengine's fork finds no config of mmseg::")
    run = runs[package]
    output = run_their_tool(
        package, 'test.py', run.config, run.checkpoint, '--work-dir', tmp_path
    )
    assert f'{metric}: ' in output


INFERENCE = """
import sys
import torch
from mmdet.apis import DetInferencer, inference_detector, init_detector
from mmseg.apis import MMSegInferencer, inference_model, init_model
det, seg = sys.argv[1:4], sys.argv[4:]
before = torch.load
result = inference_detector(init_detector(*det[:2], device='cpu'), det[2])
print(len(result.pred_instances))
result = DetInferencer(*det[:2], device='cpu')(det[2])
print(len(result['predictions']))
result = inference_model(init_model(*seg[:2], device='cpu'), seg[2])
print(result.pred_sem_seg.shape)
result = MMSegInferencer(*seg[:2], device='cpu')(seg[2])
print('shape', result['predictions'].shape)
"""


@pytest.mark.slow
def test_their_inference(runs):
    arguments = [
        path
        for package in ('mmdet', 'mmseg')
        for path in (
            runs[package].config,
            runs[package].checkpoint,
            runs[package].image,
        )
    ]
    assert run_python(INFERENCE, *arguments) == 'shape (64, 64)'


def iterations(work_dir):
    """Return how far a run has come, and its checkpoint."""
    path = Path((work_dir / 'last_checkpoint').read_text().strip())
    return load_checkpoint(path)['meta']['iter'], path


@pytest.mark.slow
def test_their_training_resumes_ours(runs, run_their_tool, tmp_path):
    run = runs['mmdet']
    output = run_their_tool(
        'mmdet', 'train.py', run.config, '--work-dir', tmp_path,
        '--resume', run.checkpoint, '--cfg-options', *run.more,
    )  # fmt: skip
    assert 'resumed epoch: 1, iter: 4' in output
    assert iterations(tmp_path)[0] == 8


@pytest.mark.slow
@pytest.mark.parametrize('package', ['mmdet', 'mmseg'])
def test_our_runner_in_their_tools(runs, run_their_tool, package, tmp_path):
    """It trains, resumes to the bit, and tests."""
    run = runs[package]
    option = 'runner_type=CheckedRunner'
    options = ['--cfg-options', option, *run.more]
    whole, parts = tmp_path / 'whole', tmp_path / 'parts'
    run_their_tool(
        package, 'train.py', run.config, '--work-dir', whole, *options
    )
    run_their_tool(
        package, 'train.py', run.config, '--work-dir', parts,
        '--cfg-options', option,
    )  # fmt: skip
    output = run_their_tool(
        package, 'train.py', run.config, '--work-dir', parts, '--resume',
        *options,
    )  # fmt: skip
    assert 'resumed epoch' in output
    (reached, first), (same, second) = map(iterations, (whole, parts))
    assert reached == same
    first, second = (load_checkpoint(path) for path in (first, second))
    for name, value in first['state_dict'].items():
        assert torch.equal(value, second['state_dict'][name]), name
    run_their_tool(
        package, 'test.py', run.config, iterations(parts)[1],
        '--work-dir', tmp_path / 'test', '--cfg-options', option,
    )  # fmt: skip
