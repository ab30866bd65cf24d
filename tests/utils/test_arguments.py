import argparse

import pytest

from mmbiformer.utils.arguments import add_config_arguments, add_run_arguments


@pytest.fixture
def parser():
    parser = argparse.ArgumentParser(prog='tool.py')
    add_config_arguments(parser)
    add_run_arguments(parser)
    return parser


def test_values_of_options(parser):
    args = parser.parse_args(
        ['a.py', '--cfg-options', 'a.b=1', 'c=[(1,2),(3,4)]', 'd=x=y']
    )
    assert args.config == 'a.py'
    assert args.cfg_options == {'a.b': 1, 'c': [(1, 2), (3, 4)], 'd': 'x=y'}
    assert args.launcher == 'none'


@pytest.mark.parametrize(
    ('option', 'problem'),
    [
        ('model', "expected KEY=VALUE, got 'model'"),
        ('=3', "expected KEY=VALUE, got '=3'"),
        ('a=[(1,2)', 'Imbalanced brackets exist in [(1,2)'),
    ],
)
def test_options_that_cannot_be_read(parser, capsys, option, problem):
    with pytest.raises(SystemExit) as end:
        parser.parse_args(['a.py', '--cfg-options', option])
    assert end.value.code == 2
    assert capsys.readouterr().err.endswith(
        f'tool.py: error: argument --cfg-options: {problem}\n'
    )


@pytest.mark.parametrize('flag', ['--local_rank', '--local-rank'])
def test_older_launchers_pass_the_rank(parser, flag):
    assert parser.parse_args(['a.py', f'{flag}=3']).local_rank == 3
