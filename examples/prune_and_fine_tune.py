"""Prune a trained network to half of its multiply-accumulates, and train it a little more.

Prints the test accuracy and the cost of the trained network, of the small one as it was cut, and
after five more epochs. The optimizer goes on: its state was cut like the weights.
"""

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn.functional import cross_entropy

import natsel

torch.manual_seed(0)
digits = load_digits()
images = torch.tensor(digits.images, dtype=torch.float32).unsqueeze(1) / 16
labels = torch.tensor(digits.target)
test_images, test_labels = images[1400:], labels[1400:]


def fit(network, num_epochs):
    for _ in range(num_epochs):
        for batch in torch.randperm(1400).split(64):
            optimizer.zero_grad()
            cross_entropy(network(images[batch]), labels[batch]).backward()
            optimizer.step()


@torch.no_grad()
def accuracy(network):
    return (network.eval()(test_images).argmax(1) == test_labels).float().mean().item()


model = nn.Sequential(
    *(nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2)),
    *(nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(512, 10)),
)
optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
fit(model, 10)

communities = natsel.discover(model.eval(), (images[:2],))
calibration = [(images[i : i + 64], labels[i : i + 64]) for i in range(0, 512, 64)]
scores = natsel.score(communities, "taylor", data=calibration)
survivors = natsel.select(scores, natsel.MACs(0.5), scope="global")
print(natsel.preview(model, survivors).summary())
small = natsel.extract(model, survivors, optimizer=optimizer, compensate=calibration)
cut = accuracy(small)

fit(small.train(), 5)
dense, tuned = accuracy(model), accuracy(small)
print(f"trained {dense:.1%}, cut {cut:.1%}, fine-tuned {tuned:.1%}")

assert communities.price(survivors).macs <= 0.5 * communities.price().macs
assert tuned > dense - 0.02
