"""tools/analysis_tools/plot_log.py, and the curves behind it."""

import json
import runpy
from pathlib import Path

import cv2
import numpy as np
import pytest

from mmbiformer.visualization.curves import draw_curves, read_log

ROOT = Path(__file__).resolve().parents[2]
TOOL = 'analysis_tools/plot_log.py'


def write_run(folder, steps, factor=1.0, evaluate=(), cut=''):
    """Write what mmengine logs: steps of training, epochs of evaluation."""
    path = folder / 'vis_data/scalars.json'
    path.parent.mkdir(parents=True)
    entries = [
        dict(
            lr=1e-3 / step, data_time=0.01, time=0.3, memory=4000,
            loss=factor / step, loss_cls=0.7 * factor / step,
            epoch=1 + step // 100, iter=step, step=step,
        )
        for step in steps
    ]  # fmt: skip
    for epoch in evaluate:
        entries.append(
            {'coco/bbox_mAP': 0.1 * epoch, 'coco/bbox_mAP_s': -1.0,
             'time': 0.1, 'step': epoch}
        )  # fmt: skip
        entries.append({'routing/stage3/entropy': 0.9, 'step': 100 * epoch})
    text = '\n'.join(json.dumps(entry) for entry in entries) + '\n' + cut
    path.write_text(text)
    return path


def curves_of(figure):
    """Return the values of each curve by panel and label."""
    return {
        axes.get_title(): {
            line.get_label(): np.array(line.get_data()).T
            for line in axes.get_lines()
            if len(line.get_xdata())
        }
        for axes in figure.axes
    }


def test_one_run(tmp_path):
    write_run(tmp_path / 'run', (50, 100, 150), evaluate=(1, 2), cut='{"lo')
    figure = draw_curves([read_log(tmp_path / 'run')])
    curves = curves_of(figure)
    assert list(curves) == [
        'Loss', 'Learning rate', 'AP', 'Seconds per iteration',
        'Memory (MB)', 'Routing: entropy of the selection',
    ]  # fmt: skip
    np.testing.assert_allclose(
        curves['Loss']['loss'], [(s, 1 / s) for s in (50, 100, 150)]
    )
    assert set(curves['Loss']) == {'loss', 'loss_cls'}
    np.testing.assert_allclose(
        curves['AP']['coco/bbox_mAP'], [(1, 0.1), (2, 0.2)]
    )
    # The time of evaluation is not that of training.
    assert (curves['Seconds per iteration']['time'][:, 1] == 0.3).all()
    labels = [axes.get_xlabel() for axes in figure.axes]
    assert labels[:3] == ['iteration', 'iteration', 'epoch']


def test_runs_of_a_resumed_training_are_merged(tmp_path):
    """The first was killed after its last checkpoint, at step 100."""
    write_run(tmp_path / '20260101_000000', (50, 100, 150), evaluate=(1,))
    write_run(tmp_path / '20260102_000000', (150, 200), 3.0, evaluate=(2,))
    log = read_log(tmp_path)
    assert log.name == tmp_path.name
    assert log.train['loss'] == {
        50: 1 / 50, 100: 1 / 100, 150: 3 / 150, 200: 3 / 200
    }  # fmt: skip
    assert list(log.metrics['coco/bbox_mAP']) == [1, 2]


def test_segmentation_counts_iterations(tmp_path):
    path = tmp_path / 'scalars.json'
    path.write_text(
        '{"lr": 0.1, "decode.loss_ce": 2.0, "loss": 2.0, "step": 10}\n'
        '{"aAcc": 50.0, "mIoU": 20.0, "mAcc": 30.0, "step": 10}\n'
    )
    curves = curves_of(draw_curves([read_log(path)]))
    assert set(curves['Loss']) == {'loss', 'decode.loss_ce'}
    assert set(curves['mIoU']) == {'mIoU'}


def test_the_tool_compares_runs(run_tool, tmp_path):
    for name, factor in (('a', 1.0), ('b', 2.0)):
        write_run(tmp_path / name, (50, 100), factor, evaluate=(1,))
    out = tmp_path / 'curves.png'
    result = run_tool(
        TOOL, tmp_path / 'a', tmp_path / 'b/vis_data/scalars.json',
        '--legend', 'first', 'second', '--out', out,
    )  # fmt: skip
    assert str(out) in result.stdout
    picture = cv2.imread(str(out))
    assert picture.shape[1] == 1380
    # Both runs' colors, #0072B2 and #D55E00.
    for bgr in ((178, 114, 0), (0, 94, 213)):
        near = np.abs(picture.astype(int) - bgr).max(axis=-1) < 8
        assert near.sum() > 100


def test_bad_input(tmp_path, monkeypatch):
    write_run(tmp_path / 'run', (50,))
    before = set(tmp_path.rglob('*'))
    for arguments, message in (
        (['nowhere'], "log='nowhere' is neither"),
        (['run', '--out', 'a.bmp'], '--out must end in .png'),
        (['run', '--out', 'nowhere/a.png'], "/nowhere' is not a folder"),
    ):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr('sys.argv', ['plot_log.py', *arguments])
        with pytest.raises(SystemExit) as error:
            runpy.run_path(ROOT / 'tools' / TOOL, run_name='__main__')
        assert str(error.value).startswith('plot_log.py: error: ')
        assert message in str(error.value)
    assert set(tmp_path.rglob('*')) == before


def test_files_that_are_not_logs(tmp_path):
    path = tmp_path / 'scalars.json'
    for text, message in (
        ('hello\nworld\n', 'line 1, is not an entry of a JSON log'),
        ('[1]\n{}\n', 'line 1, is not an entry of a JSON log'),
        ('{"mIoU": 1.0, "step": 3}\n', 'has no training entry'),
        ('', 'has no training entry'),
    ):
        path.write_text(text)
        with pytest.raises(ValueError, match=message):
            read_log(path)
