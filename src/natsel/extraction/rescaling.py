r"""What RMSNorm is off by where it runs over fewer places, put into its weight.

Masking leaves $x_K / \mathrm{rms}(x)$ on the kept places K, removing $x_K / \mathrm{rms}(x_K)$.
Per row these differ by one factor, $\mathrm{rms}(x_K) / \mathrm{rms}(x)$: its mean over data goes
into the weight. It is 1 where kept places are as large as all are, and $\sqrt{n / |K|}$ where what
went carried nothing, as the last of principal axes does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from natsel.common.batches import Data, inputs_for
from natsel.common.calls import call, without_cache
from natsel.common.modes import evaluating
from natsel.common.padding import without_padding
from natsel.communities import Communities
from natsel.communities.tensors import owner, tensors_of
from natsel.extraction.stream import is_rms_norm


def rescale(
    model: nn.Module,
    small: nn.Module,
    survivors: Mapping[str, Tensor],
    data: Data,
    *,
    communities: Communities,
) -> tuple[str, ...]:
    """Scale the weights of RMSNorms of a small model that run over fewer places, in place.

    Args:
        model: the dense model.
        small: what was extracted from it.
        survivors: what it holds.
        data: batches; read once, and not at all where no such normalisation lost places.
        communities: what the survivors belong to.

    Returns:
        The names of the tensors that changed.
    """
    kept: dict[str, Tensor] = {}
    tensors = tensors_of(model)
    for name, mask in survivors.items():
        community = communities[name]
        if community.exact or bool(mask.all()):
            continue
        for part in community.slices:
            module, attribute = owner(model, part.tensor)
            size = tensors[part.tensor].shape[part.axis]
            whole = torch.equal(part.index, torch.arange(size).unsqueeze(1))
            if attribute == "weight" and whole and is_rms_norm(module, size):
                kept[part.tensor] = mask.nonzero().flatten()
    if not kept:
        return ()
    sums = {name: torch.zeros((), dtype=torch.float64) for name in kept}
    counts = dict.fromkeys(kept, 0)

    def look(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def hook(module: nn.Module, args: tuple[Tensor, ...]) -> None:
            x = without_padding(module, args[0], -1).flatten(0, -2).float()
            there = x.index_select(1, kept[name].to(x.device)).square().mean(1)
            factors = (there / x.square().mean(1)).sqrt()
            factors = factors[factors.isfinite()]
            sums[name] += factors.sum(dtype=torch.float64).cpu()
            counts[name] += len(factors)

        return hook

    handles = [owner(model, n)[0].register_forward_pre_hook(look(n)) for n in kept]
    try:
        with evaluating(model), without_cache(model), torch.no_grad():
            for batch in data:
                call(model, inputs_for(model, batch))
    finally:
        for handle in handles:
            handle.remove()
    changed = tuple(name for name in kept if counts[name])
    ours = tensors_of(small)
    with torch.no_grad():
        for name in changed:
            ours[name].mul_(float(sums[name] / counts[name]))
    return changed
