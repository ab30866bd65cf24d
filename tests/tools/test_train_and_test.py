"""tools/train.py and tools/test.py, as processes on a tiny digits set."""

import json
import os
import pickle
import re
from pathlib import Path

import pytest
import torch

import mmbiformer  # noqa: F401 (teaches torch what mmengine saves)

ROOT = Path(__file__).resolve().parents[2]
CONFIG = ROOT / 'configs/detection/maskrcnn_biformer_digits.py'


def options(digits, *more):
    """Point the config at a data set, and cut the schedule."""
    loaders = ('train_dataloader', 'val_dataloader', 'test_dataloader')
    values = [f'{loader}.dataset.data_root={digits}/' for loader in loaders]
    annotations = digits / 'annotations/instances_val.json'
    values += [
        f'{evaluator}.ann_file={annotations}'
        for evaluator in ('val_evaluator', 'test_evaluator')
    ]
    return ['--cfg-options', *values, 'train_cfg.max_epochs=2', *more]


@pytest.fixture(scope='module')
def trained(digits, tmp_path_factory, run_tool):
    """A work directory after two epochs."""
    work_dir = tmp_path_factory.mktemp('work_dirs') / 'digits'
    run_tool(
        'train.py', CONFIG, '--work-dir', work_dir,
        *options(digits, 'default_hooks.logger.interval=1'),
    )  # fmt: skip
    return work_dir


def read_log(work_dir):
    """Return the log of the latest run, in text."""
    return max(work_dir.glob('*/*.log')).read_text()


def test_training_leaves_checkpoints_and_logs(trained):
    assert (trained / 'epoch_2.pth').is_file()
    assert (trained / CONFIG.name).is_file()
    log = read_log(trained)
    assert re.search(r'Epoch\(train\) +\[2\]\[4/4\].*loss_mask: \d', log)


def test_testing_prints_and_keeps_metrics(trained, digits, tmp_path, run_tool):
    out = tmp_path / 'predictions.pkl'
    result = run_tool(
        'test.py', CONFIG, trained / 'epoch_2.pth', '--work-dir', tmp_path,
        '--out', out, '--show-dir', 'pictures', *options(digits),
    )  # fmt: skip
    assert 'coco/bbox_mAP' in result.stdout
    assert 'coco/segm_mAP' in result.stdout
    (run,) = (path.parent for path in tmp_path.glob('*/*.json'))
    metrics = json.loads((run / f'{run.name}.json').read_text())
    assert 0 <= metrics['coco/segm_mAP_50'] <= 1
    assert len(list((run / 'pictures').iterdir())) == 2
    predictions = pickle.loads(out.read_bytes())
    assert len(predictions) == 2
    assert 'masks' in predictions[0]['pred_instances']


def test_tta_merges_boxes(trained, digits, tmp_path, run_tool):
    result = run_tool(
        'test.py', CONFIG, trained / 'epoch_2.pth', '--work-dir', tmp_path,
        '--tta', *options(digits),
    )  # fmt: skip
    assert 'masks are neither predicted' in result.stdout
    assert 'coco/bbox_mAP' in result.stdout
    assert 'coco/segm_mAP' not in result.stdout


def test_tta_takes_scales_from_the_config(trained, digits, tmp_path, run_tool):
    config = tmp_path / 'config.py'
    config.write_text(
        f"_base_ = ['{CONFIG}', 'mmdet::retinanet/retinanet_tta.py']\n"
    )
    scales = [
        f'tta_pipeline.1.transforms.0.{i}.scale=({side},{side})'
        for i, side in enumerate((96, 128, 160))
    ]
    result = run_tool(
        'test.py', config, trained / 'epoch_2.pth', '--work-dir', tmp_path,
        '--tta', *options(digits, *scales),
    )  # fmt: skip
    assert 'scale=(\n' in result.stdout
    assert 'coco/bbox_mAP' in result.stdout


