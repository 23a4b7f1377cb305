"""Making a picture again from what is embedded in it, or telling why that cannot be.

Knows what pictures hold; reads the model's files only to tell whether they are the same.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass, fields, replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from PIL import Image
from rich.console import Console

from scalekv.cli import engine
from scalekv.cli.choices import Choices, Options, choose
from scalekv.cli.console.errors import Unsuccessful
from scalekv.cli.console.progress import Display
from scalekv.cli.generate.run import Run
from scalekv.cli.pictures.folder import OutputFolder
from scalekv.cli.pictures.settings import read_picture
from scalekv.cli.pictures.writing import IMAGE_HASH, image_hash
from scalekv.configs.options import BY_NAME, COLUMNS, SETTINGS
from scalekv.configs.settings import option_name
from scalekv.configs.spec import WEIGHTS
from scalekv.configs.values import Unreadable
from scalekv.infinity_patch.asked.request import Request
from scalekv.infinity_patch.generation.record import OF_THE_RUN
from scalekv.kv.errors import UserError
from scalekv.kv.precision import LONG_NAMES

if TYPE_CHECKING:
    from scalekv.infinity_patch import Picture, Pipeline

_NEEDED = {
    **dict.fromkeys(("prompt", "model", "device", "dtype", "text_device", "text_dtype"), str),
    **dict.fromkeys(("seed", "batch"), int),
    **dict.fromkeys(("weights", "versions", "recorded.request", "recorded.files"), dict),
    "recorded.objects": list,
    "machine.name": str,
}
"""What a picture says that can be made again; a dot leads into an object."""

SHORT_NAMES = {long_name: name for name, long_name in LONG_NAMES.items()}
TEXT_NAMES = {**SHORT_NAMES, "int8": "int8"}


class NotRepeatable(UserError):
    """Something that the picture needs is not the same here, or not known."""

    kind = "not-repeatable"


@dataclass(frozen=True)
class Original:
    """A picture that is to be made again: its file, its pixels and its settings."""

    path: Path
    image: Image.Image
    settings: dict[str, Any]

    @property
    def image_hash(self) -> str:
        """Of its pixels: as they are, or where the format lost some as they were before."""
        return str(self.settings.get(IMAGE_HASH) or image_hash(self.image))

    @property
    def threads(self) -> int | None:
        """Threads that computed it, where that is known to matter: on a CPU."""
        threads = self.settings["machine"].get("threads")
        return threads if isinstance(threads, int) and threads > 0 else None


def repeat(path: Path, options: Options) -> tuple[Original, Choices]:
    """The picture, and how to make it again.

    Args:
        options: as typed beside the picture; only those that `repeats` may be.

    Raises:
        UserError: no picture, an option that the picture settles, or missing weights.
        NotRepeatable: something needed is not the same here, with all that is not.
    """
    embedded = read_picture(path)
    settings = embedded.settings
    if not settings:
        what = "is a contact sheet" if embedded.sheet else "does not say how it was made"
        raise UserError(
            f"{path} {what}", where="--from", rule="a picture that scalekv made, as it made it"
        )
    if lacking := _lacking(settings):
        raise NotRepeatable(
            f"{path} does not say enough to be made again: {', '.join(lacking)}",
            where="--from",
            rule="pictures of older versions say less, and what was changed cannot be read",
            fix=_as_near(settings),
        )
    _check_options(options)
    original = Original(path, embedded.image, settings)
    _refuse(original, _known_differences(settings))
    choices = _choices(original, options)
    _refuse(original, _differing_weights(settings, choices))
    return original, choices


def _lacking(settings: dict[str, Any]) -> list[str]:
    """What a picture has to say to be made again and does not, or not as it is written."""
    lacking = []
    for name, kind in _NEEDED.items():
        value: Any = settings
        for key in name.split("."):
            value = value.get(key) if isinstance(value, dict) else None
        if not isinstance(value, kind):
            lacking.append(name)
    if lacking:
        return lacking
    if settings["dtype"] not in SHORT_NAMES or settings["text_dtype"] not in TEXT_NAMES:
        lacking.append("dtype")
    elif _weights(settings) not in WEIGHTS:
        lacking.append("weights_dtype")
    known = {field.name for field in fields(Request)}
    for name, value in settings["recorded"]["request"].items():
        try:
            if name in SETTINGS and value is not None:
                SETTINGS[name].kind.read(value)
        except Unreadable:
            lacking.append(name)
        if name not in known or name in OF_THE_RUN:
            lacking.append(name)
    return lacking


def _weights(settings: dict[str, Any]) -> Any:
    """How the blocks held their weights; older pictures have none in 8 bits, and do not say."""
    return settings.get("weights_dtype", SHORT_NAMES[settings["dtype"]])


def _check_options(options: Options) -> None:
    typed = [
        option_name(name)
        for name, value in options.typed.items()
        if value is not None and not BY_NAME[name].repeats
    ]
    for name in ["PROMPT"] * bool(options.prompts) + typed:
        raise UserError(
            f"--from and {name} both say what to draw",
            where=name,
            rule="everything that makes the picture comes from it",
            fix=f"leave out {name}, or --from",
        )


def _known_differences(settings: dict[str, Any]) -> list[str]:
    """What can be told without the model: versions, objects of programs, files."""
    from scalekv.infinity_patch.generation.record import named_files

    differences = []
    torch = version("torch")
    here = {"scalekv": version("scalekv"), "torch": torch}
    for name, then in settings["versions"].items():
        # Builds of one release differ in a suffix that the package's own metadata may lack.
        now = here.get(name, "not installed")
        if then.partition("+")[0] != now.partition("+")[0]:
            differences.append(f"{name} was {then}, here it is {now}")
    recorded = settings["recorded"]
    for name in recorded["objects"]:
        differences.append(f"its {name} was an object of a program")
    files = named_files(recorded["request"])
    for name, then in recorded["files"].items():
        if name not in files:
            differences.append(f"the file {name} is not here")
        elif files[name] != then:
            differences.append(f"the file {name} is not what it was")
    return differences


def _differing_weights(settings: dict[str, Any], choices: Choices) -> list[str]:
    from scalekv.infinity_patch.files.hashes import model_hashes
    from scalekv.infinity_patch.files.hub import model_files

    here = model_hashes(model_files(choices.preset, choices.weights_dir))
    return [
        f"the {part.replace('_', ' ')} has other weights"
        for part, then in settings["weights"].items()
        if here.get(part) != then
    ]


def _choices(original: Original, options: Options) -> Choices:
    from scalekv.infinity_patch.generation.record import request_from

    settings = original.settings
    typed = options.typed
    device = typed.get("device") or settings["device"]
    if device.partition(":")[0] != settings["device"].partition(":")[0]:
        raise NotRepeatable(
            f"{original.path} was made on {settings['device']}, not on {device}",
            where="--device",
            rule="the last bits differ between kinds of device",
            fix=f"leave out --device, or {_as_near(settings)}",
        )
    prompt, seed = settings["prompt"], settings["seed"]
    chosen = choose(
        options.changed(
            (prompt,),
            model=typed.get("model") or settings["model"],
            device=device,
            dtype=SHORT_NAMES[settings["dtype"]],
            weights=_weights(settings),
            text_device=typed.get("text_device") or settings["text_device"],
            text_dtype=TEXT_NAMES[settings["text_dtype"]],
            wildcards="off",
            seed="0",
            num_images=1,
            policy="full",  # what is asked for comes from the picture, below
        )
    )
    request = request_from(settings["recorded"]["request"], prompt, seed)
    model = chosen.model if typed.get("model") else replace(chosen.model, origin=str(original.path))
    return replace(chosen, request=request, model=model)


def _refuse(original: Original, differences: list[str]) -> None:
    if differences:
        raise NotRepeatable(
            f"{original.path} cannot be made again bit for bit: {'; '.join(differences)}",
            where="--from",
            rule="the same versions, weights and files make the same picture",
            fix=_as_near(original.settings),
        )


def _as_near(settings: dict[str, Any]) -> str:
    """The command that comes as near as can be told."""
    words = ["scalekv", "generate", str(settings.get("prompt", ""))]
    for name, row in (("model", BY_NAME["model"]), *COLUMNS.items()):
        value = settings.get(name)
        if value in (None, False, "") or (name, value) == ("budget", "full"):
            continue
        if isinstance(value, list) and len(set(map(str, value))) == 1:
            value = value[0]
        try:
            row.kind.read(value)
        except Unreadable:
            continue
        words.append(option_name(name))
        if value is not True:
            words.append(_written(value))
    return "as near as it gets: " + shlex.join(words)


def _written(value: object) -> str:
    """A value as an option takes it."""
    if isinstance(value, list):
        return ",".join(_written(entry) for entry in value)
    return f"{value:g}" if isinstance(value, float) else str(value)


@dataclass
class Repetition(Run):
    """A run that makes one picture again, and tells whether it is the same."""

    original: Original | None = None
    same: bool = False

    @classmethod
    def of(cls, path: Path, options: Options, console: Console, *, json: bool) -> Self:
        """The repetition of the picture at `path`.

        Raises:
            UserError: as `repeat` does.
        """
        original, choices = repeat(path, options)
        return cls(choices, console, json=json, original=original)

    def execute(self) -> None:
        """Does it all, as `Run` does.

        Raises:
            Unsuccessful: the picture was made, and differs from the original.
        """
        super().execute()
        if not self.same:
            raise Unsuccessful(
                f"the picture differs from {self._original.path}: another processor or GPU, or "
                "another place in a batch, changes last bits",
                "different",
            )

    def _load(self, display: Display) -> Pipeline:
        pipeline = super()._load(display)
        settings = self._original.settings
        if self._original.threads is not None:
            engine.use_threads(pipeline, self._original.threads)
        then, now = settings["machine"]["name"], engine.computes_on(pipeline)
        if then != now:
            display.note(f"made on {then}, here it is {now}: the last bits may differ")
        if settings["batch"] > 1:
            display.note("made together with others; alone, the last bits may differ")
        return pipeline

    def _keep(self, picture: Picture, folder: OutputFolder, display: Display) -> None:
        super()._keep(picture, folder, display)
        self.same = image_hash(picture.image) == self._original.image_hash
        if self.same:
            display.note(f"equal bit for bit to {self._original.path}")

    @property
    def _original(self) -> Original:
        assert self.original is not None
        return self.original
