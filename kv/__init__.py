"""Caches of next-scale image models: arithmetic, tensors and eviction policies. Knows nothing of
Infinity. Importing this imports no torch; using a tensor step of it does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from scalekv.kv.fronts import lazily

if TYPE_CHECKING:
    from scalekv.kv.budgets.asked import (
        BudgetLike,
        BudgetRequest,
        BudgetSpec,
        fitting_mean,
        parse_budget,
        percent_tokens,
        resolve,
    )
    from scalekv.kv.budgets.budget import Budget
    from scalekv.kv.budgets.drafters import Drafters, drafters_by_scale
    from scalekv.kv.budgets.heat_order import Order, order_from_mass, read_order, write_order
    from scalekv.kv.budgets.moments import within
    from scalekv.kv.budgets.shapes import pyramid, uniform
    from scalekv.kv.budgets.shares import Linear
    from scalekv.kv.caches.caches import Caches
    from scalekv.kv.errors import UserError
    from scalekv.kv.kernels.best import best_slots
    from scalekv.kv.kernels.mass import attention_mass, logit_sums
    from scalekv.kv.kernels.pooling import pooled_on_maps
    from scalekv.kv.memory.denominators import LowerBound, Uncompressed, uncompressed
    from scalekv.kv.memory.ledger import CacheLedger, LayerRecord
    from scalekv.kv.memory.predicted import (
        CachePrediction,
        CacheShape,
        cache_bytes,
        full_cache_bytes,
        peak_held_tokens,
        predicted,
    )
    from scalekv.kv.policies.policy import Policy, Step
    from scalekv.kv.policies.registry import policy_named, policy_names, register
    from scalekv.kv.policies.selection import window_grid, window_tokens
    from scalekv.kv.precision import Precision, precision_of
    from scalekv.kv.schedule import Schedule
    from scalekv.kv.sizes import human_bytes, parse_size

_HOMES = {
    "Budget": "budgets.budget",
    "BudgetLike": "budgets.asked",
    "BudgetRequest": "budgets.asked",
    "BudgetSpec": "budgets.asked",
    "CacheLedger": "memory.ledger",
    "CachePrediction": "memory.predicted",
    "CacheShape": "memory.predicted",
    "Caches": "caches.caches",
    "Drafters": "budgets.drafters",
    "LayerRecord": "memory.ledger",
    "Linear": "budgets.shares",
    "LowerBound": "memory.denominators",
    "Order": "budgets.heat_order",
    "Policy": "policies.policy",
    "Precision": "precision",
    "Schedule": "schedule",
    "Step": "policies.policy",
    "Uncompressed": "memory.denominators",
    "UserError": "errors",
    "attention_mass": "kernels.mass",
    "best_slots": "kernels.best",
    "cache_bytes": "memory.predicted",
    "drafters_by_scale": "budgets.drafters",
    "fitting_mean": "budgets.asked",
    "full_cache_bytes": "memory.predicted",
    "human_bytes": "sizes",
    "logit_sums": "kernels.mass",
    "order_from_mass": "budgets.heat_order",
    "parse_budget": "budgets.asked",
    "parse_size": "sizes",
    "peak_held_tokens": "memory.predicted",
    "percent_tokens": "budgets.asked",
    "policy_named": "policies.registry",
    "policy_names": "policies.registry",
    "pooled_on_maps": "kernels.pooling",
    "precision_of": "precision",
    "predicted": "memory.predicted",
    "pyramid": "budgets.shapes",
    "read_order": "budgets.heat_order",
    "register": "policies.registry",
    "resolve": "budgets.asked",
    "uncompressed": "memory.denominators",
    "uniform": "budgets.shapes",
    "window_grid": "policies.selection",
    "window_tokens": "policies.selection",
    "within": "budgets.moments",
    "write_order": "budgets.heat_order",
}

__all__ = [
    "Budget",
    "BudgetLike",
    "BudgetRequest",
    "BudgetSpec",
    "CacheLedger",
    "CachePrediction",
    "CacheShape",
    "Caches",
    "Drafters",
    "LayerRecord",
    "Linear",
    "LowerBound",
    "Order",
    "Policy",
    "Precision",
    "Schedule",
    "Step",
    "Uncompressed",
    "UserError",
    "attention_mass",
    "best_slots",
    "cache_bytes",
    "drafters_by_scale",
    "fitting_mean",
    "full_cache_bytes",
    "human_bytes",
    "logit_sums",
    "order_from_mass",
    "parse_budget",
    "parse_size",
    "peak_held_tokens",
    "percent_tokens",
    "policy_named",
    "policy_names",
    "pooled_on_maps",
    "precision_of",
    "predicted",
    "pyramid",
    "read_order",
    "register",
    "resolve",
    "uncompressed",
    "uniform",
    "window_grid",
    "window_tokens",
    "within",
    "write_order",
]

__getattr__ = lazily(__name__, _HOMES)
