"""The curves of training runs."""

import numpy as np
import pytest
from training_logs import write_run

from mmbiformer.utils.errors import ConfigError, MissingFileError
from mmbiformer.visualization.curves import draw_curves, read_log


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


def test_files_that_are_not_logs(tmp_path):
    path = tmp_path / 'scalars.json'
    for text, message in (
        ('hello\nworld\n', ', line 1, is not an entry of a JSON log'),
        ('[1]\n{}\n', ', line 1, is not an entry of a JSON log'),
        ('{"mIoU": 1.0, "step": 3}\n', ' has no training entry'),
        ('', ' has no training entry'),
        ('{"loss": 1', ', line 1, is not an entry of a JSON log'),
    ):
        path.write_text(text)
        with pytest.raises(ConfigError) as error:
            read_log(path)
        assert str(error.value).startswith(f'log={str(path)!r}{message}')
    with pytest.raises(MissingFileError, match="log='nowhere' is neither"):
        read_log('nowhere')
