"""What policies have in common whose budgets a calibration of the model decides. Knows the profile;
no method."""

from __future__ import annotations

from typing import Self

from scalekv.kv.budgets.budget import Budget
from scalekv.kv.calibration.profile import AttentionProfile
from scalekv.kv.errors import UserError
from scalekv.kv.policies.registry import plan_named


class ProfiledPolicy:
    """A policy with what a calibration measured of the model's heads."""

    name: str

    def __init__(self, profile: AttentionProfile | None = None) -> None:
        self._profile = profile

    def calibrated(self, profile: AttentionProfile) -> Self:
        """This policy with a profile."""
        return type(self)(profile)

    @property
    def profile(self) -> AttentionProfile:
        """What was measured.

        Raises:
            UserError: nothing was.
        """
        if self._profile is None:
            raise UserError(
                f"{self.name} needs what a calibration measured of this model's heads",
                where=f"policy {self.name}",
                rule="it comes from calibrating the model",
                fix=f"scalekv calibrate, or name a file: {self.name}:NAME-attention.json",
            )
        return self._profile

    def plan(self, asked: Budget) -> Budget:
        """See `scalekv.kv.budgets.head_shares`."""
        planned = plan_named(self.name, asked, self.profile)
        assert planned is not None, "it takes a budget"
        return planned
