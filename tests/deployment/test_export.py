"""What tools/deployment/export.py writes, and what it refuses."""

import json
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest
import torch
from exported import BODIES, random_model, save_model, write_config

from mmbiformer.deployment import detectors, rewrites, verify
from mmbiformer.deployment import export as exporting
from mmbiformer.deployment.export import Options, export, write_verified
from mmbiformer.deployment.runtime import custom_ops_library
from mmbiformer.deployment.table import (
    Row,
    VerificationError,
    format_table,
    unproven,
)
from mmbiformer.deployment.tracing import Sizes, write_onnx
from mmbiformer.utils.config import read_config
from mmbiformer.utils.errors import CheckpointError, ConfigError

onnxruntime = pytest.importorskip('onnxruntime')
pytest.importorskip('onnxscript')
DIGITS = tuple('0123456789')


@pytest.fixture(scope='module')
def make(tmp_path_factory):
    """Return config and checkpoint of a small model, and a new path."""

    def make(recipe, **settings):
        folder = tmp_path_factory.mktemp(recipe)
        config = write_config(recipe, folder / 'config.py', **settings)
        segments = recipe in ('sfpn', 'upernet')
        classes = ('background', *DIGITS) if segments else DIGITS
        weights = save_model(config, folder / 'weights.pth', classes)
        return read_config(str(config)), str(weights), folder / 'model.onnx'

    return make


def check(rows, number):
    """Check that all is equal, at sizes and batches of which some differ."""
    assert not any(row.problem for row in rows)
    shapes = {row.shape for row in rows}
    assert len(shapes) == number
    assert rows[-1].images == 'grey'


@pytest.mark.slow
@pytest.mark.parametrize('recipe', list(BODIES))
def test_recipes_at_any_size(make, recipe):
    cfg, weights, path = make(recipe)
    report = export(cfg, weights, path, Options())
    check(report.rows, 3)
    assert {row.shape[0] for row in report.rows} == {1, 2}
    # Not one of the sizes that it was traced or verified with.
    session = onnxruntime.InferenceSession(str(path))
    images = 255 * np.random.rand(3, 3, 47, 221).astype(np.float32)
    for output in session.run(None, {'images': images}):
        assert len(output) == 3
    standard = {node.domain for node in load(path).graph.node}
    assert standard == {''}


def load(path):
    """Load an ONNX file."""
    import onnx

    return onnx.load(str(path))


@pytest.mark.slow
def test_no_detections_are_empty_outputs(make):
    cfg, weights, path = make('maskrcnn', score_thr=1)
    report = export(cfg, weights, path, Options())
    assert {row.found for row in report.rows} <= {'0', '0+0'}
    session = onnxruntime.InferenceSession(str(path))
    images = np.zeros((2, 3, 64, 96), np.float32)
    boxes, scores, labels, masks = session.run(None, {'images': images})
    assert labels.tolist() == [[-1], [-1]]
    assert boxes.shape == (2, 1, 4) and masks.shape == (2, 1, 28, 28)
    assert not scores.any()


@pytest.mark.slow
def test_fixed_size(make):
    cfg, weights, path = make('sfpn')
    sizes = Sizes(batch=1, height=120, width=160)
    check(export(cfg, weights, path, Options(sizes)).rows, 1)
    model = load(path)
    shape = model.graph.input[0].type.tensor_type.shape.dim
    assert [one.dim_value for one in shape] == [1, 3, 120, 160]


@pytest.mark.slow
def test_backbone(make):
    cfg, weights, path = make('retinanet')
    check(export(cfg, weights, path, Options(backbone=True)).rows, 3)
    outputs = [one.name for one in load(path).graph.output]
    assert outputs == ['map0', 'map1', 'map2']


@pytest.mark.skipif(custom_ops_library() is None, reason='not compiled')
def test_our_operators_compute_whole_blocks(make):
    # Wide enough for vectors of 16 in each of the last stage's eight heads.
    cfg, weights, path = make('sfpn', last_dim=128)
    options = Options(Sizes(1, 120, 160), attention='ort')
    check(export(cfg, weights, path, options).rows, 1)
    nodes = [x for x in load(path).graph.node if x.domain == 'mmbiformer']
    assert Counter(node.op_type for node in nodes) == dict(
        Depthwise=8, NormQkv=3, RoutedAttention=4, AddLinear=4, Mlp=4
    )


