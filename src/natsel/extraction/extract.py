"""Build the smaller model that holds only the survivors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from natsel.common.batches import Data, reread
from natsel.common.calls import as_inputs
from natsel.common.errors import choose, refuse, refuse_together
from natsel.common.logs import logger_of
from natsel.common.sharding.wrapping import spread_of
from natsel.common.wrappers import on_own_forward, unwrapped
from natsel.communities import Communities
from natsel.communities.gates.gates import folded
from natsel.communities.surgery.surgery import remove
from natsel.extraction.compensation import compensated as absorb
from natsel.extraction.optimizers import follow
from natsel.extraction.plan import Plan, attach_plan
from natsel.extraction.rescaling import rescale
from natsel.extraction.spread import extract_spread
from natsel.extraction.unstructured import check_masks, convert, masked_weights
from natsel.extraction.verify import check_model, communities_of, compare, confirm
from natsel.selection import Survivors

_LOG = logger_of(__name__)

FORMATS = ("dense", "csr")


@on_own_forward
def extract(
    model: nn.Module,
    survivors: Mapping[str, Tensor],
    *,
    communities: Communities | None = None,
    optimizer: torch.optim.Optimizer | None = None,
    compensate: Data | bool | None = None,
    data: Data | None = None,
    verify: bool = True,
    format: str = "dense",
    example_inputs: Tensor | Sequence[Tensor] | Mapping[str, Tensor] | None = None,
) -> nn.Module:
    """Return a new, smaller model of the same classes that holds only the survivors.

    Masses are folded into the weights for good. The given model is not changed.

    With ``format="csr"`` survivors are single weights, a mask per parameter. They become zeros, and
    each ``nn.Linear`` that is measured to be faster so on this device holds only its surviving
    weights, in compressed rows; ``natsel.conversion_of(small)`` says which, and why not others.

    Args:
        model: the model that the survivors' communities were found in, gated or not, or a copy of
            it such as its moving average; of a compiled or parallel one the network inside is
            taken.
        survivors: from :func:`natsel.select` or ``Evolution.survivors``; or plain masks together
            with ``communities``.
        communities: what the survivors belong to, where they do not know it themselves.
        optimizer: if given, it is pointed at the small model's parameters, in place; its state
            (momenta, second moments) is cut like the parameters; where that is not certain it is
            refused by name and stays as it was.
        compensate: whether the kept populations take over, after the comparison, what the removed
            ones did over ``data``: see :func:`natsel.compensate`, and
            ``natsel.compensation_of(small)`` for what it did. RMSNorms that run over fewer places
            of a residual width are scaled to what they returned there. None does wherever there
            are data; batches of calibration data may also be given here themselves.
        data: the calibration data, batches as :func:`natsel.score` takes them.
        verify: compare with the masked model on the communities' example inputs.
        format: "dense", or "csr" for masks of single weights, keyed by parameter.
        example_inputs: with "csr", what the model runs on: layers are timed on what enters them,
            and the whole is verified; without, each layer is timed and compared on 64 random rows.

    Returns:
        The small model, in the mode (training or evaluation) of the given one.

    Raises:
        ValueError: if the survivors do not belong to the model, or the calibration data are not
            what it reads.
        VerificationError: if the small model differs from the masked one.

    Example:
        >>> import natsel
        >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
        >>> scores = natsel.score(natsel.discover(model, (torch.zeros(1, 4),)), "magnitude")
        >>> extract(model, natsel.select(scores, natsel.Sparsity(0.5)))
        Sequential(
          (0): Linear(in_features=4, out_features=4, bias=True)
          (1): ReLU()
          (2): Linear(in_features=4, out_features=3, bias=True)
        )
    """
    choose("format", format, FORMATS)
    model = unwrapped(model)
    batches = _calibration(compensate, data)
    if format == "csr":
        _no_others(communities=communities, optimizer=optimizer, compensate=batches)
        return _compressed(model, survivors, example_inputs, verify=verify)
    if example_inputs is not None:
        refuse("example_inputs", "given", "None, unless format='csr'; communities know theirs")
    return extracted(
        model,
        *communities_of(survivors, communities),
        optimizer=optimizer,
        batches=batches,
        verify=verify,
    )


@on_own_forward
def extracted(
    model: nn.Module,
    survivors: Survivors,
    known: Communities,
    *,
    optimizer: torch.optim.Optimizer | None = None,
    batches: Data | None = None,
    verify: bool = False,
    share: bool = False,
) -> nn.Module:
    """Return what :func:`extract` does, of survivors that were checked.

    Args:
        model: the model, gated or not.
        survivors: what the small one holds.
        known: what they belong to.
        optimizer: follows, if given.
        batches: to compensate over, if given.
        verify: compare with the masked model.
        share: let the small model hold the very parameters of modules that lose nothing: for those
            who need only one of the two models afterwards.
    """
    if (spread := spread_of(model)) is not None:
        if batches is not None:
            allowed = "None for a model that is spread over processes: compensate before, or after"
            refuse("compensate", "data", f"{allowed} it is gathered by natsel.save")
        return extract_spread(model, survivors, known, spread, optimizer=optimizer, verify=verify)
    base = folded(model)
    check_model(base, known)
    small = remove(base, known.values(), survivors, share="whole" if share else False)
    if verify:
        confirm(base, small, survivors, known)
    _LOG.info("extracted %r%s", survivors, ", verified" if verify else "")
    plan = Plan.describe(model, small, survivors, known)
    if batches is not None:
        batches = reread(batches)
        scaled = rescale(base, small, survivors, batches, communities=known)
        # A small model that fails is dropped: nothing of it need come back.
        done = absorb(base, small, survivors, batches, communities=known, restore=False)
        done = replace(done, tensors=(*scaled, *done.tensors))
        plan = replace(plan, compensation=done.to_dict())
    attach_plan(small, plan)
    if optimizer is not None:
        follow(optimizer, model, small, known, survivors)
    return small


def _calibration(compensate: Data | bool | None, data: Data | None) -> Data | None:
    """Return the batches to compensate over, however they were handed over; None for not."""
    if compensate is None or compensate is True:
        if compensate and data is None:
            refuse("data", None, "batches of calibration data: compensation reads them")
        return data
    if compensate is False:
        return None
    if data is not None:
        refuse_together({"compensate": "batches", "data": "batches"}, "data= alone")
    return compensate


def _no_others(**options: object) -> None:
    given = {n: type(value).__name__ for n, value in options.items() if value is not None}
    if given:
        refuse_together(given, "None where format='csr'")


def _compressed(
    model: nn.Module,
    survivors: Mapping[str, Tensor],
    example_inputs: Tensor | Sequence[Tensor] | Mapping[str, Tensor] | None,
    *,
    verify: bool,
) -> nn.Module:
    base = folded(model)
    masks = check_masks(base, survivors)
    inputs = as_inputs(example_inputs) if example_inputs is not None else None
    masked = masked_weights(base, masks)
    small, conversion = convert(masked, masks, inputs)
    if verify and inputs is not None:
        compare(base, small, masked, inputs).require()
    attach_plan(small, Plan.describe_converted(model, small, conversion))
    return small
