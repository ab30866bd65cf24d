"""tools/train.py where the config or the code is wrong."""

import pytest
import tiny_run

# A developer's change of the attention, by a module that a config imports.
BUGS = """
from mmbiformer.models.attention import BiLevelRoutingAttention


def init(self, *args, **kwargs):
    {bug}


BiLevelRoutingAttention.__init__ = init
"""


@pytest.fixture(scope='module')
def tiny(tmp_path_factory):
    return tiny_run.write(
        tmp_path_factory.mktemp('tiny'), dict(train=4, val=1)
    )


@pytest.fixture
def train(tiny, tmp_path, run_tool):
    def run(config=tiny, *options):
        return run_tool(
            'train.py', config, '--work-dir', tmp_path / 'work',
            '--cfg-options', 'default_hooks.logger.interval=1', *options,
            check=False,
        )  # fmt: skip

    return run


@pytest.mark.parametrize(
    ('name', 'bug', 'line'),
    [
        (
            'bare',
            'assert len(args) == 99',
            'AssertionError at {module}:6: assert len(args) == 99',
        ),
        (
            'typo',
            'self.dimm',
            "AttributeError: 'BiLevelRoutingAttention' object has no "
            "attribute 'dimm'",
        ),
    ],
)
def test_a_bug_in_the_attention_is_shown(
    train, tiny, tmp_path, monkeypatch, name, bug, line
):
    module = tmp_path / f'{name}_bug.py'
    module.write_text(BUGS.format(bug=bug))
    monkeypatch.syspath_prepend(str(tmp_path))
    config = tmp_path / 'config.py'
    config.write_text(
        f"_base_ = '{tiny}'\n"
        f"custom_imports = dict(imports=['mmbiformer', '{module.stem}'])\n"
    )
    result = train(config)
    assert result.returncode == 1
    (log,) = (tmp_path / 'work').glob('*/*.log')
    line = f'train.py: error: {line.format(module=module.name)}'
    for text in (result.stderr, log.read_text()):
        assert 'Traceback (most recent call last):' in text
        assert f'File "{module}", line 6, in init\n    {bug}\n' in text
        assert text.splitlines()[-1] == line


@pytest.mark.parametrize(
    ('option', 'line'),
    [
        (
            'model.backbone.arch=huge',
            "arch must be one of ('tiny', 'small', 'base', 'stl') or a dict, "
            "got arch='huge'",
        ),
        (
            'model.neck.num_out=4',
            "model.neck.num_out=4: FPN has no argument 'num_out' (did you "
            "mean 'num_outs'?). Its arguments: act_cfg, ",
        ),
    ],
)
def test_a_wrong_setting_is_one_line(train, tmp_path, tiny, option, line):
    result = train(tiny, option)
    assert result.returncode == 1
    # Libraries warn, each time in two lines.
    lines = [
        shown
        for shown in result.stderr.splitlines()
        if 'Warning: ' not in shown and not shown.startswith('  ')
    ]
    assert len(lines) == 1
    assert lines[0].startswith(f'train.py: error: {line}')
    assert not (tmp_path / 'work').exists()


def test_options_that_cannot_be_read(train, tiny):
    result = train(tiny, 'model')
    assert result.returncode == 2
    assert result.stderr.splitlines()[-1] == (
        'train.py: error: argument --cfg-options: expected KEY=VALUE, got '
        "'model'"
    )


def test_a_module_that_is_missing_is_named(train, tiny, tmp_path):
    config = tmp_path / 'config.py'
    config.write_text(
        f"_base_ = '{tiny}'\n"
        "custom_imports = dict(imports=['no_such_module.part'])\n"
    )
    result = train(config)
    assert result.returncode == 1
    assert result.stderr == (
        f"train.py: error: {config} has custom_imports={{'imports': "
        "['no_such_module.part']}, and there is no module 'no_such_module': "
        'is its folder in PYTHONPATH?\n'
    )


def test_a_module_that_fails_shows_its_traceback(
    train, tiny, tmp_path, monkeypatch
):
    module = tmp_path / 'failing_import.py'
    module.write_text('import torch\n\ntorch.no_such_thing\n')
    monkeypatch.syspath_prepend(str(tmp_path))
    config = tmp_path / 'config.py'
    config.write_text(
        f"_base_ = '{tiny}'\n"
        "custom_imports = dict(imports=['failing_import'])\n"
    )
    result = train(config)
    assert result.returncode == 1
    assert f'File "{module}", line 3, in <module>' in result.stderr
    assert result.stderr.splitlines()[-1].startswith(
        'train.py: error: AttributeError: '
    )
