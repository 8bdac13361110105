"""A law of one's own: Gompertz growth, registered and used by its name.

Prints how far one step of the law is from many short ones, and how many populations each of two
laws drives extinct in the same training. A law is a pure function of masses and fitness.
"""

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn.functional import cross_entropy

import natsel
import natsel.dynamics


def gompertz(mass, fitness, dt, *, pressure=1.0, competition=None, generator=None):
    """dm/dt = -m log(m) (f - p), exactly for a fitness that is constant during dt."""
    return torch.exp(torch.log(mass) * torch.exp(-(fitness - pressure) * dt))


def velocity(mass, fitness, *, pressure=1.0, competition=None):
    return -mass * torch.log(mass) * (fitness - pressure)


law = natsel.dynamics.register(
    natsel.dynamics.Dynamic("gompertz", gompertz, "box", velocity, rate=0.02, pressure=0.8)
)


def evolve(dynamics):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 96), nn.ReLU(), nn.Linear(96, 10))
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    communities = natsel.discover(model, (images[:2],))
    evolution = natsel.Evolution(communities, dynamics=dynamics, optimizer=optimizer, rate=0.02)
    for _ in range(15):
        for batch in torch.randperm(len(images)).split(32):
            optimizer.zero_grad()
            cross_entropy(model(images[batch]), labels[batch]).backward()
            optimizer.step()
    natsel.extract(model, evolution.survivors())  # proven: it equals the masked network
    return 96 - evolution.num_alive


mass, fitness = torch.tensor([0.0, 0.2, 0.9, 1.0]), torch.tensor([2.0, 1.5, 0.3, 0.0])
many = mass
for _ in range(1000):
    many = law.step(many, fitness, 0.001)
error = (law.step(mass, fitness, 1.0) - many).abs().max().item()
print(f"one step and a thousand short ones differ by {error:.0e}")

digits = load_digits()
images = torch.tensor(digits.data, dtype=torch.float32) / 16
labels = torch.tensor(digits.target)
extinct = {name: evolve(name) for name in ("gompertz", "logistic")}
print(f"extinct of 96: {extinct}")

assert error < 1e-4
assert many[0] == 0  # who is extinct stays so
assert 0 < extinct["gompertz"] < 96
