import pytest
from small_datasets import Coco, truncate


@pytest.fixture
def coco(tmp_path):
    return Coco(tmp_path)


def test_the_tool(coco, run_tool):
    truncate(coco.folder / 'images/1.jpg')
    coco.save()
    config = coco.folder / 'config.py'
    coco.cfg.dump(config)
    result = run_tool(
        'misc/check_dataset.py', config, '--splits', 'train', '--workers', 2,
        check=False,
    )  # fmt: skip
    assert result.returncode == 1
    assert 'broken image: 1 (' in result.stdout
    assert f'{coco.folder}/images/1.jpg' in result.stdout
    assert 'Traceback' not in result.stderr
    assert 'train: broken image' in result.stderr
