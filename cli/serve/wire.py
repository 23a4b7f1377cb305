"""What goes over the wire: requests and errors as OpenAI's images API has them, and our extensions.

Source: the API reference of OpenAI, "Create image", 2026-10. Knows JSON; nothing of HTTP or models.
"""

from __future__ import annotations

import json
import secrets
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any, Literal, NoReturn

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from scalekv.cli import engine
from scalekv.cli.choices import FULL, Choices, policy_and_budget
from scalekv.cli.plan.room import Target, check_room
from scalekv.configs.settings import Setting, Source
from scalekv.infinity_patch.asked.request import DEFAULT_POLICY
from scalekv.kv import parse_budget
from scalekv.kv.errors import UserError, close_matches

if TYPE_CHECKING:
    from scalekv.infinity_patch import Request
    from scalekv.infinity_patch.asked.settled import Settled

MOST_PICTURES = 10
"""Pictures of one request, as OpenAI's API has it."""
MOST_CHARACTERS = 32_000
"""Of a prompt, as OpenAI's API has it."""
MOST_VALUES = 64
"""Of a list with a number for every scale; the longest schedule has 13."""

Finite = Annotated[float, Field(allow_inf_nan=False)]
PerScale = Finite | Annotated[list[Finite], Field(min_length=1, max_length=MOST_VALUES)]
Text = Annotated[str, Field(min_length=1, max_length=MOST_CHARACTERS)]
Word = Annotated[str, Field(min_length=1, max_length=64)]


