"""tools/analysis_tools/plot_log.py."""

import runpy
from pathlib import Path

import cv2
import numpy as np
import pytest
from training_logs import write_run

ROOT = Path(__file__).resolve().parents[2]
TOOL = 'analysis_tools/plot_log.py'


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