@pytest.mark.parametrize(
    ('attention', 'operators'),
    [
        ('portable', {}),
        (
            'ort',
            dict(
                Depthwise=4, NormQkv=3, RoutedAttention=4, AddLinear=4, Mlp=4
            ),
        ),
    ],
)
def test_blocks_of_the_layout_of_swin(make, attention, operators):
    if operators and custom_ops_library() is None:
        pytest.skip('not compiled')
    cfg, _, path = make('sfpn', last_dim=128)
    cfg.model.backbone.arch.layout = 'stl'
    options = Options(Sizes(1, 64, 64), attention=attention, backbone=True)
    names = dict(classes=DIGITS, palette=[[0, 0, 0]] * 10)
    rows, _ = write_verified(
        cfg, random_model(cfg), names, None, path, options
    )
    check(rows, 1)
    nodes = [x for x in load(path).graph.node if x.domain == 'mmbiformer']
    assert Counter(node.op_type for node in nodes) == operators


@pytest.mark.slow
def test_pt2(make):
    cfg, weights, path = make('retinanet')
    path = path.with_suffix('.pt2')
    check(export(cfg, weights, path, Options()).rows, 3)
    extra = {'mmbiformer.json': ''}
    torch.export.load(path, extra_files=extra)
    assert json.loads(extra['mmbiformer.json'])['task'] == 'object detection'


@pytest.mark.slow
@pytest.mark.parametrize(
    'name', ['_upsample', '_pool_adaptively', '_pad', '_means']
)
def test_a_wrong_file_is_refused(make, monkeypatch, name):
    """Each wrong in one way that gives a file without any error."""
    recipe = 'sfpn' if name in ('_upsample', '_pad') else 'upernet'
    cfg, weights, path = make(recipe)
    right = getattr(rewrites, name)
    wrong = {
        # As mmseg writes it: a constant of the example's size.
        '_upsample': lambda self, x: torch.nn.functional.interpolate(
            x, size=[int(side) * 2 for side in x.shape[-2:]], mode='bilinear'
        ),
        '_pad': lambda x, n_win: right(x, n_win).roll(1, 1),
        '_pool_adaptively': lambda self, x: right(self, x) * 1.001,
        '_means': lambda out, side, like: right(out, side, like).flip(0),
    }[name]
    monkeypatch.setattr(rewrites, name, wrong)
    with pytest.raises((VerificationError, ConfigError)) as error:
        export(cfg, weights, path, Options())
    if isinstance(error.value, VerificationError):
        assert 'FAILED' in str(error.value)
    assert not list(path.parent.glob('*model*'))


def test_eager_models_stay_as_they_are(make):
    from mmbiformer.models.biformer import BiFormer

    before = BiFormer._check_images
    with pytest.raises(ZeroDivisionError), rewrites.exportable():
        assert BiFormer._check_images is not before
        raise ZeroDivisionError
    assert BiFormer._check_images is before
    code = (
        'import sys, mmbiformer; print("mmbiformer.deployment" in sys.modules)'
    )
    done = subprocess.run(
        [sys.executable, '-c', code], capture_output=True, text=True
    )
    assert done.stdout.strip() == 'False', done.stderr


def test_weights_that_are_missing(make, tmp_path):
    cfg, weights, path = make('retinanet')
    state = torch.load(weights, weights_only=True)
    del state['state_dict']['bbox_head.retina_cls.weight']
    torch.save(state, tmp_path / 'some.pth')
    with pytest.raises(CheckpointError, match='retina_cls.weight'):
        export(cfg, str(tmp_path / 'some.pth'), path, Options())
    assert not path.exists()


@pytest.mark.parametrize(
    ('sizes', 'message'),
    [
        (Sizes(1, 300, 200), 'resizes these to 160x107'),
        (Sizes(1, 20, 160), '--shape must be at least'),
    ],
)
def test_sizes_that_the_pipeline_cannot_make(make, sizes, message):
    cfg, weights, path = make('retinanet')
    with pytest.raises(ConfigError, match=message):
        export(cfg, weights, path, Options(sizes))


def test_head_that_cannot_be_exported(make):
    cfg, weights, path = make('retinanet')
    cfg.model.test_cfg.nms = dict(type='soft_nms', iou_threshold=0.5)
    with pytest.raises(ConfigError, match='soft_nms'):
        export(cfg, weights, path, Options())


def test_missing_packages_are_named(make, monkeypatch):
    cfg, weights, path = make('retinanet')
    monkeypatch.setitem(sys.modules, 'onnxscript', None)
    with pytest.raises(ConfigError, match=r'mmbiformer\[deploy\]'):
        export(cfg, weights, path, Options())


def test_unstable_images_are_told_from_wrong_files(monkeypatch):
    class Model(torch.nn.Module):
        """Predicts a number, which flips where rounding decides."""

        def predict(self, images, kind):
            flips = images.mean() > 50 and images.dtype == np.float32
            return [dict(logits=np.full((1, 2, 2), float(flips), 'f4'))]

    model = Model()
    monkeypatch.setattr(verify, 'predict', Model.predict)
    calm, close = (np.full((1, 3, 2, 2), x, np.uint8) for x in (10, 60))
    assert verify.is_stable(model, 'backbone', calm)
    assert not verify.is_stable(model, 'backbone', close)
    wrong = lambda images: dict(logits=np.ones((1, 1, 2, 2)))  # noqa: E731
    batches = [('drawn', calm), ('a.png', calm), ('a.png', close)]
    batches += [('drawn', close)]
    rows = verify.verify(wrong, model, 'semantic segmentation', batches)
    assert [row.failed for row in rows] == [True, True, False, True]
    assert [row.unstable for row in rows] == [False, False, True, True]
    assert 'unstable: logits differ' in format_table(rows)


