"""Evolve a network in a training loop of one's own: the unfit go extinct and are removed.

Prints how far the evolution came, what is left of the network, and the accuracy of both networks.
They are equal on every test image: what went extinct no longer had any influence.
"""

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn.functional import cross_entropy

import natsel

torch.manual_seed(0)
digits = load_digits()
images = torch.tensor(digits.data, dtype=torch.float32) / 16
labels = torch.tensor(digits.target)
train, test = slice(0, 1400), slice(1400, None)

model = nn.Sequential(
    nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 10)
)
optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)

communities = natsel.discover(model, (images[:2],))
# The environment carries 30 % of the 192 neurons. The two rates suit a run of 2,000 steps; leave
# them out in a longer one. Masses evolve at every optimizer.step(): there is nothing else to call.
evolution = natsel.Evolution(
    communities, optimizer=optimizer, capacity=0.3, rate=0.05, adaptation=2e-3
)
for _ in range(45):
    for batch in torch.randperm(1400).split(32):
        optimizer.zero_grad()
        cross_entropy(model(images[batch]), labels[batch]).backward()
        optimizer.step()

print(evolution.landing().message)
small = natsel.extract(model, evolution.survivors())
print(small)

with torch.no_grad():
    masked, extracted = model(images[test]).argmax(1), small(images[test]).argmax(1)
accuracy = (extracted == labels[test]).float().mean().item()
print(f"{(masked == labels[test]).float().mean():.1%} before, {accuracy:.1%} after the removal")

assert evolution.num_alive <= 0.35 * 192
assert torch.equal(masked, extracted)
assert accuracy > 0.88
