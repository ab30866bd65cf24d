import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from mmengine.config import Config

from mmbiformer.inference.results import FileInferencer


@pytest.fixture
def scenes(digits):
    return [str(path) for path in sorted(digits.glob('images/train/*'))]


class PanopticInferencer:
    """Writes what mmdet's does for a panoptic model."""

    cfg = Config(dict(default_scope='mmdet', model=dict()))
    model = SimpleNamespace(dataset_meta=dict(classes=['a']))

    def __call__(self, images, batch_size, out_dir, **options):
        assert options.pop('pred_score_thr') == 0.3
        assert options == dict(no_save_vis=True, no_save_pred=False)
        preds = Path(out_dir, 'preds')
        preds.mkdir()
        for image in images:
            picture = preds / f'{Path(image).stem}_panoptic_seg.png'
            picture.write_bytes(Path(image).read_bytes())
            record = dict(scores=[1], panoptic_seg_path=str(picture))
            picture.with_name(f'{Path(image).stem}.json').write_text(
                json.dumps(record)
            )


def test_panoptic_pictures(scenes, tmp_path):
    files = FileInferencer(PanopticInferencer(), tmp_path, save_vis=False)
    files.run(scenes[:2], batch_size=2)
    for scene, name in zip(scenes, ('000000', '000001'), strict=False):
        picture = tmp_path / f'preds/{name}_panoptic_seg.png'
        assert picture.read_bytes() == Path(scene).read_bytes()
        record = json.loads((tmp_path / f'preds/{name}.json').read_text())
        assert record == dict(scores=[1])
    # Nothing hidden is left.
    assert [path.name for path in tmp_path.iterdir()] == ['preds']