class Rejected(Exception):
    """A request that gets an error object in place of pictures.

    status: HTTP's; kind, code, param: the error object's type, code and parameter.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        kind: str = "invalid_request_error",
        code: str | None = None,
        param: str | None = None,
        retry_after: int | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.kind, self.code, self.param = status, kind, code, param
        self.retry_after = retry_after

    @property
    def body(self) -> dict[str, Any]:
        """The error object."""
        error = {
            "message": str(self),
            "type": self.kind,
            "param": self.param,
            "code": self.code,
        }
        return {"error": error}

    @property
    def headers(self) -> dict[str, str]:
        """Headers that go with it."""
        return {} if self.retry_after is None else {"Retry-After": str(self.retry_after)}


class ImageRequest(BaseModel):
    """The body of POST /v1/images/generations. From `seed` on: extensions, named as the options of
    `scalekv generate`; what is left out is as the server was started."""

    model_config = ConfigDict(extra="forbid", strict=True)

    prompt: Text
    model: Word | None = None
    n: Annotated[int, Field(ge=1, le=MOST_PICTURES)] | None = None
    size: Word | None = None
    response_format: Literal["b64_json", "url"] | None = None
    output_format: Literal["png"] | None = None
    quality: Literal["auto"] | None = None
    background: Literal["auto", "opaque"] | None = None
    moderation: Literal["auto", "low"] | None = None
    stream: Literal[False] | None = None
    user: Annotated[str, Field(max_length=512)] | None = None

    seed: Annotated[int, Field(ge=0)] | None = None
    budget: Word | Annotated[int, Field(ge=1)] | None = None
    policy: Word | None = None
    kv_dtype: Word | None = None
    cfg: PerScale | None = None
    cfg_layer: int | Annotated[list[int], Field(min_length=1, max_length=MOST_VALUES)] | None = None
    tau: PerScale | None = None
    top_p: Finite | None = None
    negative: Text | None = None
    positive_prompt: bool | None = None
    stop_after: Annotated[int, Field(ge=1)] | None = None
    truncate: bool | None = None


def parsed(body: bytes) -> ImageRequest:
    """The request in a body.

    Raises:
        Rejected: not JSON, or not such a request; names the first parameter that is wrong.
    """
    try:
        value = json.loads(body, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise Rejected(400, f"the body is not JSON: {error}", code="invalid_json") from None
    if not isinstance(value, dict):
        raise Rejected(400, "the body is not a JSON object", code="invalid_json")
    try:
        return ImageRequest.model_validate(value)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        param = str(first["loc"][0]) if first["loc"] else None
        if first["type"] == "extra_forbidden" and param is not None:
            known = close_matches(param, list(ImageRequest.model_fields))
            raise Rejected(
                400,
                f"unknown parameter {param[:64]!r}" + (f"; {known}" if known else ""),
                code="unknown_parameter",
                param=param[:64],
            ) from None
        raise Rejected(400, f"{param}: {first['msg']}", code="invalid_value", param=param) from None


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")


@dataclass(frozen=True)
class Served:
    """What this server draws with: the choices it was started with, and the budgets it knows."""

    choices: Choices
    target: Target
    budgets: frozenset[str]
    policies: frozenset[str]

    def settled(self, asked: ImageRequest) -> Settled:
        """What the pictures asked for come to; what `scalekv generate` refuses is refused.

        Raises:
            Rejected: it is, or does not fit into memory.
        """
        c = self.choices
        request = self.request_of(asked)
        try:
            settled = engine.check(request, c.preset, c.weights_dir, c.dtype, self.target.device)
            if not c.force:
                check_room(settled, self.target, c.placement, c.weights_dir, loaded=True)
        except UserError as error:
            raise rejection(error) from None
        return settled

    def request_of(self, asked: ImageRequest) -> Request:
        """The pictures asked for; nothing in it names a file.

        Raises:
            Rejected: another model, a budget or policy that only a file could be, no such size.
        """
        base = self.choices.request
        name = self.choices.preset.name
        if asked.model is not None and asked.model != name:
            raise Rejected(
                404,
                f"this server draws with {name}, not with {asked.model}",
                code="model_not_found",
                param="model",
            )
        policy, budget = self._policy_and_budget(asked)
        changes: dict[str, Any] = {
            field: tuple(value) if isinstance(value, list) else value
            for field in _PASSED_ON
            if (value := getattr(asked, field)) is not None
        }
        if asked.size not in (None, "auto"):
            changes["ratio"], changes["pixels"] = self._size(str(asked.size))
        return replace(
            base,
            prompts=(asked.prompt,),
            num_images=asked.n or 1,
            seed=secrets.randbelow(2**32) if asked.seed is None else asked.seed,
            policy=policy,
            budget=budget,
            **changes,
        )

    def _policy_and_budget(self, asked: ImageRequest) -> tuple[Any, Any]:
        base = self.choices.request
        if asked.policy is not None and asked.policy not in self.policies:
            raise Rejected(
                400,
                f"no policy {asked.policy!r} here",
                code="invalid_value",
                param="policy",
            )
        budget = asked.budget
        if isinstance(budget, str):
            try:
                named = parse_budget(budget).name
            except UserError as error:
                raise rejection(error, "budget") from None
            if named is not None and named not in self.budgets:
                raise Rejected(
                    400,
                    f"no budget {budget!r} here: a percentage, tokens, a size in bytes, full, or "
                    "one of " + ", ".join(sorted(self.budgets)),
                    code="invalid_value",
                    param="budget",
                )
        if asked.policy is None and base.policy == FULL and budget not in (None, FULL):
            return DEFAULT_POLICY, budget
        try:
            return policy_and_budget(
                _setting("policy", asked.policy, base.policy),
                _setting("budget", budget, base.budget),
            )
        except UserError as error:
            raise rejection(error, "budget") from None

    def _size(self, text: str) -> tuple[str, str]:
        from scalekv.infinity_patch.schedules import named_size

        try:
            return named_size(text, self.choices.preset, "size")
        except UserError as error:
            raise rejection(error, "size") from None


_PASSED_ON = (
    "kv_dtype",
    "cfg",
    "cfg_layer",
    "tau",
    "top_p",
    "negative",
    "positive_prompt",
    "stop_after",
    "truncate",
)


def _setting(name: str, asked: str | int | None, base: object) -> Setting:
    """A value with who chose it: the request or the server's own options."""
    if asked is None:
        return Setting(name, str(base), Source.DEFAULT, "the server's options")
    return Setting(name, str(asked), Source.OPTION, name)


def rejection(error: UserError, param: str | None = None) -> Rejected:
    """A refusal of ours as an error object; the fix that a command line would have is left out."""
    message = error.what + (f" ({error.rule})" if error.rule else "")
    return Rejected(400, message, code="invalid_value", param=param)