@pytest.mark.parametrize(
    ('scores', 'stable'), [([1, 1], False), ([1, 0.9], True)]
)
def test_equal_scores_are_in_no_order(monkeypatch, scores, stable):
    found = dict(
        boxes=np.float32([[0, 0, 4, 4], [2, 2, 8, 8]]),
        scores=np.float32(scores),
        labels=np.array([0, 1]),
    )
    monkeypatch.setattr(verify, 'predict', lambda *_: [found])
    images = np.zeros((1, 3, 8, 8), np.uint8)
    model = torch.nn.Identity()
    assert verify.is_stable(model, 'object detection', images) == stable


def test_a_file_that_does_not_run_is_refused(monkeypatch):
    def run(images):
        raise RuntimeError('index out of bounds\nin a node')

    found = dict(logits=np.zeros((1, 8, 8), 'f4'))
    monkeypatch.setattr(verify, 'predict', lambda *_: [found])
    batches = [('drawn', np.zeros((1, 3, 8, 8), np.uint8))]
    (row,) = verify.verify(run, None, 'semantic segmentation', batches)
    assert row.failed
    assert row.problem == 'the file fails: RuntimeError: index out of bounds'


def test_a_size_that_the_model_does_not_take_is_named():
    class Model(torch.nn.Module):
        def test_step(self, data):
            raise RuntimeError('sizes must match')

    images = np.zeros((1, 3, 131, 203), np.uint8)
    with pytest.raises(ConfigError, match='131x203 .*sizes must match.*--sh'):
        verify.predict(Model(), images, 'object detection')


def row_of(images, unstable):
    """Return a line of the table, equal or unstable."""
    problem = 'boxes differ by 1.0e-02' if unstable else ''
    return Row(images, (1, 3, 8, 8), {}, '', problem, unstable)


def test_images_that_prove_nothing_are_named():
    rows = [row_of('drawn', False), row_of('a.png', False)]
    assert unproven(rows) == ''
    rows += [row_of('b.png', True), row_of('c.png', True)]
    line = unproven(rows)
    assert line.startswith('2 of 3 images of --verify prove nothing')
    assert line.endswith(': b.png, c.png')


def test_no_file_if_no_image_of_the_user_proves_it(make, monkeypatch):
    cfg, weights, path = make('retinanet')
    rows = [row_of('drawn', False), row_of('a.png', True)]
    monkeypatch.setattr(exporting, 'verify', lambda *args: rows)
    options = Options(Sizes(1, 160, 160), backbone=True)
    with pytest.raises(VerificationError, match='1 of 1 images.*: a.png'):
        export(cfg, weights, path, options)
    assert not list(path.parent.glob('*model*'))
    monkeypatch.setattr(exporting, 'verify', lambda *args: rows[:1])
    export(cfg, weights, path, options)
    assert path.exists()


def test_scores_are_ranked_as_by_torch(tmp_path):
    """Of trained detectors, logits are far from 0; onnxruntime's own sigmoid
    is 0 there."""

    class Scores(torch.nn.Module):
        def forward(self, logits):
            return detectors._sigmoid(logits)

    logits = torch.linspace(-60, 15, 500)
    path = tmp_path / 'scores.onnx'
    program = torch.export.export(Scores(), (logits,))
    write_onnx(program, ('scores',), {}, path)
    session = onnxruntime.InferenceSession(str(path))
    (scores,) = session.run(None, {'images': logits.numpy()})
    np.testing.assert_allclose(scores, logits.sigmoid().numpy(), rtol=1e-6)


def test_detections_are_compared_one_to_one():
    boxes = np.array([[0, 0, 9, 9], [5, 5, 20, 20], [1, 1, 4, 4]], np.float32)
    one = dict(
        boxes=boxes,
        scores=np.array([0.9, 0.5, 0.5], np.float32),
        labels=np.array([1, 2, 2]),
    )
    swapped = {key: value[[0, 2, 1]] for key, value in one.items()}
    assert verify.compare(one, swapped)[1] == ''
    fewer = {key: value[:2] for key, value in one.items()}
    assert 'detections' in verify.compare(one, fewer)[1]
    other = dict(one, labels=np.array([1, 2, 3]))
    assert 'labels' in verify.compare(one, other)[1]
    moved = dict(one, boxes=boxes + 0.002)
    assert 'boxes differ' in verify.compare(one, moved)[1]
