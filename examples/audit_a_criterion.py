"""Audit a criterion of one's own: is it a known one in disguise?

Prints what the audit proves, and the accuracy that each criterion leaves at half the neurons. The
one that is proven to be another keeps the same neurons, and has the same accuracy to the digit.
"""

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn.functional import cross_entropy

import natsel
from natsel.fitness import Fitness

torch.manual_seed(0)
digits = load_digits()
images = torch.tensor(digits.data, dtype=torch.float32) / 16
labels = torch.tensor(digits.target)

model = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))
optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
for _ in range(10):
    for batch in torch.randperm(1400).split(32):
        optimizer.zero_grad()
        cross_entropy(model(images[batch]), labels[batch]).backward()
        optimizer.step()


def surprise(parts):
    """Looks like information theory: the log-density of the incoming weights."""
    energy = sum(p.per_population(p.weight.square()) for p in parts.producers)
    return torch.log1p(energy) / torch.log(torch.tensor(2.0))


def loudest(parts):
    """The largest outgoing weight."""
    (part,) = parts.consumers
    return part.weight.abs().amax(0)


criteria = ["l2", Fitness("surprise", surprise), Fitness("loudest", loudest)]
communities = natsel.discover(model, (images[:2],))
found = natsel.audit(communities, criteria, [0.5, 0.8])
print(found)

accuracies = {}
for name, criterion in zip(found.scorers, criteria, strict=True):
    scores = natsel.score(communities, criterion)
    small = natsel.extract(model, natsel.select(scores, natsel.Sparsity(0.5)))
    with torch.no_grad():
        right = small(images[1400:]).argmax(1) == labels[1400:]
    accuracies[name] = right.float().mean().item()
print({name: f"{value:.1%}" for name, value in accuracies.items()})

assert found.classes == (("l2", "surprise"), ("loudest",))
assert accuracies["surprise"] == accuracies["l2"] != accuracies["loudest"]
