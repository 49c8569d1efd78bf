"""A linear reading of features: the plainest way to ask whether something can be told from them.

Stands beside the judge: `evaluate.py` reads the flames' colour with it, `evaluate_lora.py` a look. In: features (N, D) of
renders whose truth is known. Out: for other features, which of the values is true.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class LinearProbe:
    """A linear reading of features: which of some values is true."""

    values: tuple[str, ...]
    middle: Tensor
    spread: Tensor
    weight: Tensor  # (values, D)
    bias: Tensor

    @classmethod
    def learn(cls, features: Tensor, truths: Sequence[str], *, ridge: float = 1e-2) -> LinearProbe:
        """Logistic regression on features (N, D), each scaled to spread 1."""
        values = tuple(sorted(set(truths)))
        target = torch.tensor([values.index(truth) for truth in truths])
        middle, spread = features.mean(0), features.std(0) + 1e-4
        scaled = (features - middle) / spread
        weight = torch.zeros(len(values), features.shape[1], requires_grad=True)
        bias = torch.zeros(len(values), requires_grad=True)
        solver = torch.optim.LBFGS([weight, bias], max_iter=200, line_search_fn="strong_wolfe")

        def closure() -> Tensor:
            solver.zero_grad()
            loss = F.cross_entropy(scaled @ weight.T + bias, target) + ridge * weight.square().sum()
            loss.backward()
            return loss

        solver.step(closure)  # type: ignore[arg-type]
        return cls(values, middle, spread, weight.detach(), bias.detach())

    def read(self, features: Tensor) -> list[str]:
        logits = (features - self.middle) / self.spread @ self.weight.T + self.bias
        return [self.values[i] for i in logits.argmax(-1).tolist()]
