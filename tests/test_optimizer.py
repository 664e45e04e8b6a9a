"""Muon moves kernels by orthogonal steps, and leaves all else to AdamW."""

import pytest
import torch

import train
from model.network import CNN
from training.optimizer import Muon, orthogonal


@pytest.mark.parametrize("shape", [(48, 432), (432, 48), (16, 16)])
def test_a_step_counts_all_directions_alike(shape: tuple[int, int]) -> None:
    torch.manual_seed(1)
    matrix = torch.randn(shape) * torch.logspace(0, -2, shape[1])
    values = torch.linalg.svdvals(orthogonal(matrix))
    assert 0.5 < values[: min(shape) // 2].min() <= values.max() < 1.3
    assert orthogonal(torch.zeros(shape)).isfinite().all()


def test_without_a_momentum_it_is_adamw() -> None:
    ours, theirs = (torch.ones(3, 2, requires_grad=True) for _ in range(2))
    optimizers = Muon([ours], lr=0.1), torch.optim.AdamW([theirs], lr=0.1)
    for weight, optimizer in zip((ours, theirs), optimizers, strict=True):
        for _ in range(3):
            weight.square().sum().backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    assert torch.equal(ours, theirs)


@pytest.mark.parametrize("shape", [(64, 48, 3, 3), (64, 4, 3, 3)])
def test_a_step_is_as_long_as_adamws(shape: tuple[int, ...]) -> None:
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


def test_every_weight_has_its_place() -> None:
    network = CNN(28)
    groups = train.parameters_of(network)
    placed = [id(weight) for group in groups for weight in group]
    assert sorted(placed) == sorted(map(id, network.parameters()))
    assert [len(group) for group in groups] == [9, 2, 21]
    assert all(kernel.shape[2:] == (3, 3) for kernel in groups[0])


@pytest.mark.parametrize("is_start", [False, True])
def test_kernels_move_by_muon_but_in_fine_tuning(is_start: bool) -> None:
    start = None
    if is_start:
        network = CNN(28)
        start = {"arguments": network.arguments, "state_dict": network.state_dict()}
    parts = train.build(1, 100, torch.device("cpu"), start)
    moved = ["momentum" in group for group in parts.optimizer.param_groups]
    assert moved == [not is_start, False, False]
