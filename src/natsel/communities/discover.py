"""Find the communities of any network: export, propagate labels, collect, prove."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor, fx, nn
from torch.utils._pytree import tree_map

import natsel.communities.labels.rules  # noqa: F401  (fills the table of rules)
from natsel.common.calls import (
    Inputs,
    as_inputs,
    call,
    first_samples,
    shapes_of,
    without_cache,
)
from natsel.common.errors import first_line, refuse
from natsel.common.logs import logger_of
from natsel.common.memory import give_back
from natsel.common.modes import evaluating
from natsel.common.sharding.wrapping import fsdp_modules, spread_of
from natsel.common.wrappers import own_forward, unwrapped
from natsel.communities.bare_norms import with_bare_norms
from natsel.communities.branches.blocks import as_blocks
from natsel.communities.branches.find import find_branches
from natsel.communities.branches.prove import prove_branches
from natsel.communities.collect import collect
from natsel.communities.community import Communities, Refusal, left_whole
from natsel.communities.computed import computed, explained
from natsel.communities.dimensions import find_dimensions, macs_between
from natsel.communities.gates.gates import suspended
from natsel.communities.gathering import shapes_alone, structural_copy
from natsel.communities.kinds import HEAD, QUERY
from natsel.communities.labels.propagation import Propagation
from natsel.communities.low_rank import without_ranks
from natsel.communities.pricing import pricing_of
from natsel.communities.programs.in_place import writes, written_anew
from natsel.communities.programs.program import Program
from natsel.communities.programs.quiet import without_words
from natsel.communities.programs.recording import recorded
from natsel.communities.proof.proof import prove
from natsel.communities.proof.spread import spread
from natsel.communities.rotary import growing, without_growth
from natsel.communities.tables import without_tables
from natsel.communities.tensors import canonical_names, tensors_of
from natsel.communities.unfit import check_fit, check_sizes, why_not_exported, without_complex
from natsel.communities.untouched import untouched

_LOG = logger_of(__name__)

BLOCKS = "blocks"
REGIONS = ("wrap_with_autocast", "wrap_with_set_grad_enabled")
NOTHING = "no layer in it makes what another one reads by a weight"


def discover(
    model: nn.Module,
    example_inputs: Tensor | Sequence[Tensor] | Mapping[str, Tensor],
    *,
    proof: bool = True,
    residual: bool = False,
    lora: bool = False,
    branches: bool | Literal["blocks"] = False,
    dims: bool = False,
    query_heads: bool = False,
    expert_groups: bool = False,
) -> Communities:
    """Find what can be removed from a model as a whole: its populations, in communities.

    The model is exported and its graph is run on integer labels instead of data: shape operators
    run as they are, arithmetic unites the labels that meet, linear maps read labels on one axis of
    their weight and make new ones on the other, an operator without a rule is a barrier. What is
    found is then proven: populations are removed and the small model must equal the masked one;
    what fails is left whole and named in ``refused``. The model is not changed.

    Args:
        model: any module that ``torch.export`` can export; of a compiled or parallel one the
            network inside is taken.
        example_inputs: a tuple of tensors that the model runs on, or a mapping from the names of
            its arguments to tensors; one tensor is taken as a tuple.
            Of a model under ``fully_shard`` every process gathers, for as long as this takes, what
            is there once and of blocks that are alike the first one; with ``proof=False`` nothing,
            and shapes are looked at alone.
        proof: remove some populations of each community and compare, before offering them.
        residual: also offer widths that a normalisation runs over, such as the residual width of a
            transformer, as communities of kind "channel". Removing from them is not masking: what
            remains is normalised differently. :func:`natsel.verify` states the difference.
        lora: also offer the ranks of low-rank adapters, which are a setting of the fine-tuning.
        branches: also offer what is added to residual streams (attention sublayers, perceptrons,
            whole blocks), as communities of kind "branch": one for each stream. With "blocks" all
            branches of a block of a list are one population.
        dims: offer dimensions inside the heads of attention instead of whole heads, as communities
            of kind "key dimension" (queries and keys together), "value dimension", or "dimension"
            (all of them, where a module has one number for their width). A dimension goes from all
            heads of a layer; rotary ones go in pairs.
        query_heads: where several query heads share a head of keys and values, offer query heads,
            as communities of kind "query head", instead of whole groups. Each group keeps as many:
            the query heads at one place of all groups are one population. Where all of a layer
            share one head of keys and values (multi-query attention) they are offered always.
        expert_groups: where a router chooses groups of experts before it chooses experts, offer
            whole groups instead of experts. Without it each group keeps as many: the experts at one
            place of all groups are one population.

    Returns:
        The communities by name. ``refused`` says what was left whole and why.

    Raises:
        ValueError: if the model does not run on the inputs, or cannot be exported, or an option is
            none.

    Example:
        >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
        >>> discover(model, (torch.zeros(1, 4),))
        Communities(0: 8 neurons)
    """
    if branches not in (False, True, BLOCKS):
        refuse("branches", branches, f"True, False or {BLOCKS!r}")
    model = unwrapped(model)
    inputs = as_inputs(example_inputs)
    if isinstance(model, nn.Module) and fsdp_modules(model):
        spread_of(model)  # what cannot be followed is refused
        plain, inputs = _whole_of(model, inputs, proof=proof)
        found = discover(
            plain,
            inputs,
            proof=proof,
            residual=residual,
            lora=lora,
            branches=branches,
            dims=dims,
            query_heads=query_heads,
            expert_groups=expert_groups,
        )
        return found.in_model(model)
    check_fit(model, inputs, proof=proof)
    changing = growing(model)
    # What is found are names in the plain model, also of one that is gated.
    with (
        own_forward(model),
        suspended(model, fold=False),
        evaluating(model),
        without_cache(model),
        without_growth(model),
        without_tables(model),
        untouched(model),
    ):
        # What was written down while the model ran on these very inputs has shown that it does.
        program = _written_down(model, inputs)
        has_run = program is not None and first_samples(inputs, 1) is inputs
        try:
            if not has_run and not _is_shapes_alone(model):
                with torch.no_grad(), untouched(model):
                    call(model, inputs)
        except Exception as error:  # noqa: BLE001 - whatever the user's forward raises is the message
            refuse(
                "example_inputs",
                shapes_of(inputs),
                f"shapes the model runs on ({first_line(error)})",
            )
        if program is None:
            with untouched(model):
                program = _export(model, inputs)
        check_sizes(model, program)
        names = canonical_names(model)
        run = Propagation(
            *(program, names),
            residual=residual,
            query_heads=query_heads,
            expert_groups=expert_groups,
        )
        communities, refused = collect(run)
        if not lora:
            communities, ranks = without_ranks(model, program, communities)
            refused = refused + ranks
        refused = explained(refused, computed(run, model, communities, refused))
        communities, unreal = without_complex(communities, tensors_of(model))
        refused += unreal
        if dims:
            communities = [c for c in communities if c.kind not in (HEAD.name, QUERY.name)]
            few = spread(first_samples(inputs, 2), program) if proof else inputs
            within, unproven, inside = find_dimensions(
                model, program, few, proof=proof, changing=changing
            )
            communities, refused = [*communities, *within], refused + unproven
        found_branches = find_branches(model, program, run, inputs) if branches else None
        between = found_branches.between if found_branches is not None else None
        pricing = pricing_of(model, run, communities, between)
        if dims:
            each = {c.name: macs_between(inside, c) for c in within}
            pricing = replace(pricing, between={**pricing.between, **each})
        few = spread(first_samples(inputs, 2), program) if proof else inputs
        if proof and communities:
            with without_words():  # what a small model on trial warns of says nothing of this one
                communities, failed = prove(model, communities, few, program)
            refused = refused + failed
        communities = with_bare_norms(model, run, communities)
        if found_branches is not None:
            streams, failed = found_branches.communities, found_branches.refused
            if proof:
                streams, unproven = prove_branches(model, streams, few)
                failed = failed + unproven
            if branches == BLOCKS:
                streams, single, costs = as_blocks(streams, found_branches.between)
                failed, pricing = failed + single, replace(pricing, in_branches=costs)
            communities, refused = [*communities, *streams], refused + failed
    barriers = tuple(f"{name}{where}" for name, where in run.barriers.items())
    if not communities and not refused:
        refused = [Refusal(type(model).__name__, 0, NOTHING)]
    found = Communities(
        model, inputs, tuple(communities), tuple(refused), barriers, run.macs, pricing=pricing
    )
    give_back()  # trials are made on copies
    _LOG.info("found in %s: %r", type(model).__name__, found)
    for refusal in found.refused:
        _LOG.debug("left whole: %s", left_whole([refusal]))
    for barrier in barriers:
        _LOG.debug("no rule for %s", barrier)
    return found


def _whole_of(model: nn.Module, inputs: Inputs, *, proof: bool) -> tuple[nn.Module, Inputs]:
    """Return a plain twin of a model that is spread, and what it runs on: on meta without proof."""
    if proof:
        return structural_copy(model), inputs
    on_meta: Inputs = tree_map(lambda x: x.to("meta"), inputs)
    return shapes_alone(model).to("meta"), on_meta


def _is_shapes_alone(model: nn.Module) -> bool:
    """Say whether a model holds no values; what its code asks of them can only be traced."""
    return any(p.is_meta for p in model.parameters())


def _written_down(model: nn.Module, inputs: Inputs) -> torch.export.ExportedProgram | None:
    """Return the graph of a run, where that tells what the model computes and writes nothing."""
    if isinstance(model, Program):
        return None
    try:
        with without_words(), untouched(model):
            program = recorded(model, first_samples(inputs, 1))
    except Exception as error:  # noqa: BLE001 - whatever it is, export says it in its own words
        _LOG.debug("exported, for a run does not tell all: %s", first_line(error))
        return None
    written_anew(program)
    return None if any(writes(node) for node in program.graph.nodes) else program


def _export(model: nn.Module, inputs: Inputs) -> torch.export.ExportedProgram:
    if isinstance(model, Program):
        return model.exported()
    narrow = first_samples(inputs, 1)
    failure: Exception | None = None
    for attempt in (inputs,) if narrow is inputs else (narrow, inputs):
        args, named = ((), attempt) if isinstance(attempt, dict) else (attempt, {})
        try:
            with torch.no_grad(), without_words():
                program = torch.export.export(model, args, named, strict=False)
                written_anew(program)
                return functional(program)
        except Exception as error:  # noqa: BLE001 - export fails in many ways; the message is kept
            failure = error
    assert failure is not None
    raise ValueError(
        f"model={type(model).__name__} cannot be exported by torch.export: "
        f"{why_not_exported(model, inputs, failure)}"
    ) from failure


def functional(program: torch.export.ExportedProgram) -> torch.export.ExportedProgram:
    """Replace writing in place by new values, so that every name keeps its labels.

    Regions without autocast or gradients, which export holds as graphs of their own, become a part
    of the graph where weights are behind what enters them.
    """
    for node in program.graph.nodes:
        if writes(node) or (str(node.target) in REGIONS and _reads_weights(program, node)):
            decomposed: torch.export.ExportedProgram = program.run_decompositions({})
            return decomposed
    return program


def _reads_weights(program: torch.export.ExportedProgram, node: fx.Node) -> bool:
    weights = program.graph_signature.inputs_to_parameters
    stack, seen = [node], {node}
    while stack:
        entering = set(stack.pop().all_input_nodes) - seen
        if any(source.name in weights for source in entering):
            return True
        seen |= entering
        stack += entering
    return False
