"""The policy that keeps every token, and whose method is how they are stored: in few bits. Knows
constants; what is done with them is `scalekv.kv.coded`'s."""

from __future__ import annotations

import torch
from torch import Tensor

from scalekv.kv.budgets.budget import Budget
from scalekv.kv.caches.held import Like
from scalekv.kv.coded.constants import Constants
from scalekv.kv.coded.held import CodedStorage
from scalekv.kv.coded.plan import allocation_of, coded_budget
from scalekv.kv.errors import UserError
from scalekv.kv.memory.predicted import CacheShape
from scalekv.kv.policies.policy import Step


class CodedPolicy:
    """Codes keys and values as the pictures they are (see docs/coded.md); drops nothing."""

    name = "coded"

    def __init__(self, constants: Constants | None = None) -> None:
        self.constants = constants

    def calibrated(self, constants: Constants) -> CodedPolicy:
        """This policy with a model's constants."""
        return CodedPolicy(constants)

    def plan(self, asked: Budget) -> Budget:
        """See `coded_budget`."""
        return coded_budget(asked)

    def select(self, step: Step) -> Tensor | None:
        """See `Policy.select`: everything stays."""
        return None

    def storage(
        self, budget: Budget, shape: CacheShape, guided: bool | None, like: Like, on_host: bool
    ) -> CodedStorage:
        """See `Policy`.

        Raises:
            UserError: no constants, or nobody said whether sequences are guidance halves; and as
                `allocation_of`.
        """
        if self.constants is None:
            raise UserError(
                "coded needs constants of the model",
                where="policy coded",
                rule="they come from calibrating the model",
                fix="scalekv calibrate --coded, or name a file: coded:constants.safetensors",
            )
        if guided is None:
            raise UserError(
                "coded has to know whether the sequences are pairs of guidance halves",
                where="guided",
                rule="the halves are coded together, and a batch does not tell what it is",
                fix="patched(model, policy='coded', guided=True), or False without guidance",
            )
        allocation = allocation_of(self.constants, budget, shape, guided)
        device = torch.device("cpu") if on_host else like.device
        return CodedStorage(self.constants, allocation, like.dtype, like.device, device)
