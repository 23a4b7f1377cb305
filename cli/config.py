"""The command `scalekv config`: every default, and who set it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from scalekv.cli import options as given

if TYPE_CHECKING:
    from scalekv.configs.models import ModelPreset

HELP = (
    "Show every default with its value and where it comes from.\n\n"
    "The first that says something holds: option, variable, config file, the model's preset. A "
    "value that no option takes is refused, here and by every command."
)
EPILOG = """
Examples:

  scalekv config

  SCALEKV_BUDGET=20% scalekv config --json | jq -r '.settings.budget.value'

  SCALEKV_CONFIG=night.yaml scalekv config
"""


def config(json: given.Json = False) -> None:
    """The command; its help is `HELP`."""
    from scalekv.cli.console.stdout import say, say_json
    from scalekv.configs.models import model_named
    from scalekv.configs.options import SETTINGS
    from scalekv.configs.settings import Settings, variable_name

    settings = Settings()
    model = settings.get("model")
    preset = model_named(model.value, model.origin)
    rows = []
    for name, option in SETTINGS.items():
        setting = settings.get(name)
        value, origin = setting.value, setting.origin
        if not value and option.preset is not None:
            number = option.preset(preset)
            value = f"{number:g}" if isinstance(number, float) else str(number)
            origin = f"preset {preset.name}"
        rows.append((name, value, origin))
    if json:
        listed = {
            name: {"value": value, "from": origin, "variable": variable_name(name)}
            for name, value, origin in rows
        }
        facts = {
            "config_file": str(settings.path),
            "exists": settings.path.is_file(),
            "settings": listed,
            "unused_variables": settings.unused,
        }
        say_json(facts)
        return
    rows = [(n, _in_pixels(preset, v) if n == "pixels" else v, origin) for n, v, origin in rows]
    names, values = (max(len(row[column]) for row in rows) for column in (0, 1))
    for name, value, origin in rows:
        say(f"{name:{names}}  {value or '-':{values}}  {origin}\n")
    say(f"\nconfig file: {settings.path}{'' if settings.path.is_file() else ' (there is none)'}\n")
    if settings.unused:
        say(f"not settings: {', '.join(settings.unused)}\n")


def _in_pixels(preset: ModelPreset, name: str) -> str:
    from scalekv.infinity_patch.schedules import class_in_pixels

    return class_in_pixels(preset, name)
