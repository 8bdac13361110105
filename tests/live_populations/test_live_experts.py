"""Fewer experts a token: exact counts, equal to masks, and nothing left behind."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

import natsel
from natsel.live_populations import METHODS, Choices, Method, prove
from tests.live_populations.mixtures import MIXTURES, token_ids

OURS = [name for name, method in METHODS.items() if method.kind == "experts"]


@pytest.mark.parametrize("family", MIXTURES)
def test_fewer_experts_equal_the_routers_own_arithmetic_on_those_alone(family):
    model, ids = MIXTURES[family](), token_ids()
    mask = torch.ones_like(ids)
    mask[1, :3] = 0
    for method, budget, scope in (
        ("router", natsel.Sparsity(0.4), "layer"),
        ("router-random", natsel.Sparsity(0.5), "token"),
        ("router-threshold", None, None),
    ):
        told = prove(model, method, budget, ids, attention_mask=mask, scope=scope, level=0.9) if (
            method == "router-threshold"
        ) else prove(model, method, budget, ids, attention_mask=mask, scope=scope)
        assert told.passed, (method, told)
        assert told.effect > 1e-4
