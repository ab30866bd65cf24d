"""Depths and widths of the stages."""

from typing import Any, NamedTuple, Sequence, Tuple, Union

from mmbiformer.utils.errors import ConfigError

from .arguments import check_choice, check_int, check_length

NUM_STAGES = 4
LAYOUTS = ('biformer', 'stl')
"""tuple[str]: What surrounds the attention: see ``arch`` of
:class:`mmbiformer.models.BiFormer`."""


class Arch(NamedTuple):
    """Depths and widths of a BiFormer, see ``arch`` of :class:`BiFormer`."""

    depths: Tuple[int, ...]
    dims: Tuple[int, ...]
    head_dim: int = 32
    mlp_ratio: Union[float, Sequence[float]] = 3
    layout: str = 'biformer'

    def mlp_ratio_of(self, stage: int) -> float:
        """Return the MLP ratio of a stage, counted from 0."""
        # The block refuses what is no number.
        ratio: Any = self.mlp_ratio
        return ratio[stage] if isinstance(ratio, (list, tuple)) else ratio

    @classmethod
    def parse(cls, settings: dict) -> 'Arch':
        """Read an arch given as a dict.

        Args:
            settings (dict): Values of the fields.

        Returns:
            Arch: The same values.

        Raises:
            ConfigError: If a key is missing or unknown, or ``depths``,
                ``dims``, ``layout`` or the number of ``mlp_ratio`` are wrong.
        """
        required = {'depths', 'dims'}
        missing = required - set(settings)
        unknown = set(settings) - set(cls._fields)
        if missing or unknown:
            raise ConfigError(
                f'arch needs the keys {sorted(required)} and may have '
                f'{sorted(cls._field_defaults)}; missing {sorted(missing)}, '
                f'unknown {sorted(unknown)}, got arch={settings}'
            )
        for key in sorted(required):
            check_length(f"arch['{key}']", settings[key], NUM_STAGES)
            for i, value in enumerate(settings[key]):
                check_int(f"arch['{key}'][{i}]", value, 1)
        if settings['dims'][0] < 2:
            raise ConfigError(
                "arch['dims'][0] must be at least 2, as the stem has half as "
                f'many channels, got dims={settings["dims"]}'
            )
        if isinstance(settings.get('mlp_ratio'), (list, tuple)):
            check_length(
                "arch['mlp_ratio']", settings['mlp_ratio'], NUM_STAGES
            )
        parsed = cls(**settings)
        check_choice("arch['layout']", parsed.layout, LAYOUTS)
        return parsed
