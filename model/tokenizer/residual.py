"""What quantising autoencoders share: a latent space, and levels of codes whose sum lies close to a latent vector.

[paper] Semantic Convergence, TTDS: the residual cascade. [code] The last level is balanced by Sinkhorn. [ours] The
revival of unused codes.

Shapes: N items, B items of a batch, P input dimensions, E text dimensions, Z latent dimensions, L levels, K codes of a
level.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from model.config import TokenizerConfig
from model.tokenizer.quantizer import Floats


class ResidualAutoencoder(nn.Module, ABC):
    """Codebooks between an encoder and a decoder, which are a subclass's. Outside of training it computes in
    float64.
    """

    def __init__(self, config: TokenizerConfig) -> None:
        super().__init__()
        self.codes_LKZ = nn.Parameter(torch.zeros(config.levels, config.codes_per_level, config.latent_dim))
        self.config = config

    @abstractmethod
    def latent(self, x_BP: Tensor) -> Tensor:
        """[B,Z]: what is quantised, without chance."""

    @abstractmethod
    def decoded(self, z_BZ: Tensor) -> Tensor:
        """[B,P]."""

    @abstractmethod
    def losses(self, x_BP: Tensor, text_BE: Tensor, *, quantised: bool) -> tuple[dict[str, Tensor], list[Tensor]]:
        """The batch's mean terms by name, and each level's codes [B] if it quantises."""

    @abstractmethod
    def weighted(self, losses: dict[str, Tensor]) -> Tensor:
        """What training lowers: the terms' sum by the config's weights."""

    @abstractmethod
    def published_loss(self, x_NP: Floats, sum_NZ: Floats, text_NE: Tensor) -> float:
        """How bad codes with these sums would be, were they published."""

    def quantise(self, z_BZ: Tensor) -> tuple[Tensor, Tensor, list[Tensor]]:
        """Sums of codes [B,Z] whose gradient goes straight through to `z_BZ`, the mean loss, each level's codes [B]."""
        codes, loss = [], z_BZ.new_zeros(())
        residual_BZ, sum_BZ = z_BZ, torch.zeros_like(z_BZ)
        for level, code_KZ in enumerate(self.codes_LKZ):
            code_B = self._choose(residual_BZ.detach(), code_KZ.detach(), balanced=level == len(self.codes_LKZ) - 1)
            chosen_BZ = code_KZ[code_B]
            to_code = (residual_BZ.detach() - chosen_BZ).square().sum(1).mean()
            commitment = (residual_BZ - chosen_BZ.detach()).square().sum(1).mean()
            loss = loss + to_code + self.config.commitment * commitment
            residual_BZ, sum_BZ = residual_BZ - chosen_BZ, sum_BZ + chosen_BZ
            codes.append(code_B)
        return z_BZ + (sum_BZ - z_BZ).detach(), loss, codes

    def _choose(self, residual_BZ: Tensor, code_KZ: Tensor, *, balanced: bool) -> Tensor:
        distance_BK = torch.cdist(residual_BZ, code_KZ).square()
        return sinkhorn(distance_BK, self.config) if balanced else distance_BK.argmin(1)

    @torch.no_grad()
    def revive(self, x_NP: Tensor, dead_LK: Tensor) -> None:
        """Put each level's unused codes where items are: on what the levels before leave of randomly drawn ones."""
        codes_LKZ = self.codes_LKZ
        rows = torch.randint(len(x_NP), (dead_LK.shape[1],)).to(x_NP.device)
        residual_KZ = self.latent(x_NP[rows])
        for level, dead_K in enumerate(dead_LK.to(x_NP.device)):
            chosen_K = torch.cdist(residual_KZ, codes_LKZ[level]).argmin(1)
            left_KZ = residual_KZ - codes_LKZ[level, chosen_K]
            codes_LKZ[level, dead_K] = residual_KZ[dead_K]
            residual_KZ = left_KZ

    @torch.no_grad()
    def encode(self, x_NP: Floats) -> Floats:
        """[N,Z]."""
        model, rows = self._in_float64(x_NP)
        return _floats(model.latent(rows))

    @torch.no_grad()
    def decode(self, z_NZ: Floats) -> Floats:
        """[N,P]: what quantised vectors stand for."""
        model, rows = self._in_float64(z_NZ)
        return _floats(model.decoded(rows))

    def _in_float64(self, rows: Floats) -> tuple[ResidualAutoencoder, Tensor]:
        rows_N = torch.as_tensor(rows, dtype=torch.float64, device=self.codes_LKZ.device)
        return self if self.codes_LKZ.dtype == torch.float64 else copy.deepcopy(self).double(), rows_N


def perceptron(width: int, hidden: int, out: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, out))


def info_nce(a_BZ: Tensor, b_BZ: Tensor, temperature: float) -> Tensor:
    """Nats: each `a` has to find its `b` among the batch's by cosine, and each `b` its `a`. Zero without rows."""
    if not len(a_BZ):
        return a_BZ.new_zeros(())
    similar_BB = F.normalize(a_BZ) @ F.normalize(b_BZ).T / temperature
    labels_B = torch.arange(len(similar_BB), device=similar_BB.device)
    return (F.cross_entropy(similar_BB, labels_B) + F.cross_entropy(similar_BB.T, labels_B)) / 2


def sinkhorn(distance_BK: Tensor, config: TokenizerConfig) -> Tensor:
    """Codes [B] by entropic optimal transport, which gives each code as many items. In float64: float32 underflows."""
    least, greatest = distance_BK.min(), distance_BK.max()
    # Costs in [0, 1]: what is multiplied below then stays within float64's exponents.
    cost_BK = ((distance_BK - least) / (greatest - least).clamp(min=1e-12)).double()
    kernel_BK = torch.exp(-cost_BK / config.sinkhorn_epsilon)
    item_B = kernel_BK.new_ones(len(kernel_BK))
    for _ in range(config.sinkhorn_iterations):
        code_K = 1 / (kernel_BK.T @ item_B)
        item_B = 1 / (kernel_BK @ code_K)
    return (kernel_BK * code_K).argmax(1)


def _floats(rows: Tensor) -> Floats:
    result: Floats = rows.cpu().numpy()
    return result
