"""What was asked of a cluster: which one, how many workers, who writes.

Knows options; nothing of Ray.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from scalekv.configs.settings import option_name
from scalekv.kv.errors import UserError, check_one_of

if TYPE_CHECKING:
    from scalekv.cli.choices import Choices

LOCAL, RAY = "local", "ray"
ENGINES = (LOCAL, RAY)
AUTO = "auto"

_ADDRESS = re.compile(r"[^\s/:]+:\d{1,5}|\[[0-9A-Fa-f:.]+\]:\d{1,5}")


@dataclass(frozen=True)
class ClusterAsked:
    """Options of `scalekv batch` about a cluster.

    Attributes:
        address: of a running cluster, "auto" for the one this machine is of; None: one is started
            here, and ended with the batch.
        workers: processes that draw; None: as many as there is room for.
        gpus: that each of them gets, a share of one below 1.
        write: the workers write the pictures, into a folder that all see.
    """

    address: str | None = None
    workers: int | None = None
    gpus: float = 1.0
    write: bool = False


def cluster_asked(engine: str, typed: Mapping[str, Any]) -> ClusterAsked | None:
    """What the options come to; None: no cluster.

    Args:
        typed: the options by the names of `ClusterAsked`'s attributes; None where nothing was.

    Raises:
        UserError: no such engine, an address or a share that cannot be, or an option without
            `--engine ray`.
    """
    several = "--engine ray draws on several GPUs or machines"
    check_one_of(engine, ENGINES, f"no engine {engine!r}", "--engine", otherwise=several)
    given = {n: value for n, value in typed.items() if value is not None and value is not False}
    if engine == LOCAL:
        for name in given:
            option = _OPTIONS[name]
            raise UserError(
                f"{option} is for a cluster",
                where=option,
                rule="it goes with --engine ray",
                fix=f"add --engine ray, or leave out {option}",
            )
        return None
    asked = ClusterAsked(**given)
    _check_address(asked.address)
    if not (0 < asked.gpus < 1 or (asked.gpus >= 1 and asked.gpus.is_integer())):
        raise UserError(
            f"a worker cannot have {asked.gpus:g} GPUs",
            where="--gpus-per-worker",
            rule="a whole number, or a share of one GPU below 1",
            fix="--gpus-per-worker 1, or --device cpu to draw without GPUs",
        )
    return asked


def check_workers_device(choices: Choices) -> None:
    """Refuses a device that no worker can be promised.

    Raises:
        UserError: it is one of this machine.
    """
    if choices.device not in (AUTO, "cpu", "cuda"):
        raise UserError(
            f"{choices.device} is a device of this machine, and workers get theirs from Ray",
            where="--device",
            rule="auto, cpu or cuda with --engine ray",
            fix="CUDA_VISIBLE_DEVICES says which GPUs of this machine are used",
        )


def as_workers_have(choices: Choices, device: str) -> Choices:
    """The choices for workers of a type of device, whose working folder is another."""
    weights, kept = (
        None if folder is None else folder.absolute()
        for folder in (choices.weights_dir, choices.placement.text_cache)
    )
    placement = replace(choices.placement, text_cache=kept)
    return replace(choices, device=device, weights_dir=weights, placement=placement)


def _check_address(address: str | None) -> None:
    if address is None or address == AUTO or _ADDRESS.fullmatch(address):
        return
    client = address.startswith("ray://")
    raise UserError(
        f"{address!r} is {'an address of Ray Client' if client else 'no address'}",
        where="--address",
        rule="auto, or HOST:PORT of a cluster's head, 6379 unless it was started with another",
        fix="run the command on a machine of the cluster, with --address auto",
    )


_OPTIONS = {
    "gpus": "--gpus-per-worker",
    "write": "--workers-write",
    **{name: option_name(name) for name in ("address", "workers")},
}
