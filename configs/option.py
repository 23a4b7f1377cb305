"""What is to be said of an option, once: what it is called, what it takes, what holds where nobody
says anything, which commands take it and what it is about. Knows no option in particular.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass
from enum import Enum
from typing import TYPE_CHECKING

from scalekv.configs.values import Kind

if TYPE_CHECKING:
    from scalekv.configs.models import ModelPreset

PREFIX = "SCALEKV_"
PATH_VARIABLE = "SCALEKV_CONFIG"
"""Environment variable naming another config file."""
DEBUG_VARIABLE = "SCALEKV_DEBUG"
"""Environment variable that adds where a failure happened."""
KEY_VARIABLE = "SCALEKV_API_KEY"
"""Environment variable with the key that a server asks for."""
NO_SETTINGS = (PATH_VARIABLE, DEBUG_VARIABLE, KEY_VARIABLE)
"""Variables that are heeded and are no option's."""

CACHE, SAMPLING, MACHINE, OUTPUT = "Cache", "Sampling", "Model and machine", "Output"
PANELS = (CACHE, SAMPLING, MACHINE, OUTPUT)
"""Panels of the help, in their order; a command's own come before them."""

# Who takes what; compare, bench, calibrate and plan leave out what they have no use for.
MAKE = ("generate", "batch")
DRAW = (*MAKE, "compare")
SAMPLED = (*DRAW, "serve")
PLANNED = (*MAKE, "plan", "serve")
LOADING = (*DRAW, "bench", "calibrate", "serve", "selftest", "eval")
ALL = (*LOADING, "plan")
REPLAYING = tuple(name for name in ALL if name != "eval")  # that asks for every bit as it is drawn


class Scope(Enum):
    """For what an option can be said.

    PICTURE: for each picture of a batch by a column, and for all by a setting or an option;
    RUN: for all, by a setting or an option; CALL: by an option alone.
    """

    PICTURE = "picture"
    RUN = "run"
    CALL = "call"


class Owner(Enum):
    """Whose field of the same name an option fills: the request's, the placement's, or the run's
    own. NOBODY: others follow from it, as ratio and pixels from a size."""

    REQUEST = "request"
    PLACEMENT = "placement"
    RUN = "run"
    NOBODY = "nobody"


@dataclass(frozen=True)
class Option:
    """One option, and everything that follows from it.

    Attributes:
        name: of the setting, the parameter, the column and the field: "cfg_layer".
        kind: how its values are read.
        help: one or two sentences.
        commands: that take it; others may too, with words of their own.
        panel: of the help.
        owner, scope: see there.
        default: what holds where nobody sets it, as text; "" is nothing.
        otherwise: words for what holds where the default is ""; "" says nothing.
        preset: what a model's preset says where nobody else does.
        names: on the command line, where they are more than --its-name.
        repeats: may stand beside --from: it does not change the picture, or must be as it was.
    """

    name: str
    kind: Kind
    help: str
    commands: tuple[str, ...]
    _: KW_ONLY
    panel: str
    owner: Owner
    scope: Scope
    default: str = ""
    otherwise: str = ""
    preset: Callable[[ModelPreset], object] | None = None
    names: tuple[str, ...] = ()
    repeats: bool = False

    @property
    def shown_default(self) -> str:
        """What holds where nobody sets it, in words; "" where there is nothing to say."""
        if self.default:
            return "" if self.default == "false" else self.default
        return "the model's" if self.preset is not None else self.otherwise
