"""The tool that builds the page of docs/demo, and the page's own functions."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest

onnx = pytest.importorskip('onnx')
pytest.importorskip('onnxruntime')
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def make_file(tmp_path):
    """Write a file that computes nothing, with metadata of a model."""
    number = iter(range(9))

    def make(task='object detection', **sizes):
        sizes = dict(batch=1, height=160, width=160) | sizes
        value = onnx.helper.make_tensor_value_info('images', 1, [1, 3, 4, 4])
        graph = onnx.helper.make_graph([], 'empty', [value], [value])
        model = onnx.helper.make_model(
            graph, opset_imports=[onnx.helper.make_opsetid('', 20)],
            ir_version=9,
        )  # fmt: skip
        metadata = dict(
            format=1, task=task, input=sizes, outputs=['images'],
            classes=['a'], palette=[[0, 0, 0]], postprocessing={},
        )  # fmt: skip
        entry = model.metadata_props.add()
        entry.key, entry.value = 'mmbiformer', json.dumps(metadata)
        path = tmp_path / f'{next(number)}.onnx'
        onnx.save(model, path)
        return path

    return make


def test_bad_input_leaves_no_page(make_file, run_tool, tmp_path):
    segmentor = make_file('semantic segmentation')
    for file, message in (
        (segmentor, 'the page shows detections; model='),
        (make_file(batch=None), 'must take one square image at a time'),
        (make_file(width=200), 'must take one square image at a time'),
        (tmp_path / 'none.onnx', 'is not a file'),
    ):
        out = tmp_path / 'page'
        result = run_tool('deployment/build_demo.py', file, out, check=False)
        assert result.returncode == 1
        assert result.stderr.startswith('build_demo.py: error: ')
        assert message in result.stderr
        assert not out.exists()
    # --force replaces a page, and nothing else.
    (tmp_path / 'other').mkdir()
    result = run_tool(
        'deployment/build_demo.py', make_file(), tmp_path / 'other', '--force',
        check=False,
    )  # fmt: skip
    assert 'exists already' in result.stderr
    assert not list(tmp_path.glob('.*'))


def test_the_functions_of_the_page():
    node = shutil.which('node')
    if node is None:
        pytest.skip('needs Node.js')
    result = subprocess.run(
        [node, '--test', 'tests/demo/decode.test.mjs'],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert result.returncode == 0, result.stdout


def test_the_page_is_of_this_project_and_npm_alone():
    lock = json.loads((ROOT / 'docs/demo/package-lock.json').read_text())
    for name, package in lock['packages'].items():
        assert not name or package['integrity'].startswith('sha512-')
        assert 'resolved' not in package
    for path in (ROOT / 'docs/demo').glob('*.*'):
        assert 'http://' not in path.read_text().replace(
            'http://www.w3.org', ''
        )
        assert 'https://' not in path.read_text()
