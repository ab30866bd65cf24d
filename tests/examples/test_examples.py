"""The programs in examples/, run as a user would."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from exported import save_model, write_config
from PIL import Image

from mmbiformer.deployment.export import Options, export
from mmbiformer.deployment.runtime import Session
from mmbiformer.utils.config import read_config

pytestmark = pytest.mark.slow
onnxruntime = pytest.importorskip('onnxruntime')
pytest.importorskip('onnxscript')
EXAMPLES = Path(__file__).resolve().parents[2] / 'examples'
ALONE = """
import runpy, sys
for name in ('cv2', 'mmbiformer', 'mmcv', 'mmengine', 'torch'):
    sys.modules[name] = None
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name='__main__')
"""
"""str: Runs a script that must not import what users may not have."""


def run(*command):
    result = subprocess.run(
        list(map(str, command)), capture_output=True, text=True, timeout=120
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def run_python(name, *arguments):
    script = EXAMPLES / 'python' / name
    return run(sys.executable, '-c', ALONE, script, *arguments)


def read_lines(text):
    """Return label, score and box of each line."""
    rows = [line.split() for line in text.splitlines()]
    return np.array(rows, dtype=float)


def expected(file, image):
    """Return the same of the detections that the examples should print."""
    pixels = np.asarray(Image.open(image).convert('RGB'))[..., ::-1]
    outputs = Session(str(file))(pixels.transpose(2, 0, 1)[None])
    labels, scores = outputs['labels'][0], outputs['scores'][0]
    rows = np.column_stack([labels, scores, outputs['boxes'][0]])
    return rows[(labels >= 0) & (scores >= 0.5)]


@pytest.fixture(scope='module')
def picture(demo_folder, digits_file):
    """A scene of the demo; the file was made after it."""
    return demo_folder / 'data/digits/images/val/000009.png'


def test_python_detects(digits_file, picture, tmp_path):
    out = tmp_path / 'out.png'
    text = run_python('detect.py', digits_file, picture, out)
    rows = expected(digits_file, picture)
    assert len(rows) > 3
    np.testing.assert_allclose(read_lines(text), rows, atol=0.051)
    before, after = (
        np.asarray(Image.open(path).convert('RGB'), float)
        for path in (picture, out)
    )
    assert after.shape == before.shape
    changed = np.abs(after - before).max(-1) > 0
    for left, top, right, bottom in rows[:, 2:].round().astype(int):
        assert changed[top + 5 : bottom - 5, left + 5 : right - 5].any()
    assert not changed.all()


def test_python_detects_in_images_of_another_size(
    digits_file, picture, tmp_path
):
    large = tmp_path / 'large.png'
    Image.open(picture).resize((480, 480), Image.NEAREST).save(large)
    text = run_python('detect.py', digits_file, large, tmp_path / 'out.png')
    rows = expected(digits_file, picture)
    found = read_lines(text)
    assert len(found) == len(rows)
    np.testing.assert_array_equal(found[:, 0], rows[:, 0])
    np.testing.assert_allclose(found[:, 2:] / 3, rows[:, 2:], atol=2)


def test_python_segments(picture, tmp_path):
    config = write_config('sfpn', tmp_path / 'config.py')
    classes = ('background', *'0123456789')
    weights = save_model(config, tmp_path / 'weights.pth', classes)
    file = tmp_path / 'model.onnx'
    export(read_config(str(config)), str(weights), file, Options())
    out = tmp_path / 'out.png'
    text = run_python('detect.py', file, picture, out)

    session = Session(str(file))
    pixels = np.asarray(Image.open(picture).convert('RGB'))[..., ::-1]
    size = session.metadata['test_pipeline'][1]['scale']
    pixels = np.asarray(
        Image.fromarray(np.ascontiguousarray(pixels)).resize(
            size, Image.BILINEAR
        )
    )
    logits = session(pixels.transpose(2, 0, 1)[None])['logits'][0]
    values, counts = np.unique(logits.argmax(0), return_counts=True)
    shares = dict(line.split() for line in text.splitlines())
    assert shares == {
        classes[value]: f'{count / counts.sum():.3f}'
        for value, count in zip(values, counts, strict=True)
    }
    assert Image.open(out).size == Image.open(picture).size


@pytest.fixture(scope='module')
def program(tmp_path_factory):
    """The example in C++, compiled with the library of the wheel.

    The wheel has no headers: the variable ONNXRUNTIME_INCLUDE names their
    folder, which Debian's libonnxruntime-dev puts where it is looked for.
    """
    headers = Path(
        os.environ.get('ONNXRUNTIME_INCLUDE', '/usr/include/onnxruntime')
    )
    compiler = shutil.which('g++')
    if not (headers / 'onnxruntime_cxx_api.h').is_file() or not compiler:
        pytest.skip('needs g++ and the headers of onnxruntime')
    folder = Path(onnxruntime.__file__).parent / 'capi'
    library = next(folder.glob('libonnxruntime.so.*'), None)
    if library is None:
        pytest.skip('this wheel of onnxruntime has no library')
    out = tmp_path_factory.mktemp('cpp')
    for name in ('libonnxruntime.so', 'libonnxruntime.so.1'):
        (out / name).symlink_to(library)
    run(
        compiler, '-std=c++17', '-Wall', '-Werror', f'-isystem{headers}',
        EXAMPLES / 'cpp/detect.cpp', f'-L{out}', f'-Wl,-rpath,{out}',
        '-lonnxruntime', '-o', out / 'detect',
    )  # fmt: skip
    return out / 'detect'


def test_cpp_detects(program, digits_file, picture, tmp_path):
    image = tmp_path / 'scene.ppm'
    Image.open(picture).convert('RGB').save(image)
    rows = expected(digits_file, picture)
    found = read_lines(run(program, digits_file, image))
    np.testing.assert_allclose(found, rows, atol=0.051)
    # With its threshold as an argument.
    high = rows[:, 1].min() + 1e-4
    text = run(program, digits_file, image, high)
    assert len(text.splitlines()) == (rows[:, 1] >= high).sum()


def test_cpp_names_what_is_wrong(program, digits_file, picture, tmp_path):
    for arguments, status, message in (
        ([], 2, 'usage: detect MODEL.onnx IMAGE.ppm'),
        ([digits_file, picture], 1, 'is not a PPM image'),
        ([tmp_path / 'none.onnx', picture], 1, 'none.onnx'),
    ):
        result = subprocess.run(
            [program, *arguments], capture_output=True, text=True
        )
        assert result.returncode == status
        assert re.search(message, result.stderr)
