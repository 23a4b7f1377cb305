"""As much of Ray as the driver's side calls, in this process: actors whose deaths are arranged."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any


class RayError(Exception):
    pass


class RayTaskError(RayError):
    pass


class OutOfMemoryError(RayError):
    pass


@dataclass(eq=False)
class Reference:
    """What an actor will answer; asked for when it is got."""

    answer: Callable[[], Any]


class Stream:
    """What an actor answers one after another; an error is the last."""

    def __init__(self, answers: Iterator[Any]) -> None:
        self._answers = answers

    def __next__(self) -> Reference:
        try:
            answer = next(self._answers)
        except RayError as error:
            return Reference(lambda error=error: _raise(error))  # type: ignore[misc]
        return Reference(lambda: answer)


def _raise(error: Exception) -> None:
    raise error


class Method:
    def __init__(self, call: Callable[..., Any], streaming: bool = False) -> None:
        self._call, self._streaming = call, streaming

    def options(self, num_returns: str) -> Method:
        return Method(self._call, num_returns == "streaming")

    def remote(self, *given: Any) -> Any:
        return (
            Stream(self._call(*given)) if self._streaming else Reference(lambda: self._call(*given))
        )


class Handle:
    def __init__(self, actor: Any) -> None:
        self._actor = actor

    def __getattr__(self, name: str) -> Method:
        return Method(getattr(self._actor, name))


@dataclass
class FakeRay:
    """The module. make: an actor for every worker asked for, by its number from 0."""

    make: Callable[[int], Any]
    alive: set[str] = field(default_factory=lambda: {"node"})
    killed: list[Any] = field(default_factory=list)
    asked: list[dict[str, Any]] = field(default_factory=list)
    exceptions: Any = field(
        default_factory=lambda: SimpleNamespace(
            RayError=RayError, RayTaskError=RayTaskError, OutOfMemoryError=OutOfMemoryError
        )
    )

    def remote(self, _: type) -> Any:
        def options(**named: Any) -> Any:
            def start() -> Handle:
                self.asked.append(named)
                return Handle(self.make(len(self.asked) - 1))

            return SimpleNamespace(remote=start)

        return SimpleNamespace(options=options)

    def wait(self, awaited: list[Any], num_returns: int, timeout: float) -> Any:
        assert awaited
        return awaited[:num_returns], awaited[num_returns:]

    def get(self, reference: Reference) -> Any:
        return reference.answer()

    def kill(self, actor: Any) -> None:
        self.killed.append(actor)

    def nodes(self) -> list[dict[str, Any]]:
        return [{"NodeID": node, "Alive": True} for node in self.alive]
