"""Classifiers as exported files, and the files in the tools."""

import importlib.util
import json
import pickle
import subprocess
import sys

import flowers
import numpy as np
import pytest
import torch
from exported import save_model
from PIL import Image
from shipped import ROOT

from mmbiformer.deployment import graphs, verify
from mmbiformer.deployment.export import Options, export
from mmbiformer.deployment.families import graph_of
from mmbiformer.deployment.models import config_of
from mmbiformer.deployment.runtime import Session, custom_ops_library
from mmbiformer.deployment.table import VerificationError, format_table
from mmbiformer.deployment.tracing import Sizes
from mmbiformer.utils.config import build_model, read_config
from mmbiformer.utils.errors import ConfigError

pytest.importorskip('mmpretrain')
onnxruntime = pytest.importorskip('onnxruntime')
pytest.importorskip('onnxscript')
pytestmark = pytest.mark.classification
FIXED = Sizes(None, 48, 48)
"""Sizes: What the test pipeline makes."""
CONFIG = """
_base_ = 'flowers.py'
steps = _base_.test_dataloader.dataset.pipeline
# As the recipes for ImageNet, and as Pillow resizes.
steps[1] = dict(
    type='ResizeEdge', scale=64, edge='short', backend='pillow',
    interpolation='bicubic',
)
test_dataloader = dict(dataset=dict(pipeline=steps))
"""


@pytest.fixture(scope='module')
def model(tmp_path_factory):
    """Path of a config, and of random weights."""
    folder = tmp_path_factory.mktemp('flowers')
    flowers.write(folder)
    config = folder / 'config.py'
    config.write_text(CONFIG)
    weights = save_model(config, folder / 'weights.pth', flowers.CLASSES)
    return config, weights


@pytest.fixture
def cfg(model):
    return read_config(str(model[0]))


@pytest.fixture(scope='module')
def photo(model):
    """A photograph without losses by compression."""
    path = model[0].parent / 'photo.png'
    pixels = np.random.default_rng(0).integers(0, 256, (75, 131, 3), np.uint8)
    Image.fromarray(pixels).save(path)
    return path


@pytest.fixture(scope='module')
def exported(model, photo, run_tool):
    """File of any size, with the routing, and what the tool printed."""
    file = model[0].parent / 'model.onnx'
    done = run_tool(
        'deployment/export.py', *model, file, '--verify', photo, '--routing',
        '--triton', file.parent / 'server',
    )  # fmt: skip
    return file, done.stdout


def test_files_of_any_size(exported):
    file, printed = exported
    lines = printed.splitlines()
    assert lines[0].split() == [
        'images', 'input', 'logits', 'scores', 'affinities', 'found',
    ]  # fmt: skip
    # Each is compared once more for the routing.
    assert sum(line.endswith('equal') for line in lines) == 10
    sizes = {'1x3x160x160', '2x3x131x203', '1x3x257x149', '1x3x48x48'}
    assert sizes <= set(printed.split())
    session = onnxruntime.InferenceSession(str(file))
    names = [output.name for output in session.get_outputs()]
    assert names[:2] == ['scores', 'logits']
    assert len(names) == 2 + 2 * 3
    # Not one of the sizes that it was traced or verified with.
    images = 255 * np.random.rand(3, 3, 47, 221).astype(np.float32)
    scores, logits = session.run(names[:2], {'images': images})
    assert scores.shape == logits.shape == (3, 3)
    softmax = torch.from_numpy(logits).softmax(dim=1)
    np.testing.assert_allclose(scores, softmax, atol=1e-6)


def test_files_describe_themselves(exported):
    file = exported[0]
    about = Session(str(file)).metadata
    assert about['task'] == 'image classification'
    assert about['outputs'] == ['scores', 'logits']
    assert about['classes'] == list(flowers.CLASSES)
    assert about['test_pipeline'][1]['interpolation'] == 'bicubic'
    assert len(about['routing']) == 3
    settings = (file.parent / 'server/model/config.pbtxt').read_text()
    assert 'name: "scores"' in settings
    assert settings.count('dims: [ -1, 3 ]') == 2
    assert (file.parent / 'server/model/1/model.onnx').is_file()


