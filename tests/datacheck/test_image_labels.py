"""Folders of classes and lists of images that training would misread."""

import shutil

import flowers
import pytest
from mmengine.registry import DefaultScope
from small_datasets import truncate

from mmbiformer.datacheck.checks import check_classes, check_data
from mmbiformer.datacheck.report import KINDS, STOPS
from mmbiformer.datacheck.splits import check_split
from mmbiformer.reliable.runner import CheckedRunner
from mmbiformer.utils.config import read_config
from mmbiformer.utils.errors import ConfigError, DataError, MissingFileError

pytest.importorskip('mmpretrain')
pytestmark = pytest.mark.classification

LOADERS = ['train_dataloader', 'val_dataloader']


@pytest.fixture
def folder(tmp_path):
    flowers.write(tmp_path)
    return tmp_path


def read(folder, **options):
    names = {key.replace('__', '.'): value for key, value in options.items()}
    return read_config(str(folder / 'flowers.py'), names)


def check(cfg):
    """Check as tools/train.py does before anything is written."""
    check_data(cfg, LOADERS)
    check_classes(cfg, LOADERS)


def with_lists(folder, **options):
    flowers.write_lists(folder)
    for split in ('train', 'val'):
        options[f'{split}_dataloader__dataset__ann_file'] = f'meta/{split}.txt'
    return read(folder, **options)


def edit(path, old, new):
    content = path.read_text()
    assert old in content
    path.write_text(content.replace(old, new, 1))


def assert_is_found(cfg, split, kind, *parts):
    """The check finds it, and training is refused if it says so."""
    report = check_split(cfg, split, workers=1)
    assert kind in report.problems
    for part in parts:
        assert str(part) in report.problems[kind][0]
    assert bool(report.fatal) == (KINDS[kind].effect == STOPS)
    assert f'{kind}: {len(report.problems[kind])} (' in report.text()
    if not report.fatal:
        check(cfg)
        return
    with pytest.raises(DataError) as error:
        check(cfg)
    for part in (f'{split}_dataloader', kind, *parts):
        assert str(part) in str(error.value)


