"""Muon moves kernels by orthogonal steps, AdamW moves all other weights."""

import pytest
import torch

from model.network import CNN
from training import optimizer as module
from training.optimizer import Muon, build_optimizer, build_schedule, orthogonalise
from training.recipes import RECIPES


@pytest.mark.parametrize("shape", [(48, 432), (432, 48), (16, 16)])
def test_a_step_weighs_all_directions_alike(shape: tuple[int, int]) -> None:
    torch.manual_seed(1)
    matrix = torch.randn(shape) * torch.logspace(0, -2, shape[1])
    values = torch.linalg.svdvals(orthogonalise(matrix))
    assert 0.5 < values[: min(shape) // 2].min() <= values.max() < 1.3
    assert orthogonalise(torch.zeros(shape)).isfinite().all()


def test_without_a_momentum_it_is_adamw() -> None:
    ours, theirs = (torch.ones(3, 2, requires_grad=True) for _ in range(2))
    optimizers = Muon([ours], lr=0.1), torch.optim.AdamW([theirs], lr=0.1)
    for weight, optimizer in zip((ours, theirs), optimizers, strict=True):
        for _ in range(3):
            weight.square().sum().backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    assert torch.equal(ours, theirs)


@pytest.mark.parametrize("shape", [(64, 48, 3, 3), (64, 4, 3, 3)])
def test_a_step_is_as_long_as_that_of_adamw(shape: tuple[int, ...]) -> None:
    torch.manual_seed(1)
    lengths = []
    for options in ({"momentum": 0.95}, {}):
        kernel = torch.zeros(shape, requires_grad=True)
        group = {"params": [kernel], "weight_decay": 0.0, **options}
        optimizer = Muon([group], lr=1.0)
        for _ in range(20):
            kernel.grad = torch.randn_like(kernel)
            before = kernel.detach().clone()
            optimizer.step()
        lengths.append((kernel.detach() - before).square().mean().sqrt().item())
    assert 0.5 < lengths[0] / lengths[1] < 2


@pytest.mark.parametrize("fine_tuning", [False, True])
def test_every_weight_is_moved_and_kernels_by_muon(fine_tuning: bool) -> None:
    network = CNN(**RECIPES["fashion-mnist"].arguments())
    groups = build_optimizer(network, fine_tuning=fine_tuning).param_groups
    moved = [id(weight) for group in groups for weight in group["params"]]
    assert sorted(moved) == sorted(map(id, network.parameters()))
    assert [len(group["params"]) for group in groups] == [9, 2, 21]
    assert all(kernel.shape[2:] == (3, 3) for kernel in groups[0]["params"])
    assert ["momentum" in group for group in groups] == [not fine_tuning, False, False]


@pytest.mark.parametrize("fine_tuning", [False, True])
def test_the_learning_rate_rises_and_falls(fine_tuning: bool) -> None:
    optimizer = Muon([torch.ones(2, requires_grad=True)])
    schedule = build_schedule(optimizer, 100, fine_tuning=fine_tuning)
    rates = []
    for _ in range(100):
        rates.append(schedule.get_last_lr()[0])
        optimizer.step()
        if len(rates) < 100:
            schedule.step()
    peak = module.FINE_TUNING_RATE if fine_tuning else module.LEARNING_RATE
    assert max(rates) == pytest.approx(peak, rel=0.01)
    assert rates.index(max(rates)) == pytest.approx(100 * module.WARMUP_SHARE, abs=2)
    assert rates[-1] < rates[0] < peak / 10
