"""What is said of settings from which nothing can be built."""

import pytest
from mmengine.registry import Registry

from mmbiformer.utils.building import config_errors
from mmbiformer.utils.errors import ConfigError

THINGS = Registry('thing', scope='mmengine')


@THINGS.register_module()
class Base:
    def __init__(self, size, color='red'):
        if color == 'typo':
            size.no_such_method()
        if color == 'type':
            raise TypeError('of the code')
        self.size = size


@THINGS.register_module()
class Derived(Base):
    def __init__(self, shape='round', **kwargs):
        super().__init__(**kwargs)


@THINGS.register_module()
class Swallowing:
    def __init__(self, broken=False, **kwargs):
        self.kwargs = kwargs
        if broken:
            raise TypeError('of the code')


@THINGS.register_module()
class Outer:
    def __init__(self, parts, name=None):
        self.parts = [THINGS.build(part) for part in parts]


def build(settings):
    cfg = dict(model=settings)
    with config_errors(cfg):
        return THINGS.build(cfg['model'])


@pytest.mark.parametrize(
    ('settings', 'said'),
    [
        (
            dict(type='Bas'),
            "model.type='Bas' is not in the registry mmengine::thing (did "
            "you mean 'Base'?)",
        ),
        (
            dict(type='Base', size=1, colour='red'),
            "model.colour='red': Base has no argument 'colour' (did you mean "
            "'color'?). Its arguments: color, size",
        ),
        (dict(type='Base'), "model.type='Base' needs the argument 'size'"),
        (
            dict(type='Derived', size=1, colour='red'),
            "model.colour='red': Derived has no argument 'colour' (did you "
            "mean 'color'?). Its arguments: color, shape, size",
        ),
        (
            dict(type='Outer', parts=[dict(type='Base', size=1, sizes=2)]),
            "model.parts.0.sizes=2: Base has no argument 'sizes'",
        ),
    ],
)
def test_settings_that_are_wrong(settings, said):
    with pytest.raises(ConfigError) as error:
        build(settings)
    assert str(error.value).startswith(said)
    assert isinstance(error.value.__cause__, (KeyError, TypeError))


@pytest.mark.parametrize(
    ('settings', 'kind'),
    [
        (dict(type='Base', size=1, color='typo'), AttributeError),
        (dict(type='Base', size=1, color='type'), TypeError),
        (dict(type='Derived', size=1, color='type'), TypeError),
        (dict(type='Swallowing', broken=True, color='red'), TypeError),
        (dict(type='Derived', shape='flat'), TypeError),
        (dict(type='Outer', parts=3), TypeError),
    ],
)
def test_errors_of_the_code_pass_unchanged(settings, kind):
    with pytest.raises(kind) as error:
        build(settings)
    assert not isinstance(error.value, ConfigError)


def test_what_can_be_built_is_built():
    thing = build(dict(type='Swallowing', anything='goes'))
    assert thing.kwargs == dict(anything='goes')
    assert build(dict(type='Derived', size=2)).size == 2
