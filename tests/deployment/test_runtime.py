"""Exported files in the tools that take a config and a checkpoint."""

import functools
import json
import sys

import numpy as np
import pytest
from exported import save_model, write_config
from PIL import Image

from mmbiformer.deployment.export import Options, export
from mmbiformer.deployment.models import config_of
from mmbiformer.deployment.runtime import Session
from mmbiformer.deployment.tracing import Sizes
from mmbiformer.deployment.triton_server import render
from mmbiformer.utils.config import read_config
from mmbiformer.utils.errors import (
    CheckpointError,
    ConfigError,
    MissingFileError,
)

pytest.importorskip('onnxruntime')
pytest.importorskip('onnxscript')
onnx = pytest.importorskip('onnx')
DIGITS = tuple('0123456789')


RECIPES = [
    pytest.param('maskrcnn', marks=pytest.mark.slow),
    pytest.param('sfpn', marks=pytest.mark.slow),
    'sfpn-160',
]
"""list: Small models for files of any size, and one for 160 x 160 px."""


@pytest.fixture(scope='module')
def model_of(tmp_path_factory):
    """Return config, checkpoint and exported file of a small model."""

    @functools.cache
    def make(recipe):
        folder = tmp_path_factory.mktemp(recipe)
        recipe, _, side = recipe.partition('-')
        sizes = Sizes(None, *[int(side)] * 2) if side else Sizes()
        config = write_config(recipe, folder / 'config.py')
        classes = ('background', *DIGITS) if recipe == 'sfpn' else DIGITS
        weights = save_model(config, folder / 'weights.pth', classes)
        file = folder / 'model.onnx'
        export(read_config(str(config)), str(weights), file, Options(sizes))
        return config, weights, file

    return make


