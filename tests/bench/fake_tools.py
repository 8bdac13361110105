"""Tools that do one thing each: what the bench makes of them is known."""

import os
import time

import torch
from torch import nn

from natsel_bench.peers.tools import Made, Natsel, Refused


class Exact(Natsel):
    """Cuts neurons 0 and 2 of the last hidden Linear, rightly."""

    def prune(self, model, inputs, hints):
        first, last = [m for m in model.modules() if isinstance(m, nn.Linear)][-2:]
        kept = [i for i in range(first.out_features) if i not in (0, 2)]
        self.cut(first, last, kept, self.of_reader(kept))
        return Made(model, ("something: because",))

    def of_reader(self, kept):
        return kept

    def cut(self, first, last, kept, reads):
        first.weight = nn.Parameter(first.weight[kept].detach())
        first.bias = nn.Parameter(first.bias[kept].detach())
        last.weight = nn.Parameter(last.weight[:, reads].detach())

    def reload(self, small, dense, folder):
        torch.save(small.state_dict(), folder / "model.pt")
        small.load_state_dict(torch.load(folder / "model.pt", weights_only=True))
        return small


class Different(Exact):
    """Removes the wrong columns of the reader."""

    def of_reader(self, kept):
        return [i - 1 for i in kept]


class Broken(Exact):
    """Forgets the reader."""

    def cut(self, first, last, kept, reads):
        first.weight = nn.Parameter(first.weight[kept].detach())
        first.bias = nn.Parameter(first.bias[kept].detach())


class ChangedOutputs(Exact):
    """Removes a class."""

    def cut(self, first, last, kept, reads):
        last.weight = nn.Parameter(last.weight[1:].detach())
        last.bias = nn.Parameter(last.bias[1:].detach())


class Nothing(Exact):
    def prune(self, model, inputs, hints):
        return Made(model)


class SaysNo(Exact):
    def prune(self, model, inputs, hints):
        raise Refused("a flip is\nnot known")


class Raises(Exact):
    def prune(self, model, inputs, hints):
        raise KeyError("oh")


class Hangs(Exact):
    def prune(self, model, inputs, hints):
        time.sleep(600)


class Spins(Exact):
    def prune(self, model, inputs, hints):
        while True:
            pass


class Dies(Exact):
    def prune(self, model, inputs, hints):
        os._exit(7)


class Pickles(Exact):
    """Saves the module object itself, as some documentations say."""

    def reload(self, small, dense, folder):
        torch.save(small, folder / "model.pt")
        return torch.load(folder / "model.pt", weights_only=False)
