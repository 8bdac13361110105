"""One number per population, after training: a fitness as a scorer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from natsel.common.alike import warn_alike
from natsel.common.batches import Data, check_data, inputs_for, read_batch
from natsel.common.calls import LABELLED, call, cross_entropy, has_labels
from natsel.common.errors import NonFiniteError, first_line, refuse
from natsel.common.modes import evaluating
from natsel.communities import Communities
from natsel.communities.gates.gates import masses_of
from natsel.fitness.parts import PartsReader, Watch
from natsel.fitness.registry import Fitness, Parts, get

Criterion = Callable[[Any, Tensor], Tensor]


class Scores(dict[str, Tensor]):
    """Scores per community, with the communities that they belong to."""

    def __init__(self, values: dict[str, Tensor], communities: Communities) -> None:
        super().__init__(values)
        self.communities = communities


def score(
    communities: Communities,
    scorer: str | Fitness | Callable[[Parts], Tensor],
    *,
    data: Data | None = None,
    criterion: Criterion = cross_entropy,
) -> Scores:
    """Give each population one number: higher is fitter.

    The model runs in evaluation mode and is not changed; its ``.grad`` fields stay as they are.
    Signals that need data are averaged over the batches.

    Args:
        communities: from :func:`natsel.discover`.
        scorer: a registered fitness, or a function from ``Parts`` to ``[size]``.
        data: yields ``(inputs, labels)``, or ``(inputs,)`` for scorers without gradients; or
            mappings from names, with ``labels`` among them, as loaders of the transformers library
            yield them. Labels of causal language models are moved by one place (see
            :mod:`natsel.common.batches` for when); those that are -100 do not count, nor, in
            activations, places where ``attention_mask`` is 0.
        criterion: from what the model returned and labels to the loss, where each label stands
            beside the output that predicts it; by default cross-entropy of the logits in it.

    Returns:
        ``{community: float tensor [size]}``.

    Raises:
        ValueError: if the scorer is unknown or needs data that is missing.
        NonFiniteError: if a score is NaN or infinite; the community is named.

    Example:
        >>> import natsel
        >>> model = nn.Sequential(nn.Linear(2, 3, bias=False), nn.ReLU(), nn.Linear(3, 1))
        >>> with torch.no_grad():
        ...     _ = model[0].weight.copy_(torch.tensor([[3., 4.], [0., 1.], [0., 0.]]))
        >>> communities = natsel.discover(model, (torch.ones(1, 2),))
        >>> natsel.score(communities, "magnitude-in")["0"]
        tensor([5., 1., 0.])
    """
    fitness = get(scorer, argument="scorer")
    if not isinstance(communities, Communities):
        refuse("communities", communities, "what natsel.discover(model, example_inputs) returns")
    communities.require()
    reader = PartsReader(communities)
    masses = list(masses_of(communities).values())
    needs_data = fitness.needs_gradient or fitness.statistic is not None
    data = check_data(data)
    if needs_data and data is None:
        refuse("data", None, f"batches of (inputs, labels): scorer {fitness.name!r} reads them")
    if not needs_data or data is None:
        with torch.no_grad():
            values = [
                fitness.signal(reader.read(i, m, lambda _: None)) for i, m in enumerate(masses)
            ]
    elif fitness.needs_gradient:
        values = _by_gradient(communities, fitness, reader, masses, data, criterion)
    else:
        values = _by_activation(communities, fitness, reader, masses, data)
    scores = {}
    for (name, community), value in zip(communities.items(), values, strict=True):
        if not isinstance(value, Tensor) or value.shape != (community.size,):
            refuse("scorer", fitness.name, f"a function that returns shape [{community.size}]")
        if not bool(torch.isfinite(value).all()):
            raise NonFiniteError(f"scorer {fitness.name!r} gave NaN or infinity in {name!r}")
        scores[name] = value.detach().float().cpu()
    warn_alike(scores, what=f"scores by {fitness.name!r}", stacklevel=2)
    return Scores(scores, communities)


def _by_gradient(
    communities: Communities,
    fitness: Fitness,
    reader: PartsReader,
    masses: list[Tensor],
    data: Data,
    criterion: Criterion,
) -> list[Tensor]:
    weights = reader.weights()
    sums: list[Tensor] | None = None
    count, num_batches = 0, 0
    with evaluating(communities.model), _differentiable(weights), torch.enable_grad():
        for batch in data:
            held = read_batch(batch)
            labels = held.targets(communities.model)
            num_batches += 1
            if not has_labels(labels, criterion):
                continue
            output = call(communities.model, held.given(communities.model))
            try:
                loss = criterion(output, labels)
            except IndexError as error:
                refuse("data", labels, f"labels that the loss takes ({first_line(error)})")
            gradients = torch.autograd.grad(loss, weights, allow_unused=True)
            by_id = {
                id(w): g if g is not None else torch.zeros_like(w)
                for w, g in zip(weights, gradients, strict=True)
            }
            with torch.no_grad():
                parts = [
                    reader.read(i, mass.to(loss.device), partial(_look_up, by_id))
                    for i, mass in enumerate(masses)
                ]
                values = [fitness.signal(p) for p in parts]
                sums = (
                    values if sums is None else [a + b for a, b in zip(sums, values, strict=True)]
                )
            count += 1
    if sums is None:
        if not num_batches:
            refuse("data", "empty", "at least one batch")
        refuse("data", "no sample with a label", LABELLED)
    return [s / count for s in sums]


def _look_up(found: dict[int, Tensor], parameter: nn.Parameter) -> Tensor:
    return found[id(parameter)]


def _by_activation(
    communities: Communities,
    fitness: Fitness,
    reader: PartsReader,
    masses: list[Tensor],
    data: Data,
) -> list[Tensor]:
    assert fitness.statistic is not None
    watch = Watch(communities, fitness.statistic, asked=f"scorer={fitness.name!r}")
    count = 0
    try:
        with evaluating(communities.model), torch.no_grad():
            for batch in data:
                call(communities.model, inputs_for(communities.model, batch))
                count += 1
        if not count:
            refuse("data", "empty", "at least one batch")
        if not watch.has_seen:
            refuse("data", "no sample in any batch", "at least one sample")
        statistics = watch.one_by_one()
    finally:
        watch.close()
    device = next(iter(statistics.values())).device
    with torch.no_grad():
        return [
            fitness.signal(reader.read(i, mass.to(device), lambda _: None, statistics))
            for i, mass in enumerate(masses)
        ]


@contextmanager
def _differentiable(weights: list[nn.Parameter]) -> Iterator[None]:
    """Let weights require a gradient for a while, frozen ones too."""
    frozen = [w for w in weights if not w.requires_grad]
    for weight in frozen:
        weight.requires_grad_(True)
    try:
        yield
    finally:
        for weight in frozen:
            weight.requires_grad_(False)