@pytest.mark.parametrize('how', ['auto', 'path'])
def test_resuming_goes_on_where_training_stopped(
    trained, digits, tmp_path, run_tool, how
):
    work_dir = tmp_path / 'digits'
    work_dir.mkdir()
    checkpoint = trained / 'epoch_1.pth'
    arguments = [checkpoint]
    if how == 'auto':
        os.link(checkpoint, work_dir / 'epoch_1.pth')
        (work_dir / 'last_checkpoint').write_text(
            str(work_dir / 'epoch_1.pth')
        )
        arguments = []
    run_tool(
        'train.py', CONFIG, '--work-dir', work_dir,
        *options(digits, 'default_hooks.logger.interval=1'),
        '--resume', *arguments,
    )  # fmt: skip
    log = read_log(work_dir)
    assert 'resumed epoch: 1, iter: 4' in log
    assert 'Epoch(train) [1]' not in log.replace('  ', ' ')
    whole, resumed = (
        torch.load(folder / 'epoch_2.pth', weights_only=True)['state_dict']
        for folder in (trained, work_dir)
    )
    assert whole.keys() == resumed.keys()


def assert_refused(result, *parts):
    """It ended with one clear line, and not with a traceback."""
    assert result.returncode == 1
    assert 'Traceback' not in result.stderr
    for part in parts:
        assert str(part) in result.stderr


def test_a_checkpoint_without_the_optimizer_is_not_resumed(
    trained, digits, tmp_path, run_tool
):
    checkpoint = torch.load(trained / 'epoch_1.pth', weights_only=True)
    del checkpoint['optimizer']
    torch.save(checkpoint, tmp_path / 'published.pth')
    result = run_tool(
        'train.py', CONFIG, '--work-dir', tmp_path / 'work',
        *options(digits), '--resume', tmp_path / 'published.pth',
        check=False,
    )  # fmt: skip
    assert result.returncode == 1
    assert 'holds no state of the optimizer' in result.stderr


class TestBadInput:
    """Each ends before anything is written."""

    @pytest.fixture(autouse=True)
    def nothing_is_written(self, tmp_path):
        yield
        assert not (tmp_path / 'work').exists()

    def train(self, run_tool, tmp_path, config, *arguments):
        return run_tool(
            'train.py', config, '--work-dir', tmp_path / 'work', *arguments,
            check=False,
        )  # fmt: skip

    def test_no_such_config(self, run_tool, tmp_path):
        result = self.train(run_tool, tmp_path, 'configs/nowhere.py')
        assert_refused(result, "config='configs/nowhere.py'")

    def test_config_for_another_task(self, run_tool, tmp_path):
        config = tmp_path / 'config.py'
        config.write_text("default_scope = 'mmocr'\nmodel = dict()\n")
        result = self.train(run_tool, tmp_path, config)
        assert_refused(result, "default_scope='mmocr'", 'mmdet')

    def test_no_data(self, run_tool, tmp_path):
        result = self.train(
            run_tool, tmp_path, CONFIG, *options(tmp_path / 'nowhere')
        )
        assert_refused(
            result,
            tmp_path / 'nowhere/annotations/instances_train.json',
            'tools/dataset_converters/digits.py',
        )

    def test_other_number_of_classes(self, run_tool, tmp_path, digits):
        result = self.train(
            run_tool, tmp_path, CONFIG,
            *options(digits, 'model.roi_head.bbox_head.num_classes=11'),
        )  # fmt: skip
        assert_refused(
            result,
            'model.roi_head.bbox_head.num_classes=11',
            'metainfo.classes has 10 names',
        )

    def test_no_pretrained_weights(self, run_tool, tmp_path, digits):
        result = self.train(
            run_tool, tmp_path, CONFIG,
            *options(
                digits,
                'model.backbone.init_cfg.type=Pretrained',
                'model.backbone.init_cfg.checkpoint=nowhere.pth',
            ),
        )  # fmt: skip
        assert_refused(
            result, "model.backbone.init_cfg.checkpoint='nowhere.pth'"
        )

    def test_no_checkpoint_to_resume(self, run_tool, tmp_path, digits):
        result = self.train(
            run_tool, tmp_path, CONFIG, *options(digits),
            '--resume', 'nowhere.pth',
        )  # fmt: skip
        assert_refused(result, "--resume='nowhere.pth'")

    @pytest.mark.skipif(torch.cuda.is_available(), reason='needs no GPU')
    def test_amp_without_a_gpu(self, run_tool, tmp_path, digits):
        result = self.train(
            run_tool, tmp_path, CONFIG, *options(digits), '--amp'
        )
        assert_refused(result, '--amp needs a GPU', 'leave it out')

    @pytest.mark.skipif(torch.cuda.is_available(), reason='needs no GPU')
    @pytest.mark.parametrize(
        ('launcher', 'hint'),
        [('slurm', 'needs GPUs'), ('pytorch', 'tools/dist_train.sh')],
    )
    def test_launchers(self, run_tool, tmp_path, digits, launcher, hint):
        result = self.train(
            run_tool, tmp_path, CONFIG, *options(digits),
            '--launcher', launcher,
        )  # fmt: skip
        assert_refused(result, f'--launcher={launcher}', hint)

    def test_no_checkpoint_to_test(self, run_tool, tmp_path, digits):
        result = run_tool(
            'test.py', CONFIG, 'nowhere.pth', *options(digits), check=False
        )
        assert_refused(result, "checkpoint='nowhere.pth'")


