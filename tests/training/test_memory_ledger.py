"""What the ledger counts, on real and on fake tensors."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from diffalign.training.memory_ledger import MemoryLedger


def test_a_storage_counts_once_and_until_it_is_freed():
    ledger = MemoryLedger()
    with ledger.watch():
        first = torch.zeros(1000)
        part = first[10:20].reshape(2, 5)
        second = first + 1
        assert ledger.now == {"activations": 8000}
        del first
        assert ledger.now == {"activations": 8000}, "a view holds the storage"
        del part, second
    assert ledger.now == {"activations": 0}
    assert ledger.peak == {"activations": 8000}
    ledger.mark()
    assert sum(ledger.peak.values()) == 0


def test_uses_are_told_apart_and_some_are_not_counted():
    ledger = MemoryLedger()
    weights, elsewhere = torch.zeros(10), torch.zeros(100)
    ledger.add([weights], "weights")
    ledger.add([elsewhere], None)
    with ledger.watch():
        total = (elsewhere[:10] + weights).double()
    assert ledger.now == {"weights": 40, "activations": 80}
    ledger.add([total], "kept")
    assert ledger.now == {"weights": 40, "activations": 0, "kept": 80}
    del elsewhere, weights
    assert ledger.now == {"weights": 0, "activations": 0, "kept": 80}


@pytest.mark.parametrize("fake", [False, True])
def test_gradients_become_such_and_the_graph_is_seen(fake):
    ledger = MemoryLedger()
    mode = FakeTensorMode() if fake else torch.enable_grad()
    with mode, ledger.watch():
        layer = nn.Linear(100, 100, bias=False)
        ledger.add(layer.parameters(), "weights")
        hooks = ledger.add_gradients(layer.parameters())
        x = torch.zeros(50, 100)
        loss = layer(x).square().sum()
        assert ledger.now["activations"] == 4 * (2 * 50 * 100 + 1), "x and what square keeps; its result is freed"
        loss.backward()
        assert ledger.now["gradients"] == ledger.now["weights"] == 40_000
    assert len(hooks) == 1
    assert sum(ledger.peak.values()) >= 120_000


def test_attention_keeps_no_matrix_of_tokens_by_tokens_on_fake_tensors():
    ledger = MemoryLedger()
    with FakeTensorMode(), ledger.watch():
        query = torch.zeros(1, 1, 4096, 64, requires_grad=True)
        nn.functional.scaled_dot_product_attention(query, query, query).sum().backward()
    assert sum(ledger.peak.values()) < 4 * 4096 * 4096 / 4
