"""A rule of one's own: teach natsel an operator that it does not know.

Prints why nothing can be removed without the rule, and what can be with it. The operator here is
one of our own; a library's kernel is taught in the same way. A wrong rule cannot do harm: every
removal is proven against the masked network, and refused where they differ.
"""

import torch
from torch import nn

import natsel


@torch.library.custom_op("example::soft_clip", mutates_args=())
def soft_clip(x: torch.Tensor, limit: float) -> torch.Tensor:
    return limit * torch.tanh(x / limit)


@soft_clip.register_fake
def _(x, limit):
    return torch.empty_like(x)


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(20, 64), nn.Linear(64, 5)

    def forward(self, x):
        return self.second(soft_clip(self.first(x), 3.0))


torch.manual_seed(0)
model, inputs = Network(), (torch.randn(4, 20),)

before = natsel.discover(model, inputs)
print(f"without the rule: {len(before)} communities")
for refusal in before.refused:
    print(f"  {refusal.name}: {refusal.reason}")


@natsel.rule("example.soft_clip.default")
def element_by_element(run, node, x, limit):
    """The result belongs to whom the input belongs to, element by element."""
    return run.lift(x)


after = natsel.discover(model, inputs)
print(f"with the rule: {after}")
small = natsel.extract(model, natsel.select(natsel.score(after, "l2"), natsel.Sparsity(0.75)))
print(small)

assert not before
assert "no rule for example.soft_clip.default" in before.refused[0].reason
assert small.first.out_features == 16
