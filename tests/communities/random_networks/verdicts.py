"""Judge random networks: what each offers, and the least network that fails in the same way."""

from __future__ import annotations

import time
from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor, nn

import natsel
from natsel.communities import Community

from .attention import PASSED, AttentionWay, can_follow
from .judge import Alive, Verdict, judge, run
from .layers import CONVOLUTIONS, LIBRARY, PERCEPTRONS
from .network import NetworkWay, build, draw, inputs_of, runs, smaller
from .written import Attention


def judged(way: NetworkWay, *, many: int = 3, stop: bool = False) -> Verdict:
    """Judge the network of a way, and the head counts that it is known to read."""
    model, example = build(way), (inputs_of(way, 0),)
    counting = head_counts(model, *example)

    def stale(small: nn.Module, communities: natsel.Communities, alive: Alive) -> Iterator[str]:
        return stale_counts(small, communities, alive, counting)

    others = partial(other_inputs, way)
    return judge(model, example, others, stale=stale, many=many, stop=stop)


def other_inputs(way: NetworkWay, model: nn.Module) -> Iterator[tuple[Tensor]]:
    """Yield loud inputs that were no examples: of one batch size and of others, where they run."""
    yield (inputs_of(way, 1, scale=3.0),)
    for other in ({"batch": 3}, {"length": way.length - 1}):
        x = (inputs_of(way, 2, scale=1.0, **other),)
        try:
            run(model, x)
        except RuntimeError:
            continue
        yield x


def head_counts(model: nn.Module, x: Tensor) -> dict[str, AttentionWay]:
    """Return the attentions that ask how many heads they have, and need it to follow."""
    asked: set[str] = set()

    def ask(name, count, passed=None):
        asked.add(name)
        return count(passed)

    for name, module in model.named_modules():
        if isinstance(module, Attention):
            module.__dict__["count"] = partial(ask, name, module.count)
    with torch.no_grad():
        model(x)
    for module in model.modules():
        module.__dict__.pop("count", None)
    ways = {name: model.get_submodule(name).way for name in asked}
    return {name: way for name, way in ways.items() if _must_follow(way)}


def _must_follow(way: AttentionWay) -> bool:
    """Tell whether a count that forward asks for has to be that of the heads that are left."""
    if way.split == "chunks" and way.dim == 1:
        return False  # torch makes no more chunks than there are columns
    apart = way.mix.startswith("talking")  # queries and values count for themselves
    return not apart and way.trap != "divide" and way.store not in PASSED


def stale_counts(
    small: nn.Module,
    communities: natsel.Communities,
    alive: Alive,
    counting: dict[str, AttentionWay],
) -> Iterator[str]:
    """Yield the head counts that did not follow their heads."""
    for name, mask in alive.items():
        community = communities[name]
        for path, way in counting.items():
            if community.kind != "head" or community.size * way.group != way.heads:
                continue
            if not any(s.tensor.startswith(f"{path}.") for s in community.slices):
                continue
            held, right = small.get_submodule(path).count(), int(mask.sum()) * way.group
            if held != right:
                yield f"{path} counts {held} heads, not {right}"


def lost(way: NetworkWay, communities: natsel.Communities) -> Iterator[str]:
    """Yield the blocks from which something could go and nothing is offered, with the reason."""
    layers = CONVOLUTIONS | PERCEPTRONS | LIBRARY
    for number, block in enumerate(way.blocks):
        if way.shared and block in way.blocks[:number]:
            continue
        path = f"blocks.{number}.layer"
        inner = [c for c in communities.values() if _inside(c, path)]
        if isinstance(block, AttentionWay):
            missing = can_follow(block) and not any(c.kind == "head" for c in inner)
        else:
            missing = layers[block.name].removable and not inner
        if missing:
            reasons = [r.reason for r in communities.refused if r.name.startswith(path)]
            yield f"{block}: {'; '.join(reasons) or 'no reason'}"


def _inside(community: Community, path: str) -> bool:
    """Tell whether a community belongs to a layer and to nothing outside it."""
    return all(s.tensor.startswith(f"{path}.") for s in community.slices)


def shrink(way: NetworkWay, kind: str) -> NetworkWay:
    """Return the least way that fails in the same kind."""
    for less in smaller(way):
        if runs(less) and any(k == kind for k, _ in judged(less, many=1, stop=True).faults):
            return shrink(less, kind)
    return way


def told(seed: int, *, many: int = 3, least: bool = False) -> str:
    """Judge the network of a seed and return a line on it, and more where something is wrong."""
    start = time.perf_counter()
    way = draw(seed)
    verdict = judged(way, many=many)
    parts = (seed, way, verdict.offered, verdict.refused, verdict.kind)
    lines = [" | ".join(map(str, (*parts, f"{time.perf_counter() - start:.1f}s")))]
    if verdict.communities is not None:
        lines += [f"    lost: {what}" for what in lost(way, verdict.communities)]
    for kind in dict.fromkeys(kind for kind, _ in verdict.faults):
        those = [what for k, what in verdict.faults if k == kind]
        lines.append(f"    {kind} x{len(those)}: {those[0]}")
        if least:
            lines.append(f"    least: {shrink(way, kind)}")
    return "\n".join(lines)