@pytest.mark.parametrize('how', [read, with_lists])
def test_nothing_is_wrong(folder, how):
    cfg = how(folder)
    check(cfg)
    for split, count in (('train', 12), ('val', 6)):
        report = check_split(cfg, split, workers=2)
        assert not report.problems
        assert report.counts['images'] == count
        names = [str(i) for i in range(3)]
        if how is read:
            names = list(flowers.CLASSES)
        assert report.classes == {
            name: (pytest.approx(1 / 3), count // 3) for name in names
        }


def test_no_folder(folder):
    shutil.rmtree(folder / 'val')
    cfg = read(folder)
    with pytest.raises(MissingFileError) as error:
        check(cfg)
    assert f'val_dataloader.dataset.data_prefix: {folder}/val' in str(
        error.value
    )
    report = check_split(cfg, 'val', workers=1)
    assert list(report.problems) == ['missing file or folder']


def test_no_folder_of_a_class(folder):
    for path in (folder / 'train').iterdir():
        for image in path.iterdir():
            image.rename(folder / f'train/{path.name}{image.name}')
        path.rmdir()
    cfg = read(folder)
    del cfg.model.head.num_classes, cfg.model.data_preprocessor.num_classes
    with pytest.raises(DataError, match='no class folder: .*train'):
        check(cfg)
    report = check_split(cfg, 'train', workers=1)
    assert report.fatal == ['no class folder']
    assert len(report.problems['image outside of the class folders']) == 12


def test_a_class_that_is_not_trained_on(folder):
    (folder / 'val/tulip').rename(folder / 'val/tulips')
    cfg = read(folder)
    assert_is_found(
        cfg, 'val', 'class that is not trained on',
        f"'{folder}/val' has 'tulips' (did you mean 'tulip'?), which is not "
        f"in '{folder}/train'",
    )  # fmt: skip
    report = check_split(cfg, 'val', workers=1)
    assert "has no 'tulip'" in report.problems['class without a folder'][0]


def test_a_class_without_images(folder):
    for path in (folder / 'train/rose').iterdir():
        path.unlink()
    assert_is_found(
        read(folder), 'train', 'class folder without images',
        folder / 'train/rose',
    )  # fmt: skip


def test_a_class_without_images_to_evaluate(folder):
    for path in (folder / 'val/rose').iterdir():
        path.unlink()
    assert_is_found(read(folder), 'val', 'class without images', 'rose')


def test_a_folder_that_nobody_made(folder):
    """Notebooks leave it; mmpretrain would take it for the first class."""
    (folder / 'train/.ipynb_checkpoints').mkdir()
    cfg = read(folder)
    with pytest.raises(ConfigError) as error:
        check(cfg)
    assert str(error.value) == (
        f'model.head.num_classes=3, but the folder {str(folder / "train")!r} '
        'of train_dataloader has 4 names; they must be as many: '
        "'.ipynb_checkpoints', 'daisy', 'rose', 'tulip'"
    )


@pytest.mark.parametrize('part', ['head', 'data_preprocessor'])
def test_another_number_of_classes(folder, part):
    cfg = read(folder, **{f'model__{part}__num_classes': 4})
    with pytest.raises(ConfigError) as error:
        check(cfg)
    assert f'model.{part}.num_classes=4' in str(error.value)
    assert "has 3 names; they must be as many: 'daisy'" in str(error.value)
    report = check_split(cfg, 'val', workers=1)
    assert report.fatal == ['heads do not fit the classes']


@pytest.mark.parametrize('several', [False, True])
def test_more_places_than_classes(folder, several):
    cfg = read(folder)
    cfg.val_evaluator = dict(type='Accuracy', topk=(1, 5))
    if several:
        cfg.val_evaluator = [cfg.val_evaluator]
    with pytest.raises(ConfigError) as error:
        check(cfg)
    setting = f'val_evaluator{".0" * several}.topk'
    assert str(error.value) == (
        f'{setting} must be at most the number of classes, got 5, and the '
        f"folder '{folder}/val' of val_dataloader has 3 names; use {setting}=1"
    )


def test_other_types_are_left_alone(folder):
    """Of these, one has no labels, and one cannot be built without files."""
    cfg = read(folder)
    cfg.train_dataloader.dataset.with_label = False
    cfg.val_dataloader.dataset = dict(
        type='MultiTaskDataset', ann_file='nowhere.json'
    )
    check_classes(cfg, LOADERS)
    with pytest.raises(ConfigError, match='CustomDataset and types derived'):
        check_split(cfg, 'train', workers=1)


def test_names_in_another_order_than_the_folders(folder):
    cfg = read(folder)
    for loader in LOADERS:
        cfg[loader].dataset.metainfo = dict(classes=('rose', 'daisy', 'tulip'))
    assert_is_found(
        cfg, 'train', 'folders in a different order', "'daisy', 'rose'"
    )


def test_names_of_more_classes_than_folders(folder):
    cfg = read(
        folder, model__head__num_classes=4,
        model__data_preprocessor__num_classes=4,
    )  # fmt: skip
    for loader in LOADERS:
        cfg[loader].dataset.metainfo = dict(classes=tuple('abcd'))
    assert_is_found(
        cfg, 'train', 'folders do not fit the classes',
        f"'{folder}/train' has 3 folders ('daisy', 'rose', 'tulip'), and "
        'there are 4 classes',
    )  # fmt: skip


def test_a_broken_image(folder):
    path = folder / 'train/rose/1.jpg'
    truncate(path)
    report = check_split(read(folder), 'train', workers=1)
    assert str(path) in report.problems['broken image'][0]


def test_images_that_are_not_read(folder):
    (folder / 'train/rose/1.jpg').rename(folder / 'train/rose/1.webp')
    (folder / 'train/rose/2.jpg').rename(folder / 'train/2.jpg')
    report = check_split(read(folder), 'train', workers=1)
    assert report.problems == {
        'image with another suffix': [f'{folder}/train/rose/1.webp'],
        'image outside of the class folders': [f'{folder}/train/2.jpg'],
    }
    assert report.counts['images'] == 10


class TestLists:
    @pytest.mark.parametrize(
        ('old', 'new'),
        [('rose/1.jpg 1', 'rose/1.jpg'), ('1.jpg 1', '1.jpg one'),
         ('rose/1.jpg 1', '')],
    )  # fmt: skip
    def test_a_line_without_a_label(self, folder, old, new):
        cfg = with_lists(folder)
        edit(folder / 'meta/train.txt', old, new)
        assert_is_found(
            cfg, 'train', 'line without a label',
            f'{folder}/meta/train.txt, line 6: ',
        )  # fmt: skip

    @pytest.mark.parametrize('label', [3, -1])
    def test_a_label_of_no_class(self, folder, label):
        cfg = with_lists(folder)
        edit(folder / 'meta/val.txt', 'rose/1.jpg 1', f'rose/1.jpg {label}')
        assert_is_found(
            cfg, 'val', 'label outside the classes',
            f"meta/val.txt, line 4: 'rose/1.jpg {label}'; the 3 classes are "
            '0 to 2',
        )  # fmt: skip

    def test_an_image_that_is_not_there(self, folder):
        cfg = with_lists(folder)
        (folder / 'val/rose/1.jpg').unlink()
        assert_is_found(cfg, 'val', 'missing image', folder / 'val/rose/1.jpg')

    def test_imagenet_finds_its_own(self, folder):
        """By the name of the split, as in mmpretrain's recipes."""
        flowers.write_lists(folder)
        edit(folder / 'meta/val.txt', 'rose/1.jpg 1', 'rose/1.jpg 1000')
        cfg = read(
            folder, model__head__num_classes=1000,
            model__data_preprocessor__num_classes=1000,
        )  # fmt: skip
        for split in ('train', 'val'):
            dataset = cfg[f'{split}_dataloader'].dataset
            dataset.type = 'ImageNet'
            del dataset.data_prefix
            dataset.split = split
        with pytest.raises(DataError, match='line 4: .*1000.* 0 to 999'):
            check(cfg)


class TestOtherTools:
    """With ``runner_type = 'CheckedRunner'``, nothing is checked before."""

    def build(self, cfg):
        with DefaultScope.overwrite_default_scope('mmpretrain'):
            CheckedRunner.build_dataloader(cfg.train_dataloader, seed=0)

    def test_a_line_without_a_label(self, folder):
        cfg = with_lists(folder)
        edit(folder / 'meta/train.txt', 'rose/1.jpg 1', 'rose/1.jpg')
        with pytest.raises(DataError, match="line 6: 'rose/1.jpg'"):
            self.build(cfg)

    def test_no_image_at_all(self, folder):
        for path in (folder / 'train').glob('*/*.jpg'):
            path.unlink()
        message = f'class folder without images: {folder}/train/daisy'
        with pytest.raises(DataError, match=message):
            self.build(read(folder))
