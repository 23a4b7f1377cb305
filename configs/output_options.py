"""Rows of the table of options about what is written, and how. Knows no command line. No torch."""

from __future__ import annotations

from functools import partial

from scalekv.configs import values
from scalekv.configs.option import DRAW, LOADING, MAKE, OUTPUT, Option, Owner, Scope
from scalekv.configs.recorded import FORM, attention_choice
from scalekv.configs.values import Kind, one_of_also, whole

REPORT_FORMS, NO_REPORT = ("json", "html", "table"), "none"
PICTURE_FORMATS = ("png", "jpg", "webp")

_FLAG = Kind(values.flag, shell=bool)
_output = partial(Option, panel=OUTPUT, owner=Owner.RUN, scope=Scope.RUN)

OUTPUT_OPTIONS: tuple[Option, ...] = (
    _output(
        "out",
        Kind(values.path, "DIR"),
        "Folder for pictures and report, or of generate a file: fox.png. Nothing is overwritten.",
        (*DRAW, "selftest"),
        default="out",
        names=("--out", "-o"),
        repeats=True,
    ),
    _output(
        "name",
        Kind(values.text, "TEMPLATE"),
        "Names of the pictures, of {index}, {seed}, {slug}, {line}, {image}, {policy} and "
        "{budget}.",
        MAKE,
        scope=Scope.CALL,
        otherwise="{seed}-{slug}, in a batch {index:05d}-{seed}-{slug}",
        repeats=True,
    ),
    _output(
        "format",
        one_of_also({"jpeg": "jpg"}, *PICTURE_FORMATS),
        "Format of the pictures: " + ", ".join(PICTURE_FORMATS) + ".",
        MAKE,
        default="png",
        repeats=True,
    ),
    _output(
        "quality",
        whole(1, 100),
        "Quality of jpg and webp, 1 to 100.",
        MAKE,
        default="95",
        repeats=True,
    ),
    _output(
        "metadata",
        _FLAG,
        "Write the settings into the pictures too, not only beside them.",
        MAKE,
        default="true",
        repeats=True,
    ),
    _output(
        "open",
        _FLAG,
        "Show the picture when it is done, or the folder of several.",
        MAKE,
        scope=Scope.CALL,
        default="false",
        repeats=True,
    ),
    _output(
        "memory_report",
        values.some_of(*REPORT_FORMS, metavar="FORM", alone=NO_REPORT),
        "Forms of the memory report: json (report.json), html (a page of its own), table (every "
        "figure, on stderr in place of three lines), or none.",
        MAKE,
        default="json",
        repeats=True,
    ),
    _output(
        "record",
        Kind(attention_choice, FORM),
        "Write queries, keys, values and attention of some layers (from 0) and scales (from 1) "
        "beside each picture, as safetensors; one picture at a time.",
        ("generate",),
        repeats=True,
    ),
    _output(
        "json",
        _FLAG,
        "One JSON object on stdout instead of lines; an error is one on stderr.",
        (),
        owner=Owner.NOBODY,
        scope=Scope.CALL,
        default="false",
    ),
    _output(
        "quiet",
        _FLAG,
        "Nothing on stderr but errors.",
        (*DRAW, "bench", "calibrate", "selftest", "eval"),
        default="false",
        names=("--quiet/--no-quiet", "-q"),
        repeats=True,
    ),
    _output(
        "verbose",
        _FLAG,
        "Show where a failure happened, as SCALEKV_DEBUG=1 does.",
        LOADING,
        owner=Owner.NOBODY,
        scope=Scope.CALL,
        default="false",
    ),
)
