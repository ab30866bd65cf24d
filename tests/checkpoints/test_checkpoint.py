import contextlib
import io
import os
import pickle
import sys
import tarfile
import types
import zipfile

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.evaluator import BaseMetric
from mmengine.logging import HistoryBuffer, MessageHub
from mmengine.model import BaseModel
from mmengine.runner import Runner
from mmengine.runner import checkpoint as mmengine_checkpoint
from mmengine.runner.checkpoint import (
    CheckpointLoader,
    _load_checkpoint_with_prefix,
    load_checkpoint,
)

from mmbiformer.checkpoints import checkpoint as safe
from mmbiformer.checkpoints.checkpoint import MMENGINE_TYPES, save_atomically


class Payload:
    """What an attacker would put into a checkpoint."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def load(path):
    return CheckpointLoader.load_checkpoint(str(path))


class Model(BaseModel):
    """The least that a Runner trains."""

    def __init__(self, init_cfg=None):
        super().__init__(init_cfg=init_cfg)
        self.layer = torch.nn.Linear(1, 1)

    def forward(self, inputs, mode='tensor'):
        loss = self.layer(inputs).mean()
        return dict(loss=loss) if mode == 'loss' else [loss]


class Metric(BaseMetric):
    """A score in the type of mmseg's mIoU."""

    def process(self, data_batch, data_samples):
        self.results.append(1)

    def compute_metrics(self, results):
        return dict(mIoU=np.float32(0.5))


def make_runner(work_dir, **settings):
    data = torch.utils.data.TensorDataset(torch.ones(4, 1))
    loader = dict(
        dataset=data,
        batch_size=2,
        sampler=dict(type='DefaultSampler', shuffle=False),
        collate_fn=lambda batch: dict(
            inputs=torch.stack([b[0] for b in batch])
        ),
    )
    return Runner(
        model=settings.pop('model', None) or Model(),
        work_dir=str(work_dir),
        train_dataloader=loader,
        val_dataloader=loader,
        train_cfg=dict(by_epoch=True, max_epochs=1),
        val_cfg=dict(),
        val_evaluator=dict(type=Metric),
        optim_wrapper=dict(optimizer=dict(type='AdamW', lr=0.1)),
        param_scheduler=dict(type='CosineAnnealingLR', T_max=2),
        default_hooks=dict(
            checkpoint=dict(
                type='CheckpointHook', interval=1, save_best='mIoU'
            )
        ),
        custom_hooks=[dict(type='EMAHook')],
        experiment_name=f'test_{work_dir.name}',
        **settings,
    )


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    """What a Runner leaves, with all that its own hooks add."""
    work_dir = tmp_path_factory.mktemp('trained')
    make_runner(work_dir).train()
    return work_dir


@pytest.fixture(scope='module')
def mmengine_checkpoints(trained, tmp_path_factory):
    """What a Runner leaves, as either numpy writes it."""
    path = trained / 'epoch_1.pth'
    other = tmp_path_factory.mktemp('numpy') / 'other.pth'
    names = b'numpy._core.multiarray', b'numpy.core.multiarray'
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(other, 'w') as new:
        for record in old.infolist():
            content = old.read(record)
            if record.filename.endswith('data.pkl'):
                ours, theirs = names if names[0] in content else names[::-1]
                content = content.replace(ours, theirs)
            new.writestr(record, content)
    return path, other


def test_what_mmengine_saves_loads(mmengine_checkpoints):
    for path in mmengine_checkpoints:
        hub = MessageHub('loaded')
        hub.load_state_dict(load(path)['message_hub'])
        assert hub.get_scalar('train/loss').data[0].shape == (2,)
        assert hub.get_info('best_score') == np.float32(0.5)


@pytest.mark.parametrize('index', range(len(MMENGINE_TYPES)))
def test_each_allowed_type_is_needed(mmengine_checkpoints, index, monkeypatch):
    kept = MMENGINE_TYPES[:index] + MMENGINE_TYPES[index + 1 :]
    before = torch.serialization.get_safe_globals()
    others = [kind for kind in before if kind not in MMENGINE_TYPES]
    monkeypatch.setattr(safe, 'MMENGINE_TYPES', kept)
    refused = 0
    try:
        for path in mmengine_checkpoints:
            torch.serialization.clear_safe_globals()
            torch.serialization.add_safe_globals(others)
            try:
                load(path)
            except RuntimeError as error:
                refused += 'was not loaded' in str(error)
    finally:
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals(before)
    assert refused


