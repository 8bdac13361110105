"""Building under a budget: loops end, and nothing is put in memory before it is counted."""

import contextlib
import resource
import threading

import pytest
import torch
from torch import nn

from natsel.common.budget import allowed_elements, within


class Deep(nn.Module):
    def __init__(self, part):
        super().__init__()
        self.parts = nn.ModuleList([part() for _ in range(10**9)])


@pytest.mark.parametrize(
    ("build", "told"),
    [
        (lambda: Deep(lambda: nn.Linear(1, 1)), "290 parameter tensors"),
        (lambda: Deep(lambda: nn.ParameterList([torch.zeros(1)])), "parameter tensors"),
        (lambda: Deep(nn.Identity), "23,000 operations"),
        (lambda: Deep(lambda: torch.zeros(1)), "23,000 operations"),
        (lambda: nn.Linear(10**6, 10**6), "67,108,864 numbers"),
        (lambda: nn.Embedding(10**5, 10**5), "67,108,864 numbers"),
        (lambda: torch.arange(10**10), "67,108,864 numbers"),
        (lambda: torch.linspace(0, 1, 10**10).tolist(), "67,108,864 numbers"),
        (lambda: torch.eye(10**5), "67,108,864 numbers"),
        (lambda: torch.randperm(10**10), "67,108,864 numbers"),
        (lambda: torch.ones(10**5, 1) * torch.ones(10**5), "67,108,864 numbers"),
        (lambda: torch.ones(10**5)[:, None].expand(-1, 10**5).clone(), "67,108,864 numbers"),
        (lambda: [torch.zeros(10**6) for _ in range(10**9)], "67,108,864 numbers"),
        (lambda: torch.zeros(1).repeat(10**11), "67,108,864 numbers"),
    ],
)
def test_what_is_stopped(build, told):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with (
        pytest.raises(ValueError, match=f"^it is not followed: it takes more than .*{told}"),
        within("it", tensors=10, elements=100),
    ):
        build()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 600_000  # kilobytes


def test_no_except_on_the_way_keeps_it():
    def build():
        for _ in range(10**9):
            with contextlib.suppress(Exception):
                nn.Identity()

    with pytest.raises(ValueError, match="operations"), within("it", tensors=1, elements=1):
        build()


def test_what_is_built_is_what_it_would_be():
    def build():
        torch.manual_seed(0)
        return nn.TransformerEncoderLayer(8, 2, 16)

    with within("it", tensors=1, elements=1):
        made = build()
    for name, tensor in build().state_dict().items():
        assert torch.equal(made.state_dict()[name], tensor)


def test_what_takes_no_memory_is_free():
    with within("it", tensors=1, elements=1), torch.device("meta"):
        assert nn.Linear(10**7, 10**7).weight.numel() == 10**14
    with within("it", tensors=1, elements=1):
        assert torch.zeros(1).expand(10**12).numel() == 10**12


def test_afterwards_everything_is_as_before():
    original = nn.Module.__init__
    with pytest.raises(KeyError), within("it", tensors=1, elements=1):
        raise KeyError
    assert nn.Module.__init__ is original
    nn.ModuleList([nn.Linear(1, 1) for _ in range(300)])


def test_other_threads_are_not_counted():
    with within("it", tensors=1, elements=1):
        thread = threading.Thread(target=lambda: [nn.Linear(1, 1) for _ in range(300)])
        thread.start()
        thread.join()


def test_more_stored_allows_more():
    assert allowed_elements(0) == 2**26
    assert allowed_elements(10**9) == 10**11
