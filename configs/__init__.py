"""Facts about models and budgets, read from YAML, and the user's settings. No torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from scalekv.kv.fronts import lazily

if TYPE_CHECKING:
    from scalekv.configs.budget_files import (
        budget_text,
        calibration_file,
        default_budget,
        list_budgets,
        load_budget,
    )
    from scalekv.configs.models import (
        ModelFiles,
        ModelPreset,
        calibration_prompts,
        list_models,
        model_named,
        read_preset,
    )
    from scalekv.configs.sparsity import Sparsity, measured_sparsity
    from scalekv.configs.spec import Sampling, TextSpec, TokenizerSpec, TransformerSpec

_HOMES = {
    "ModelFiles": "models",
    "ModelPreset": "models",
    "Sampling": "spec",
    "Sparsity": "sparsity",
    "TextSpec": "spec",
    "TokenizerSpec": "spec",
    "TransformerSpec": "spec",
    "budget_text": "budget_files",
    "calibration_file": "budget_files",
    "calibration_prompts": "models",
    "default_budget": "budget_files",
    "list_budgets": "budget_files",
    "list_models": "models",
    "load_budget": "budget_files",
    "measured_sparsity": "sparsity",
    "model_named": "models",
    "read_preset": "models",
}

__all__ = [
    "ModelFiles",
    "ModelPreset",
    "Sampling",
    "Sparsity",
    "TextSpec",
    "TokenizerSpec",
    "TransformerSpec",
    "budget_text",
    "calibration_file",
    "calibration_prompts",
    "default_budget",
    "list_budgets",
    "list_models",
    "load_budget",
    "measured_sparsity",
    "model_named",
    "read_preset",
]

__getattr__ = lazily(__name__, _HOMES)
