"""The routing in exported files."""

import json

import numpy as np
import pytest
import torch
from exported import save_model, write_config

from mmbiformer.deployment.export import Options, export, load_model
from mmbiformer.deployment.routing import RoutingGraph
from mmbiformer.deployment.runtime import Session
from mmbiformer.deployment.table import VerificationError
from mmbiformer.utils.config import read_config
from mmbiformer.utils.errors import ConfigError
from mmbiformer.visualization import record_routing

onnxruntime = pytest.importorskip('onnxruntime')
pytest.importorskip('onnxscript')


@pytest.fixture(scope='module')
def model(tmp_path_factory):
    """Config and checkpoint of a small segmentor with 3 x 3 regions."""
    folder = tmp_path_factory.mktemp('sfpn')
    config = write_config('sfpn', folder / 'config.py')
    classes = ('background', *'0123456789')
    weights = save_model(config, folder / 'weights.pth', classes)
    return read_config(str(config)), str(weights)


@pytest.mark.slow
def test_files_can_have_the_routing(model, tmp_path):
    path = tmp_path / 'model.onnx'
    report = export(*model, path, Options(routing=True))
    routed = [row for row in report.rows if 'affinities' in row.differences]
    assert not any(row.problem for row in report.rows)
    # Each batch of images is compared once more.
    assert 2 * len(routed) == len(report.rows)
    session = onnxruntime.InferenceSession(str(path))
    about = json.loads(
        session.get_modelmeta().custom_metadata_map['mmbiformer']
    )
    assert about['outputs'] == ['logits']
    assert about['routing'] == [
        dict(stage=stage, block=1, n_win=3, topk=topk, stride=stride)
        for stage, topk, stride in ((1, 1, 4), (2, 2, 8), (3, 4, 16))
    ]
    # What the pictures of the routing show; another size than verified with.
    images = np.random.default_rng(0).integers(0, 256, (2, 3, 96, 230))
    names = [output.name for output in session.get_outputs()]
    outputs = dict(
        zip(
            names,
            session.run(None, {'images': images.astype(np.float32)}),
            strict=True,
        )
    )
    network, _ = load_model(*model)
    inputs = [torch.from_numpy(image.astype(np.uint8)) for image in images]
    with torch.no_grad(), record_routing(network) as records:
        data = network.data_preprocessor(dict(inputs=inputs), False)
        network.backbone(data['inputs'])
    assert len(names) == 1 + 2 * len(records)
    for (stage, block), record in records.items():
        affinity = outputs[f'affinity_{stage}_{block}']
        np.testing.assert_allclose(affinity, record.affinity, atol=1e-5)
        routing = outputs[f'routing_{stage}_{block}']
        np.testing.assert_array_equal(routing, record.routing)
    # The tools see the outputs of the task alone.
    assert list(Session(str(path))(images)) == ['logits']


@pytest.mark.slow
def test_a_wrong_routing_is_refused(model, tmp_path, monkeypatch):
    right = RoutingGraph.forward

    def wrong(self, images):
        logits, routing, *rest = right(self, images)
        return logits, (routing + 1) % 9, *rest

    monkeypatch.setattr(RoutingGraph, 'forward', wrong)
    with pytest.raises(VerificationError, match='affinities differ'):
        export(*model, tmp_path / 'model.onnx', Options(routing=True))
    assert not list(tmp_path.iterdir())


def test_what_has_no_routing(model, tmp_path):
    with pytest.raises(ConfigError, match='--routing are for .onnx files'):
        export(*model, tmp_path / 'model.pt2', Options(routing=True))
    options = Options(routing=True, attention='ort')
    with pytest.raises(ConfigError, match='needs --attention portable'):
        export(*model, tmp_path / 'model.onnx', options)