def test_classes_that_are_no_categories_are_refused(
    digits, tmp_path, run_tool
):
    names = "metainfo.classes=('dog',)"
    result = run_tool(
        'train.py', CONFIG, '--work-dir', tmp_path / 'work', '--cfg-options',
        f'train_dataloader.dataset.data_root={digits}/',
        f'val_dataloader.dataset.data_root={digits}/',
        f'train_dataloader.dataset.{names}',
        f'val_dataloader.dataset.{names}',
        'model.roi_head.bbox_head.num_classes=1',
        'model.roi_head.mask_head.num_classes=1',
        check=False,
    )  # fmt: skip
    assert result.returncode == 1
    assert f"'data_root': '{digits}/'" in result.stderr
    assert (
        "not 'dog'; they must be written as there ('0', '1'" in result.stderr
    )


def test_boxes_without_masks_are_refused(digits, tmp_path, run_tool):
    annotations = digits / 'annotations/instances_train.json'
    content = json.loads(annotations.read_text())
    for annotation in content['annotations']:
        del annotation['segmentation']
    (tmp_path / 'boxes.json').write_text(json.dumps(content))
    result = run_tool(
        'train.py', CONFIG, '--work-dir', tmp_path / 'work',
        *options(
            digits, f'train_dataloader.dataset.ann_file={tmp_path}/boxes.json'
        ),
        check=False,
    )  # fmt: skip
    assert result.returncode == 1
    last = result.stderr.strip().splitlines()[-1]
    assert 'has no mask' in last
    assert f'{tmp_path}/boxes.json' in last


def test_broken_annotations_are_named(digits, tmp_path, run_tool):
    (tmp_path / 'broken.json').write_text('{"images": [')
    result = run_tool(
        'train.py', CONFIG, '--work-dir', tmp_path / 'work',
        *options(
            digits,
            f'train_dataloader.dataset.ann_file={tmp_path}/broken.json',
        ),
        check=False,
    )  # fmt: skip
    assert result.returncode == 1
    last = result.stderr.strip().splitlines()[-1]
    assert 'a file of this data set cannot be read (Expecting' in last
    assert f'{tmp_path}/broken.json' in last


@pytest.mark.parametrize(
    ('depths', 'problem'), [('(1,1,5,1)', 'missing'), ('(1,1,3,1)', 'surplus')]
)
def test_a_checkpoint_of_another_model_is_refused(
    trained, digits, tmp_path, run_tool, depths, problem
):
    result = run_tool(
        'test.py', CONFIG, trained / 'epoch_2.pth', '--work-dir', tmp_path,
        *options(digits, f'model.backbone.arch.depths={depths}'),
        check=False,
    )  # fmt: skip
    assert result.returncode == 1
    assert 'does not fit the model of this config' in result.stderr
    assert problem in result.stderr
    assert 'backbone.stages.2' in result.stderr


def test_auto_scale_lr(digits, tmp_path, run_tool):
    run_tool(
        'train.py', CONFIG, '--work-dir', tmp_path, '--auto-scale-lr',
        *options(
            digits,
            'train_cfg.max_epochs=1',
            'train_dataloader.batch_size=1',
            'default_hooks.logger.interval=1',
        ),
    )  # fmt: skip
    assert 'Scaling the original LR by 0.5.' in read_log(tmp_path)
