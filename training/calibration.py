"""Fit probabilities and the unknown threshold to pictures that were set aside.

>>> fit_threshold(unknown_score(logits), share=0.02)
"""

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from model.network import Calibration, calibration_offset

INITIAL_LOG_CURVE = -3.0  # from which calibration is fitted


def fit_calibration(logits: Tensor, labels: Tensor) -> Calibration:
    """Return the calibration with the least cross-entropy.

    It is fitted by logarithms, so that all its numbers are positive.
    """
    logs = torch.tensor([0.0, 0.0, INITIAL_LOG_CURVE], requires_grad=True)
    optimizer = torch.optim.LBFGS([logs], max_iter=500, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        numbers = logs.exp().unbind()
        calibrated = logits * numbers[0] + calibration_offset(logits, *numbers)
        loss = cross_entropy(calibrated, labels)
        loss.backward()
        return loss

    optimizer.step(closure)
    return Calibration(*logs.exp().tolist())


def fit_temperature(logits: Tensor, labels: Tensor) -> Calibration:
    """Return the temperature with the least cross-entropy, for few pictures.

    A share of each label goes to the other classes (Platt, 1999): the temperature stays
    finite where all pictures are answered right.
    """
    log_scale = torch.zeros((), requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [log_scale], max_iter=100, line_search_fn="strong_wolfe"
    )
    smoothing = 1 / (len(labels) + 2)

    def closure() -> Tensor:
        optimizer.zero_grad()
        scaled = logits * log_scale.exp()
        loss = cross_entropy(scaled, labels, label_smoothing=smoothing)
        loss.backward()
        return loss

    optimizer.step(closure)
    scale = log_scale.exp().item()
    return Calibration(scale, scale, 0.0)


def fit_threshold(scores: Tensor, share: float) -> float:
    """Return the unknown threshold that refuses this share of the pictures scored."""
    return scores.double().quantile(1 - share).item()