@pytest.fixture(scope='module')
def images(tmp_path_factory):
    """Images of two sizes, of which some are those of the data set."""
    folder = tmp_path_factory.mktemp('images')
    rng = np.random.default_rng(0)
    for name, shape in dict(a=(160, 160), b=(160, 160), c=(200, 130)).items():
        pixels = rng.integers(0, 256, (*shape, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f'{name}.png')
    return folder


def test_files_describe_themselves(model_of):
    metadata = Session(str(model_of('sfpn-160')[2])).metadata
    assert metadata['task'] == 'semantic segmentation'
    assert metadata['classes'] == ['background', *DIGITS]
    assert len(metadata['palette']) == 11
    assert metadata['n_win'] == 3
    assert metadata['input']['height'] == 160
    assert metadata['input']['batch'] is None
    assert metadata['test_pipeline'][0]['type'] == 'LoadImageFromFile'
    assert len(metadata['checkpoint_sha256']) == 64
    assert set(metadata['versions']) == {'mmbiformer', 'torch'}


@pytest.mark.parametrize('recipe', RECIPES)
def test_infer_gives_what_the_checkpoint_gives(
    model_of, images, run_tool, tmp_path, recipe
):
    config, weights, file = model_of(recipe)
    paths = [images / 'a.png', images / 'b.png']
    if '-' not in recipe:
        paths.append(images / 'c.png')
    results = {}
    for name, arguments in dict(torch=[config, weights], onnx=[file]).items():
        out = tmp_path / name
        run_tool('infer.py', *paths, *arguments, '--out-dir', out)
        results[name] = sorted(
            path.relative_to(out) for path in out.rglob('*.*')
        )
    assert results['torch'] == results['onnx']
    assert len(results['onnx']) == 2 * len(paths) + 1
    for path in results['onnx']:
        one, other = (tmp_path / name / path for name in results)
        if path.parent.name == 'preds':
            one, other = (json.loads(x.read_text()) for x in (one, other))
            assert one['labels'] == other['labels'] and one['labels']
            np.testing.assert_allclose(
                one['bboxes'], other['bboxes'], atol=1e-2
            )
            np.testing.assert_allclose(
                one['scores'], other['scores'], atol=1e-5
            )
        elif path.suffix == '.png':
            one, other = (np.asarray(Image.open(x)) for x in (one, other))
            # mmdet draws masks in colours that differ by chance.
            assert np.abs(one.astype(int) - other).mean() < 3


@pytest.mark.parametrize('recipe', RECIPES)
def test_test_gives_the_metrics_of_the_checkpoint(
    model_of, digits, run_tool, tmp_path, recipe
):
    config, weights, file = model_of(recipe)
    folder = tmp_path / 'data'
    folder.mkdir()
    (folder / 'digits').symlink_to(digits)
    found = []
    for name, arguments in dict(torch=[config, weights], onnx=[file]).items():
        work_dir = tmp_path / name
        run_tool('test.py', *arguments, '--work-dir', work_dir, cwd=tmp_path)
        (metrics,) = work_dir.glob('[0-9]*_*/[0-9]*_*.json')
        found.append(json.loads(metrics.read_text()))
    one, other = found
    shared = [key for key in one if 'time' not in key]
    assert shared
    for key in shared:
        assert other[key] == pytest.approx(one[key], abs=1e-3), key


def test_openvino(model_of):
    pytest.importorskip('openvino')
    file = str(model_of('sfpn-160')[2])
    images = 255 * np.random.rand(2, 3, 160, 160)
    one = Session(file)(images)['logits']
    other = Session(file, 'openvino')(images)['logits']
    np.testing.assert_allclose(one, other, atol=1e-3)


@pytest.mark.parametrize('runtime', ['onnxruntime', 'openvino'])
def test_runtime_that_is_missing(model_of, monkeypatch, runtime):
    monkeypatch.setitem(sys.modules, runtime, None)
    with pytest.raises(ConfigError, match=f'{runtime} is needed'):
        Session(str(model_of('sfpn-160')[2]), runtime)


def test_files_that_are_not_ours(tmp_path):
    with pytest.raises(MissingFileError, match='model='):
        Session(str(tmp_path / 'none.onnx'))
    broken = tmp_path / 'broken.onnx'
    broken.write_bytes(b'\x08\x07 not a model')
    with pytest.raises(CheckpointError, match='cannot be opened'):
        Session(str(broken))
    program = tmp_path / 'model.pt2'
    program.write_bytes(b'')
    with pytest.raises(ConfigError, match='torch.export.load'):
        Session(str(program))
    node = onnx.helper.make_node('Relu', ['images'], ['y'])
    value = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        [node], 'g', [value('images', 1, [1])], [value('y', 1, [1])]
    )
    model = onnx.helper.make_model(
        graph, opset_imports=[onnx.helper.make_opsetid('', 20)], ir_version=9
    )
    onnx.save(model, tmp_path / 'foreign.onnx')
    with pytest.raises(CheckpointError, match='no metadata of mmbiformer'):
        config_of(str(tmp_path / 'foreign.onnx'))


def test_infer_names_a_foreign_file(run_tool, images, tmp_path):
    foreign = tmp_path / 'foreign.onnx'
    foreign.write_bytes(b'')
    done = run_tool(
        'infer.py', images, foreign, '--out-dir', tmp_path / 'out',
        check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert 'infer.py: error: model=' in done.stderr
    assert 'Traceback' not in done.stderr
    assert not (tmp_path / 'out').exists()


def test_infer_takes_a_config_or_a_file(run_tool, images, tmp_path):
    done = run_tool(
        'infer.py', images, 'config.py', 'model.onnx', check=False,
        cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 2
    assert 'takes the place of config and checkpoint' in done.stderr
    assert not list(tmp_path.iterdir())


def test_sizes_that_a_file_does_not_take(model_of, tmp_path):
    session = Session(str(model_of('sfpn-160')[2]))
    with pytest.raises(ConfigError, match='was exported for'):
        session(np.zeros((1, 3, 160, 161)))


def test_triton_settings():
    metadata = dict(
        task='instance segmentation',
        input=dict(name='images', batch=None, height=None, width=None),
        outputs=['boxes', 'scores', 'labels', 'masks'],
    )
    text = render('digits', metadata)
    assert 'backend: "onnxruntime"' in text
    assert 'dims: [ -1, 3, -1, -1 ]' in text
    assert 'dims: [ -1, -1, 28, 28 ]' in text
    assert text.count('TYPE_INT64') == 1
    assert text.count('{') == text.count('}') == 5
