"""The methods, one file each; here is the one table of their names."""

from natsel.live_populations.tokens.methods.bipartite import bipartite, half
from natsel.live_populations.tokens.methods.by_chance import by_chance
from natsel.live_populations.tokens.methods.class_attention import class_attention
from natsel.live_populations.tokens.methods.diversity import diversity
from natsel.live_populations.tokens.methods.key_norm import key_norm
from natsel.live_populations.tokens.methods.received import received
from natsel.live_populations.tokens.registry import TokenMethod, register

register(TokenMethod("merge", bipartite, most=half))
register(TokenMethod("class-attention", class_attention, needs_class=True))
register(TokenMethod("received", received))
register(TokenMethod("diversity", diversity))
register(TokenMethod("random", by_chance))
register(TokenMethod("key-norm", key_norm))

__all__ = ["bipartite", "by_chance", "class_attention", "diversity", "key_norm", "received"]