def test_infer_gives_what_the_checkpoint_gives(
    model, exported, photo, run_tool, tmp_path
):
    images = [photo, *sorted(model[0].parent.glob('val/*/*.jpg'))]
    results = []
    for name, arguments in dict(torch=model, onnx=exported[:1]).items():
        out = tmp_path / name
        run_tool(
            'infer.py', *images, *arguments, '--out-dir', out,
            '--batch-size', 2,
        )  # fmt: skip
        index = json.loads((out / 'predictions.json').read_text())
        assert len(index['images']) == 7
        results.append((out, index))
    (folder, one), (_, other) = results
    assert one['images'] == other['images']
    assert one['classes'] == other['classes']
    for entry in one['images']:
        records = [
            json.loads((out / entry['prediction']).read_text())
            for out, _ in results
        ]
        assert records[0].keys() == records[1].keys()
        assert records[0]['pred_class'] == records[1]['pred_class']
        np.testing.assert_allclose(
            *(record['pred_scores'] for record in records), atol=1e-5
        )
        pictures = [
            np.asarray(Image.open(out / entry['picture'])).astype(int)
            for out, _ in results
        ]
        # A score may round to another last digit.
        assert np.abs(np.subtract(*pictures)).mean() < 1
    # What needs none of the frameworks says the same.
    code = (
        'import runpy, sys\n'
        'for name in ("cv2", "mmbiformer", "mmcv", "mmpretrain", "torch"):\n'
        '    sys.modules[name] = None\n'
        'sys.argv = sys.argv[1:]\n'
        'runpy.run_path(sys.argv[0], run_name="__main__")\n'
    )
    script = ROOT / 'examples/python/classify.py'
    done = subprocess.run(
        [sys.executable, '-c', code, script, exported[0], photo],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    record = json.loads((folder / 'preds/photo.json').read_text())
    assert done.stdout.splitlines() == [
        f'{top["name"]} {top["score"]:.3f}' for top in record['top5']
    ]


def test_test_gives_the_metrics_of_the_checkpoint(
    model, exported, run_tool, tmp_path
):
    found = []
    for name, arguments in dict(torch=model, onnx=exported[:1]).items():
        work_dir, out = tmp_path / name, tmp_path / f'{name}.pkl'
        run_tool('test.py', *arguments, '--work-dir', work_dir, '--out', out)
        (path,) = work_dir.glob('2*/2*.json')
        metrics = json.loads(path.read_text())
        found.append((metrics, pickle.loads(out.read_bytes())))
    (one, samples), (other, others) = found
    for key in ('accuracy/top1', 'accuracy/top2'):
        assert one[key] == other[key]
    assert len(samples) == 6
    for sample, same in zip(samples, others, strict=True):
        assert sample.keys() == same.keys()
        assert sample['img_path'] == same['img_path']
        assert torch.equal(sample['pred_label'], same['pred_label'])
        torch.testing.assert_close(
            sample['pred_score'], same['pred_score'], atol=1e-5, rtol=0
        )


def test_openvino(exported):
    pytest.importorskip('openvino')
    images = 255 * np.random.rand(2, 3, 48, 48)
    one = Session(str(exported[0]))(images)
    other = Session(str(exported[0]), 'openvino')(images)
    for name in ('scores', 'logits'):
        np.testing.assert_allclose(one[name], other[name], atol=1e-4)


@pytest.mark.parametrize(
    ('suffix', 'options'),
    [
        ('.onnx', Options(FIXED, opset=23, int8='static')),
        ('.onnx', Options(FIXED, attention='ort')),
        *(
            pytest.param(suffix, options, marks=pytest.mark.slow)
            for suffix, options in (
                ('.onnx', Options(FIXED, opset=18, int8='dynamic')),
                ('.onnx', Options(Sizes(1, 48, 48), backbone=True)),
                ('.pt2', Options(FIXED)),
            )
        ),
    ],
)
def test_other_forms(model, cfg, photo, tmp_path, suffix, options):
    if options.attention == 'ort' and custom_ops_library() is None:
        pytest.skip('not compiled')
    if options.int8:
        options = options._replace(calibration=[str(photo)] * 4)
    path = tmp_path / f'model{suffix}'
    report = export(cfg, str(model[1]), path, options)
    assert not any(row.problem for row in report.rows)
    kinds = {kind for row in report.rows for kind in row.differences}
    assert kinds == ({'maps'} if options.backbone else {'logits', 'scores'})
    assert path.is_file()
    if options.int8:
        # A class for each image.
        assert report.loss.describe().endswith('of 4 images found again')
        outputs = Session(str(path))(np.zeros((1, 3, 48, 48)))
        assert outputs['scores'].sum() == pytest.approx(1, abs=1e-5)


def test_a_wrong_file_is_refused(model, cfg, tmp_path, monkeypatch):
    right = graphs.ClassifierGraph.__init__

    def confuse_colors(self, network):
        right(self, network)
        self.prepare.swap = not self.prepare.swap

    monkeypatch.setattr(graphs.ClassifierGraph, '__init__', confuse_colors)
    options = Options(FIXED)
    with pytest.raises(VerificationError, match='FAILED: scores differ'):
        export(cfg, str(model[1]), tmp_path / 'model.onnx', options)
    assert not list(tmp_path.iterdir())


def test_another_class_is_wrong_however_near():
    one = dict(scores=np.array([0.5, 0.5 - 1e-7, 1e-7]), logits=np.zeros(3))
    other = dict(one, scores=one['scores'][[1, 0, 2]])
    assert verify.compare(one, one)[1] == ''
    assert verify.compare(one, other)[1] == 'class 1, not 0'


@pytest.mark.parametrize(
    'settings',
    [
        dict(to_rgb=True),
        dict(to_rgb=False),
        dict(mean=None, std=None),
        dict(pad_size_divisor=32, pad_value=7),
    ],
)
def test_images_are_prepared_as_by_the_model(cfg, settings):
    cfg.model.data_preprocessor.update(mean=[1, 20, 90], std=[9, 50, 70])
    cfg.model.data_preprocessor.update(settings)
    network = build_model(cfg)
    graph = graph_of(network, cfg)
    images = torch.randint(0, 256, (2, 3, 50, 64), dtype=torch.uint8)
    data = network.data_preprocessor(dict(inputs=list(images)))
    prepared = graph.prepare(images.float())
    assert torch.equal(prepared, data['inputs'])


def test_heads_of_another_kind_are_refused(cfg):
    cfg.model.head.type = 'MultiLabelLinearClsHead'
    message = 'ImageClassifier with MultiLabelLinearClsHead cannot be exported'
    with pytest.raises(ConfigError, match=message):
        graph_of(build_model(cfg), cfg)


@pytest.mark.parametrize('head', ['StackedLinearClsHead', 'ArcFaceClsHead'])
def test_other_heads_of_one_class(cfg, head):
    cfg.model.head.type = head
    if head == 'StackedLinearClsHead':
        cfg.model.head.mid_channels = [16]
    network = build_model(cfg)
    scores, _ = graph_of(network, cfg)(torch.zeros(1, 3, 48, 48))
    black = np.zeros((1, 3, 48, 48), np.uint8)
    (expected,) = verify.predict(network, black, 'image classification')
    np.testing.assert_allclose(
        scores[0].detach(), expected['scores'], atol=1e-6
    )


def test_sizes_that_the_pipeline_cannot_make(model, cfg, tmp_path):
    options = Options(Sizes(None, 64, 64))
    with pytest.raises(ConfigError, match='resizes these to 48x48'):
        export(cfg, str(model[1]), tmp_path / 'model.onnx', options)


def test_a_file_without_mmpretrain(exported, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, 'find_spec',
        lambda name, *args: None if name == 'mmpretrain' else find(name),
    )  # fmt: skip
    with pytest.raises(ConfigError, match='by mmpretrain, which is not inst'):
        config_of(str(exported[0]))


RECIPES = (
    'biformer_tiny', 'biformer_small', 'biformer_base', 'biformer_stl',
    'biformer_small_linear', 'biformer_small_photos',
)  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize('recipe', RECIPES)
def test_recipes(recipe, tmp_path):
    config = ROOT / f'configs/classification/{recipe}.py'
    classes = [f'class {i}' for i in range(1000)]
    weights = save_model(config, tmp_path / 'weights.pth', classes)
    path = tmp_path / 'model.onnx'
    options = Options(Sizes(1, 224, 224))
    report = export(read_config(str(config)), str(weights), path, options)
    assert not any(row.problem for row in report.rows)
    print(format_table(report.rows))
