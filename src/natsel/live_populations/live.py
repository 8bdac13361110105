"""The one way in: ``natsel.live(model, method, budget)``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, overload

from torch import Tensor, nn

from natsel.common.numbers import check_whole
from natsel.live_populations.allowances import Bytes, Held, check_allowance
from natsel.live_populations.cache.attach import attach
from natsel.live_populations.choosing import Normalization
from natsel.live_populations.experts.attach import attach as attach_experts
from natsel.live_populations.experts.handle import LiveExperts
from natsel.live_populations.experts.registry import ExpertMethod, are_experts
from natsel.live_populations.experts.registry import get as expert_method
from natsel.live_populations.kinds import CACHE, OF_EXPERTS, TOKENS, are_tokens, only
from natsel.live_populations.registry import Method, Scorer, get
from natsel.live_populations.tokens import TokenMethod, TokenScorer
from natsel.live_populations.tokens.attach import attach as attach_tokens
from natsel.live_populations.tokens.handle import LiveTokens
from natsel.selection import Sparsity

if TYPE_CHECKING:
    from natsel.live_populations.cache.handle import LiveCache


@overload
def live(
    model: nn.Module, method: ExpertMethod, budget: Sparsity | Held | None = None, **options: Any
) -> LiveExperts: ...
@overload
def live(
    model: nn.Module, method: TokenMethod, budget: Sparsity | Held, **options: Any
) -> LiveTokens: ...
@overload
def live(
    model: nn.Module,
    method: Method,
    budget: Sparsity | Held | Bytes | None = None,
    **options: Any,
) -> LiveCache: ...
@overload
def live(
    model: nn.Module,
    method: str | Scorer | TokenScorer,
    budget: Sparsity | Held | Bytes | None = None,
    **options: Any,
) -> Any: ...
def live(
    model: nn.Module,
    method: str | Method | Scorer | TokenMethod | TokenScorer | ExpertMethod,
    budget: Sparsity | Held | Bytes | None = None,
    *,
    sinks: int | None = None,
    window: int | None = None,
    floor: float = 1,
    scope: Literal["head", "layer", "model", "token"] | None = None,
    normalize: Normalization | Literal["method"] = "method",
    heads: Mapping[int, Tensor] | None = None,
    merge: bool = False,
    decoding: bool = True,
    seed: int = 0,
    blocks: Sequence[int] | None = None,
    pace: Literal["even", "share"] = "even",
    fuse: bool = False,
    spread: bool | None = None,
    prefix: int | None = None,
    **options: Any,
) -> LiveCache | LiveTokens | LiveExperts:
    """Let populations that live for one input compete while a model runs.

    Each key/value head of each layer is a community, and each entry of its cache a population: it
    is born with mass 1 when its token comes, competes after every call, and dies with the input.
    Counts are exact for every input of a batch: of n tokens, ``n - budget.count(n)`` are held, at
    the end of every call, whether the tokens came at once, in chunks or one by one. Padding never
    competes. Tokens keep their positions, and positions go on from the true length.

    By a method of experts ("router", "router-threshold", "router-random") each token of a mixture
    of experts is a community of those that its router chose, with the router's weights as masses:
    who leaves is not computed, and who stays has what the router would have given it had it chosen
    them alone. Of n choices in a call of a layer ``n - budget.count(n)`` stay.

    In a vision transformer each image is a community, and its tokens are the populations: of n,
    ``budget.count(n)`` have left after the last block, and who merges adds its mass. The class
    token and its like count, and stay.

    Use it as a context manager, or call ``close()``: the model is then as it was. A decoder needs
    a dynamic cache; the input's own cache is changed, nothing of the model.

    Args:
        model: a decoder of the transformers library, or a vision transformer: of transformers, of
            timm, natsel's own, or any with one chain of alike blocks.
        method: a name in ``natsel.live_populations.METHODS``, ``TOKEN_METHODS`` or
            ``EXPERT_METHODS``, a function from :class:`natsel.live_populations.Entries` to scores
            ``[batch, heads, entries]`` or from :class:`natsel.live_populations.Tokens` to scores
            ``[batch, tokens]``, ``module:name`` of one, or a method as the tables hold it.
        budget: how much goes (:class:`natsel.Sparsity`) or stays (:class:`natsel.Held`, of a head,
            of an image, or of a token's experts on average; :class:`natsel.Bytes` of a cache); None
            only where a method knows extinction.
        sinks: how many of the first entries stay in any case; None for what the method says, as
            far as it fits.
        window: how many of the newest stay in any case, and whose queries vote where a method asks
            for votes; None for what the method says, as far as it fits.
        floor: where heads share a budget, how many entries each holds at least: a count, or a
            share of what it would hold alone. Of a token: how many experts it keeps at least.
        scope: of a cache "head": each holds the same count. "layer": the heads of a layer share
            it, and "model": all heads do. None for what the method says, "head" for most. Of
            experts "layer" (by default): the tokens of a call share what stays, so that how much
            one keeps depends on the others, later ones too; "token": each keeps the same count.
        normalize: how scores become comparable across heads that share: "mean", "rank" or None;
            "method" for what the method says, "mean" for most.
        heads: what each head of a cache needs, ``{layer: [heads]}``, as
            :func:`natsel.live_populations.needs_of_heads` measures it: all heads share the budget
            in this proportion, whatever their scores. None for scores that decide.
        merge: whether an entry that leaves gives its mass to the one whose key is nearest, instead
            of being dropped; the logarithm of the mass is added to the logits.
        decoding: whether entries also leave while tokens come one by one.
        seed: of all chance.
        blocks: at which blocks tokens leave, between attention and perceptron; None for all. -1 is
            before the first, where tokens have no attention, and stand for their own keys.
        pace: how many at each: "even" for the same number, "share" for the same share of who is
            left.
        fuse: whether the tokens that leave become one, the sum of them by their scores.
        spread: whether the last block gives features for every place instead of every token, those
            of the token that stands for it, or zeros; None for where masses add.
        prefix: how many of the first tokens stand for no place and stay, the first of them the
            class token; None for what the model says.
        options: what the method takes besides.

    Returns:
        A handle: what is held, in entries and bytes, and what was evicted; of tokens, who lives
        and for which places.

    Raises:
        ValueError: if the model, the method or an option is not allowed; while it runs, if the
            cache cannot lose entries or the floor does not fit into the budget.

    Example:
        >>> import torch, transformers, natsel
        >>> sizes = {"vocab_size": 32, "hidden_size": 16, "intermediate_size": 16}
        >>> config = transformers.LlamaConfig(
        ...     **sizes, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1
        ... )
        >>> model = transformers.LlamaForCausalLM(config).eval()
        >>> with natsel.live(model, "snapkv", natsel.Sparsity(0.5)) as handle:
        ...     _ = model(torch.arange(20)[None])
        >>> handle.held(0), handle.num_bytes / handle.num_bytes_whole
        (tensor([[10]]), 0.5)
        >>> vit = natsel.models.ViT((3, 8, 8), 10, dim=8, heads=2, depth=2, patch=2)
        >>> with natsel.live(vit, "merge", natsel.Sparsity(0.4)) as handle:
        ...     _ = vit(torch.zeros(1, 3, 8, 8))
        >>> handle.num_held, handle.mass().sum(), handle.leaving
        (10, tensor(17), {0: 4, 1: 3})
    """
    check_whole("seed", seed, 0)
    if are_experts(method):
        refused = {**CACHE, **TOKENS, "merge": False}
        others = {name: refused[name] for name in refused if name not in OF_EXPERTS}
        only(locals(), others, "a cache or the tokens of a vision transformer")
        experts, allowed = expert_method(method).bound(options), check_allowance(budget)
        return attach_experts(model, experts, allowed, floor=floor, scope=scope, seed=seed)
    if are_tokens(model, method):
        only(locals(), CACHE, "the cache of a decoder")
        return attach_tokens(
            model,
            method,
            budget,
            blocks=blocks,
            pace=pace,
            merge=merge,
            fuse=fuse,
            spread=spread,
            prefix=prefix,
            seed=seed,
            options=options,
        )
    only(locals(), TOKENS, "the tokens of a vision transformer")
    found = get(method).bound(options)  # type: ignore[arg-type]
    return attach(  # type: ignore[no-any-return]
        model,
        found,
        check_allowance(budget),
        sinks=sinks,
        window=window,
        floor=floor,
        scope=scope,
        normalize=normalize,
        heads=heads,
        merge=merge,
        decoding=decoding,
        seed=seed,
        for_proof=False,
    )
