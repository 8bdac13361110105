"""The methods, one file each; here is the one table of their names."""

from natsel.live_populations.methods.accumulated import accumulated
from natsel.live_populations.methods.by_chance import by_chance
from natsel.live_populations.methods.evolution import evolution, extinct
from natsel.live_populations.methods.expected import expected
from natsel.live_populations.methods.key_diff import key_diff
from natsel.live_populations.methods.key_norm import key_norm
from natsel.live_populations.methods.kvzip import kvzip
from natsel.live_populations.methods.newest import newest
from natsel.live_populations.methods.snapkv import snapkv
from natsel.live_populations.methods.value_weighted import value_weighted
from natsel.live_populations.registry import Method, register

register(Method("random", by_chance))
register(Method("newest", newest, sinks=4))
register(Method("key-norm", key_norm))
register(Method("key-diff", key_diff, window=32))
register(Method("snapkv", snapkv, window=32, queries=True))
register(Method("h2o", accumulated, window=32, every_call=True))
register(Method("value-weighted", value_weighted, window=32, queries=True))
register(Method("expected", expected, sinks=4, window=32, queries=True))
register(
    Method(
        "kvzip",
        kvzip,
        sinks=4,
        window=8,
        every_call=True,
        rereads=True,
        scope="model",
        normalize=None,
    )
)
register(Method("evolution", evolution, window=32, every_call=True, extinct=extinct))

__all__ = [
    "accumulated",
    "by_chance",
    "evolution",
    "expected",
    "extinct",
    "key_diff",
    "key_norm",
    "kvzip",
    "newest",
    "snapkv",
    "value_weighted",
]