class Call:
    """Calls a function when it is loaded."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize(
    ('call', 'refusal'),
    [
        (Call(getattr, HistoryBuffer, '__init__'), 'getattr of'),
        (Call(getattr, np.ndarray, 'tofile'), 'getattr of'),
        (Call(np.ones(1).__reduce__()[0], np.ndarray, (10**9,), b'b'),
         'of shape'),
    ],
)  # fmt: skip
def test_functions_do_only_what_mmengine_needs(tmp_path, call, refusal):
    torch.save(dict(state_dict=call), tmp_path / 'a.pth')
    with pytest.raises(RuntimeError, match=refusal):
        load(tmp_path / 'a.pth')


class TestPayload:
    """It does not run, wherever the file comes from and whoever loads it."""

    @pytest.fixture(autouse=True)
    def trap(self, tmp_path):
        path = tmp_path / 'trap'
        yield path
        assert not path.exists()

    @pytest.fixture
    def evil(self, tmp_path, trap):
        path = tmp_path / 'evil.pth'
        torch.save(dict(state_dict=dict(weight=Payload(trap))), path)
        return path

    @pytest.fixture
    def refused(self):
        return pytest.raises(RuntimeError, match='could run code')

    def test_the_message(self, evil, refused):
        with refused as error:
            load(evil)
        assert 'posix.mkdir' in str(error.value)
        assert str(evil) in str(error.value)
        assert 'weights_only' not in str(error.value)

    @pytest.mark.parametrize('content', ['legacy', 'legacy pickle 4'])
    def test_old_files(self, tmp_path, trap, content, refused):
        protocol = int(content[-1]) if content[-1].isdigit() else 2
        torch.save(
            dict(weight=Payload(trap)),
            tmp_path / 'a.pth',
            pickle_protocol=protocol,
            _use_new_zipfile_serialization=False,
        )
        with pytest.raises(RuntimeError, match='a.pth'):
            load(tmp_path / 'a.pth')

    def test_old_files_without_it_load(self, tmp_path):
        path = tmp_path / 'a.pth'
        weights = dict(weight=torch.rand(3))
        torch.save(weights, path, _use_new_zipfile_serialization=False)
        assert torch.equal(load(path)['weight'], weights['weight'])

    def test_plain_pickles_are_not_opened(self, tmp_path, trap):
        (tmp_path / 'a.pth').write_bytes(pickle.dumps(Payload(trap)))
        with pytest.raises(RuntimeError, match='pickles can run code'):
            load(tmp_path / 'a.pth')

    def test_torchscript(self, tmp_path):
        path = tmp_path / 'a.pth'
        torch.jit.save(torch.jit.script(torch.nn.Linear(1, 1)), path)
        with pytest.raises(RuntimeError, match='TorchScript archive'):
            load(path)

    def test_whatever_the_environment_says(self, evil, monkeypatch, refused):
        monkeypatch.setenv('TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD', '1')
        with refused:
            load(evil)
        assert os.environ['TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD'] == '1'
        assert 'TORCH_FORCE_WEIGHTS_ONLY_LOAD' not in os.environ

    @pytest.mark.parametrize(
        'name',
        [
            'http://zoo/evil.pth',
            'https://zoo/evil.pth',
            'torchvision://evil',
            'modelzoo://evil',
            'open-mmlab://evil',
            'openmmlab://evil',
            'open-mmlab://local',
            'mmcls://evil',
            's3://bucket/evil.pth',
            'cluster:s3://bucket/evil.pth',
            'petrel://bucket/evil.pth',
            'pavi://evil',
            'another-package://evil',
        ],
    )
    def test_every_scheme(
        self, evil, trap, tmp_path, monkeypatch, refused, name
    ):
        # Where each scheme would look: the web, tables of URLs, stores.
        url = 'http://zoo/evil.pth'
        table = dict(evil=url, local=str(evil))
        for function in (
            'get_torchvision_models', 'get_external_models', 'get_mmcls_models'
        ):  # fmt: skip
            monkeypatch.setattr(mmengine_checkpoint, function, lambda: table)
        monkeypatch.setattr(torch.hub, 'get_dir', lambda: str(tmp_path))
        monkeypatch.setattr(
            safe,
            'download',
            lambda _, path: [
                path.parent.mkdir(parents=True),
                path.write_bytes(evil.read_bytes()),
            ],
        )
        store = types.SimpleNamespace(get=lambda _: evil.read_bytes())
        monkeypatch.setattr(
            mmengine_checkpoint, 'get_file_backend', lambda *_, **__: store
        )
        cloud = types.ModuleType('pavi')
        cloud.modelcloud = types.SimpleNamespace(
            get=lambda _: types.SimpleNamespace(
                name='evil.pth', download=lambda path: os.link(evil, path)
            )
        )
        monkeypatch.setitem(sys.modules, 'pavi', cloud)
        monkeypatch.setattr(
            CheckpointLoader, '_schemes', dict(CheckpointLoader._schemes)
        )

        @CheckpointLoader.register_scheme('another-package://')
        def load_from_another(filename, map_location):
            return torch.load(evil, weights_only=False)

        with refused:
            load(name)

    def test_the_fork_does_not_fall_back(self, evil, refused):
        # onedl-mmengine's loaders of stores end in this function, which loads
        # unsafely where the safe load fails.
        with pytest.raises(pickle.UnpicklingError):
            mmengine_checkpoint._safe_torch_load(evil)

    def test_functions_of_mmengine(self, evil, tmp_path):
        calls = [
            lambda: load_checkpoint(Model(), str(evil)),
            lambda: _load_checkpoint_with_prefix('layer', str(evil)),
            lambda: Model(
                init_cfg=dict(type='Pretrained', checkpoint=str(evil))
            ).init_weights(),
            lambda: make_runner(tmp_path, load_from=str(evil)).train(),
            lambda: make_runner(
                tmp_path, load_from=str(evil), resume=True
            ).train(),
        ]
        for call in calls:
            with pytest.raises(RuntimeError, match='could run code'):
                call()

    @pytest.mark.parametrize('package', ['mmdet', 'mmseg'])
    def test_inferencers(self, evil, trap, tmp_path, package, refused):
        if package == 'mmdet':
            from mmdet.apis import DetInferencer as Inferencer
        else:
            from mmseg.apis import MMSegInferencer as Inferencer
        model = dict(model=dict(type=Model))
        with refused:
            Inferencer(Config(model), str(evil), device='cpu')
        # Without a config, they would run the one in the checkpoint.
        text = f"import os\nos.mkdir('{trap}')\nmodel = dict()\n"
        path = tmp_path / 'text.pth'
        checkpoint = dict(
            state_dict=Model().state_dict(),
            meta=dict(cfg=text),
            message_hub=dict(runtime_info=dict(cfg=text)),
        )
        torch.save(checkpoint, path)
        with pytest.raises(ValueError, match='configs are code'):
            Inferencer(None, str(path), device='cpu')

    def test_resuming(self, trained, trap, tmp_path):
        checkpoint = torch.load(trained / 'epoch_1.pth', weights_only=True)
        victim = tmp_path / 'victim'
        victim.mkdir()
        checkpoint['meta']['config'] = f"import os\nos.mkdir('{trap}')\n"
        info = checkpoint['message_hub']['runtime_info']
        info.update(best_ckpt=str(victim), best_score=np.float32(0))
        torch.save(checkpoint, tmp_path / 'a.pth')
        runner = make_runner(
            tmp_path / 'work', load_from=str(tmp_path / 'a.pth'), resume=True
        )
        runner.train_loop._max_epochs = 2
        runner.train()
        assert runner.epoch == 2
        # A better score came, and with it the deletion of the best before.
        assert (tmp_path / 'work/best_mIoU_epoch_2.pth').is_file()
        assert victim.is_dir()


def test_resuming_keeps_the_best_checkpoint(trained):
    info = load(trained / 'epoch_1.pth')['message_hub']['runtime_info']
    assert info['best_ckpt'] == str(trained / 'best_mIoU_epoch_1.pth')


def zip_of(path, compression=zipfile.ZIP_STORED, **records):
    with zipfile.ZipFile(path, 'w', compression) as archive:
        for name, content in records.items():
            archive.writestr(name, content)


class TestFileKinds:
    """Each names the file and tells what it is."""

    @pytest.mark.parametrize(
        ('content', 'kind'),
        [
            (b'', 'but empty'),
            (bytes(5000), 'nothing but zeros'),
            (b'\n<!DOCTYPE html>\n<html>404</html>', r'web page \(HTML\)'),
            (b'\xef\xbb\xbf<html>404 Not Found</html>', r'web page \(HTML\)'),
            (b'<?xml version="1.0"?><Error/>', 'storage server'),
            (b'version https://git-lfs.github.com/spec/v1\noid sha256:0',
             'Git LFS.*git lfs pull'),
            (b'{"message": "Not Found"}', "text that begins with '{\"mess"),
            ('größer'.encode() * 200, "text that begins with 'größer"),
            (b'\x1f\x8b\x08', 'gzip'),
            (b'\x93NUMPY\x01', 'NumPy'),
            (b'\x89HDF\r\n', 'HDF5'),
            (b'\x00\x01\xfe\xff' * 9, 'begins with the bytes'),
        ],
    )  # fmt: skip
    def test_by_its_beginning(self, tmp_path, content, kind):
        path = tmp_path / 'a.pth'
        path.write_bytes(content)
        with pytest.raises(RuntimeError, match=rf'a\.pth.*{kind}'):
            load(path)

    @pytest.mark.parametrize(
        ('names', 'kind'),
        [
            (['[Content_Types].xml', 'word/document.xml'], 'office document'),
            (['a.npy', 'b.npy'], r'\.npz'),
            (['resnet.pth'], r'zip archive that holds resnet\.pth; unpack'),
            ([], 'holds nothing'),
        ],
    )
    def test_other_zips(self, tmp_path, names, kind):
        zip_of(tmp_path / 'a.pth', **dict.fromkeys(names, b'0'))
        with pytest.raises(RuntimeError, match=rf'a\.pth.*{kind}'):
            load(tmp_path / 'a.pth')

    def test_tar(self, tmp_path):
        with tarfile.open(tmp_path / 'a.pth', 'w') as archive:
            archive.addfile(tarfile.TarInfo('storages'), io.BytesIO())
        with pytest.raises(RuntimeError, match='tar archive'):
            load(tmp_path / 'a.pth')

    def test_folder(self, tmp_path):
        with pytest.raises(FileNotFoundError, match='is a folder'):
            load(tmp_path)
        with pytest.raises(FileNotFoundError, match=r'nowhere.*not a file'):
            load(tmp_path / 'nowhere')

    def test_truncated(self, tmp_path):
        path = tmp_path / 'a.pth'
        torch.save(dict(weight=torch.rand(1000)), path)
        whole = path.read_bytes()
        for size in (3, 100, len(whole) // 2, len(whole) - 10):
            path.write_bytes(whole[:size])
            with pytest.raises(RuntimeError, match=r'a\.pth.*truncated'):
                load(path)

    def test_damaged(self, tmp_path):
        path = tmp_path / 'a.pth'
        torch.save(dict(weight=torch.rand(1000)), path)
        whole = path.read_bytes()
        rng = np.random.default_rng(0)
        for place in rng.integers(len(whole), size=200):
            path.write_bytes(
                whole[:place]
                + bytes([whole[place] ^ 255])
                + whole[place + 1 :]
            )
            # A bit of a weight, too, is covered by the archive's checksum.
            with contextlib.suppress(RuntimeError):
                load(path)

    def test_no_more_memory_than_the_file_has_bytes(self, tmp_path):
        path = tmp_path / 'bomb.pth'
        torch.save(dict(weight=torch.zeros(1)), path)
        with zipfile.ZipFile(path) as archive:
            records = {r.filename: archive.read(r) for r in archive.infolist()}
        records[next(r for r in records if r.endswith('data/0'))] = bytes(
            2**24
        )
        zip_of(path, zipfile.ZIP_DEFLATED, **records)
        with pytest.raises(RuntimeError, match='torch.save compresses nothi'):
            load(path)
        zip_of(path, **records)
        # The size in the directory, 2**24, becomes 2**31.
        whole = path.read_bytes().replace(
            (2**24).to_bytes(4, 'little'), (2**31).to_bytes(4, 'little')
        )
        path.write_bytes(whole)
        with pytest.raises(RuntimeError, match=r'claims to hold 21474\d{5}'):
            load(path)


def test_saving_overwrites_only_when_told(tmp_path):
    path = tmp_path / 'a.pth'
    save_atomically(dict(x=1), path)
    with pytest.raises(FileExistsError, match=r'a\.pth.*--force'):
        save_atomically(dict(x=2), path)
    assert load(path) == dict(x=1)
    save_atomically(dict(x=2), path, force=True)
    assert load(path) == dict(x=2)
    with pytest.raises(NotADirectoryError, match='nowhere'):
        save_atomically(dict(x=1), tmp_path / 'nowhere/a.pth')
    with pytest.raises(AttributeError):
        save_atomically(lambda: None, path, force=True)
    assert load(path) == dict(x=2)
    assert os.listdir(tmp_path) == ['a.pth']
