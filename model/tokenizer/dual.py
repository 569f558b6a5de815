"""The dual-modality variational autoencoder: an item's text and its behaviour are two views of one latent vector.

[paper] TTDS words the parts: two views into one latent space, cross-reconstruction, KL, coarse (item level) and fine
(token level) alignment. [ours] Their form, below; the shared latent is the product of the views' posteriors and the
prior (Wu & Goodman 2018), so that an item may lack a view. A view of zeros is missing: nothing is learned about it.

Shapes: B items of a batch, N items, V = 2 views (behaviour, then text), P input dimensions (both views side by side),
W those of one view, Z latent dimensions, L levels, K codes of a level, E text dimensions.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from model.config import TokenizerConfig
from model.tokenizer.quantizer import Floats
from model.tokenizer.residual import ResidualAutoencoder, info_nce, perceptron

VIEWS = ("behaviour", "text")
LOG_VARIANCE = 8.0
"""A view's log-variances stay within this distance of 0: precisions have to stay finite."""
FIRST_LOG_VARIANCE = -6.0
"""Before training. Of variance 1 the noise hides what the means say, and training ends with means that say nothing."""


class DualAutoencoder(ResidualAutoencoder):
    """An encoder and a decoder for each view. In training mode decoders read latent vectors with noise, by torch's
    global generator; in evaluation mode without.
    """

    def __init__(self, behaviour_P: int, text_Q: int, config: TokenizerConfig) -> None:
        super().__init__(config)
        hidden, latent = config.hidden_dim, config.latent_dim
        self.view_widths = [behaviour_P, text_Q]
        of_views = dict(zip(VIEWS, self.view_widths, strict=True))
        encoders = {view: perceptron(W, hidden, 2 * latent) for view, W in of_views.items()}
        for encoder in encoders.values():
            last = encoder[-1]
            assert isinstance(last, nn.Linear)
            nn.init.constant_(last.bias[latent:], FIRST_LOG_VARIANCE)
        self.encoders = nn.ModuleDict(encoders)
        self.decoders = nn.ModuleDict({view: perceptron(latent, hidden, W) for view, W in of_views.items()})

    @staticmethod
    def widths(tensors: dict[str, np.ndarray]) -> tuple[int, int]:
        """(behaviour_P, text_Q) of the model with this `state_dict`."""
        behaviour_P, text_Q = (tensors[f"encoders.{view}.0.weight"].shape[1] for view in VIEWS)
        return behaviour_P, text_Q

    def latent(self, x_BP: Tensor) -> Tensor:
        """[B,Z]: the shared posterior's mean; without any view the prior's, zeros."""
        return product(*self.posteriors(x_BP))[0]

    def decoded(self, z_BZ: Tensor) -> Tensor:
        return torch.cat([decoder(z_BZ) for decoder in self.decoders.values()], 1)

    def posteriors(self, x_BP: Tensor) -> tuple[Tensor, Tensor]:
        """Means and precisions [V,B,Z] that the views alone give; a missing view's precision is 0."""
        views = x_BP.split(self.view_widths, 1)
        both_VBY = torch.stack([encoder(x_BW) for encoder, x_BW in zip(self.encoders.values(), views, strict=True)])
        mean_VBZ, raw_VBZ = both_VBY.chunk(2, -1)
        log_variance_VBZ = LOG_VARIANCE * torch.tanh(raw_VBZ / LOG_VARIANCE)
        return mean_VBZ, torch.exp(-log_variance_VBZ) * self.there(x_BP)[..., None]

    def there(self, x_BP: Tensor) -> Tensor:
        """Which views items have [V,B]."""
        return torch.stack([(x_BW != 0).any(1) for x_BW in x_BP.split(self.view_widths, 1)])

    def losses(self, x_BP: Tensor, text_BE: Tensor, *, quantised: bool) -> tuple[dict[str, Tensor], list[Tensor]]:
        """The mean terms, and each level's codes [B] if it quantises. `text_BE` is not read: the inputs have a view of
        it. Codes are chosen for the posterior's mean, as they will be when published; its noise goes to the decoders.
        Cross, coarse and fine are means over the items with both views, and 0 where there is none.
        """
        there_VB = self.there(x_BP)
        both_B = there_VB.all(0)
        mean_VBZ, precision_VBZ = self.posteriors(x_BP)
        mean_BZ, variance_BZ = product(mean_VBZ, precision_VBZ)
        of_view = [product(mean_VBZ[v : v + 1], precision_VBZ[v : v + 1]) for v in range(len(VIEWS))]
        nothing = mean_BZ.new_zeros(())
        sum_BZ, quantisation, codes = self.quantise(mean_BZ) if quantised else (mean_BZ, nothing, [])
        noisy_sum_BZ = self._noisy(sum_BZ, variance_BZ)
        of_behaviour_BZ, of_text_BZ = (of_one_BZ[both_B] for of_one_BZ, _ in of_view)
        errors_VB = self._errors(x_BP, noisy_sum_BZ, noisy_sum_BZ)
        noisy_behaviour_BZ, noisy_text_BZ = (self._noisy(*each) for each in of_view)
        crossed_VB = self._errors(x_BP, noisy_text_BZ, noisy_behaviour_BZ)
        return {
            "reconstruction": (errors_VB * there_VB).sum(0).mean(),
            "cross": _mean(crossed_VB.sum(0)[both_B]),
            "kl": divergence(mean_BZ, variance_BZ).mean(),
            "quantisation": quantisation,
            "coarse": info_nce(of_behaviour_BZ, of_text_BZ, self.config.temperature),
            "fine": self.fine(of_behaviour_BZ, of_text_BZ, [code_B[both_B] for code_B in codes]),
        }, codes

    def weighted(self, losses: dict[str, Tensor]) -> Tensor:
        config = self.config
        return (
            losses["reconstruction"]
            + losses["quantisation"]
            + config.cross_weight * losses["cross"]
            + config.kl_weight * losses["kl"]
            + config.coarse_weight * losses["coarse"]
            + config.fine_weight * losses["fine"]
        )

    def fine(self, a_BZ: Tensor, b_BZ: Tensor, codes: list[Tensor]) -> Tensor:
        """Nats: how badly the views' soft choices of a code predict each other; mean over items, levels and the two.

        A choice is the softmax of what is left of the view's latent vector after the item's codes [B] of the levels
        before, by squared distances over their mean at the level (residuals shrink from level to level) and the
        temperature. The codes stay where quantisation puts them, and each view follows the other as it is.
        """
        terms = [a_BZ.new_zeros(())]
        for code_B, code_KZ in zip(codes, self.codes_LKZ.detach(), strict=False):
            distances = [torch.cdist(rest_BZ, code_KZ).square() for rest_BZ in (a_BZ, b_BZ)]
            scale = self.config.temperature * torch.stack(distances).detach().mean().clamp(min=1e-12)
            log_a_BK, log_b_BK = (torch.log_softmax(-distance_BK / scale, 1) for distance_BK in distances)
            follow_B = -(log_a_BK.detach().exp() * log_b_BK + log_b_BK.detach().exp() * log_a_BK).sum(1) / 2
            terms.append(_mean(follow_B))
            a_BZ, b_BZ = a_BZ - code_KZ[code_B], b_BZ - code_KZ[code_B]
        return torch.stack(terms).sum() / max(1, len(codes))

    @torch.no_grad()
    def published_loss(self, x_NP: Floats, sum_NZ: Floats, text_NE: Tensor) -> float:
        """Mean reconstruction of the views that items have."""
        there_VN = self.there(torch.as_tensor(x_NP)).numpy()
        known_NP = np.repeat(there_VN.T, self.view_widths, axis=1)
        return float((((x_NP - self.decode(sum_NZ)) ** 2) * known_NP).sum(1).mean())

    def _noisy(self, mean_BZ: Tensor, variance_BZ: Tensor) -> Tensor:
        return mean_BZ + variance_BZ.sqrt() * torch.randn_like(mean_BZ) if self.training else mean_BZ

    def _errors(self, x_BP: Tensor, *z: Tensor) -> Tensor:
        """Squared errors [V,B] of the views, each decoded from its latent vectors [B,Z]."""
        views = zip(x_BP.split(self.view_widths, 1), self.decoders.values(), z, strict=True)
        return torch.stack([(x_BW - decoder(z_BZ)).square().sum(1) for x_BW, decoder, z_BZ in views])


def product(mean_VBZ: Tensor, precision_VBZ: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance [B,Z] of the product of the views' normal distributions and the prior's N(0, 1)."""
    precision_BZ = 1 + precision_VBZ.sum(0)
    return (mean_VBZ * precision_VBZ).sum(0) / precision_BZ, 1 / precision_BZ


def divergence(mean_BZ: Tensor, variance_BZ: Tensor) -> Tensor:
    """Kullback-Leibler divergence [B] of the posterior from the prior, nats."""
    return (mean_BZ.square() + variance_BZ - 1 - variance_BZ.log()).sum(1) / 2


def _mean(values_B: Tensor) -> Tensor:
    """0 of none."""
    return values_B.sum() / max(1, len(values_B))
