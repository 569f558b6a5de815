"""The quantising autoencoder: codes that let a decoder rebuild the item's vector, and whose sum lies close to its text.

[paper] Semantic Convergence, stage 1: reconstruction, residual quantisation, alignment to the language model's space;
codebooks start from clusters. [code] The last level is balanced by Sinkhorn. [ours] The alignment's form (InfoNCE
between images of the quantised vector and of the text vector), the revival of unused codes, the stop by repaired codes.

Shapes: N items, B items of a batch, P input dimensions, E text dimensions, Z latent dimensions, L levels, K codes of a
level.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from model.config import TokenizerConfig
from model.progress import Progress
from model.tokenizer.assignment import assign_codes
from model.tokenizer.quantizer import Floats, reconstruct, train_centroids

CHECKED_ITEMS = 50_000
"""Of larger catalogues so many items say how good the repaired codes are."""


class Autoencoder(nn.Module):
    """Encoder, decoder and codebooks. Outside of training it computes in float64."""

    def __init__(self, input_P: int, text_E: int, config: TokenizerConfig) -> None:
        super().__init__()
        hidden, latent = config.hidden_dim, config.latent_dim
        self.encoder = nn.Sequential(nn.Linear(input_P, hidden), nn.GELU(), nn.Linear(hidden, latent))
        self.decoder = nn.Sequential(nn.Linear(latent, hidden), nn.GELU(), nn.Linear(hidden, input_P))
        self.of_codes, self.of_text = nn.Linear(latent, latent), nn.Linear(text_E, latent)
        self.codes_LKZ = nn.Parameter(torch.zeros(config.levels, config.codes_per_level, latent))
        self.config = config

    def losses(self, x_BP: Tensor, text_BE: Tensor, *, quantised: bool) -> tuple[dict[str, Tensor], list[Tensor]]:
        """Mean reconstruction, quantisation and alignment losses, and each level's codes [B] if it quantises."""
        z_BZ = self.encoder(x_BP)
        codes, quantisation, sum_BZ = [], z_BZ.new_zeros(()), z_BZ
        if quantised:
            residual_BZ, sum_BZ = z_BZ, torch.zeros_like(z_BZ)
            for level, code_KZ in enumerate(self.codes_LKZ):
                code_B = self._choose(residual_BZ.detach(), code_KZ.detach(), balanced=level == len(self.codes_LKZ) - 1)
                chosen_BZ = code_KZ[code_B]
                to_code = (residual_BZ.detach() - chosen_BZ).square().sum(1).mean()
                commitment = (residual_BZ - chosen_BZ.detach()).square().sum(1).mean()
                quantisation = quantisation + to_code + self.config.commitment * commitment
                residual_BZ, sum_BZ = residual_BZ - chosen_BZ, sum_BZ + chosen_BZ
                codes.append(code_B)
            sum_BZ = z_BZ + (sum_BZ - z_BZ).detach()  # straight through
        return {
            "reconstruction": (x_BP - self.decoder(sum_BZ)).square().sum(1).mean(),
            "quantisation": quantisation,
            "alignment": self.alignment(sum_BZ, text_BE),
        }, codes

    def alignment(self, sum_BZ: Tensor, text_BE: Tensor) -> Tensor:
        """InfoNCE, nats: each quantised vector has to find its text among the batch's, and each text its vector."""
        a_BZ, b_BZ = F.normalize(self.of_codes(sum_BZ)), F.normalize(self.of_text(text_BE))
        similar_BB = a_BZ @ b_BZ.T / self.config.temperature
        labels_B = torch.arange(len(similar_BB), device=similar_BB.device)
        return (F.cross_entropy(similar_BB, labels_B) + F.cross_entropy(similar_BB.T, labels_B)) / 2

    def _choose(self, residual_BZ: Tensor, code_KZ: Tensor, *, balanced: bool) -> Tensor:
        distance_BK = torch.cdist(residual_BZ, code_KZ).square()
        return _sinkhorn(distance_BK, self.config) if balanced else distance_BK.argmin(1)

    @torch.no_grad()
    def encode(self, x_NP: Floats) -> Floats:
        """[N,Z]."""
        return _in_float64(self.encoder, x_NP)

    @torch.no_grad()
    def decode(self, z_NZ: Floats) -> Floats:
        """[N,P]: what quantised vectors stand for."""
        return _in_float64(self.decoder, z_NZ)


def train_autoencoder(x_NP: Floats, text_NE: np.ndarray, config: TokenizerConfig) -> Autoencoder:
    """Train on the items in their order; the same for the same rows on any number of cores. GPU if there is one.

    Returns the autoencoder of the best check (reconstruction and weighted alignment of the repaired codes). A first
    fifth of the epochs runs without codes; then each level starts from clusters. ValueError when no check would be
    reached, or the loss is no number.
    """
    warmup = max(1, config.epochs // 5)
    if warmup + config.check_every > config.epochs:
        raise ValueError(
            f"tokenizer.epochs = {config.epochs} ends before the first check: raise it, or lower tokenizer.check_every."
        )
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    with _seeded(config.seed):
        model = Autoencoder(x_NP.shape[1], text_NE.shape[1], config).to(device)
        x, text = (torch.as_tensor(np.asarray(rows, np.float32), device=device) for rows in (x_NP, text_NE))
        optimizer = torch.optim.AdamW(model.parameters(), lr=config.learning_rate)
        best, checks = model, []
        progress = Progress("train tokenizer", config.epochs)
        for epoch in range(config.epochs):
            if epoch == warmup:
                start = train_centroids(model.encode(x_NP), config)
                model.codes_LKZ.data = torch.as_tensor(start, dtype=torch.float32, device=device)
            loss = _train_epoch(model, optimizer, x, text, quantised=epoch >= warmup)
            progress.advance(note=f"loss {loss:.4f}")
            if epoch >= warmup and (epoch - warmup) % config.check_every == config.check_every - 1:
                checks.append(_repaired_loss(model, x_NP, text))
                if checks[-1] == min(checks):
                    best = copy.deepcopy(model)
                if len(checks) - 1 - int(np.argmin(checks)) >= config.patience:
                    break
        progress.close()
    return best.cpu()


def restored(tensors: dict[str, np.ndarray], config: TokenizerConfig) -> Autoencoder:
    """The autoencoder back from its `state_dict`."""
    model = Autoencoder(tensors["encoder.0.weight"].shape[1], tensors["of_text.weight"].shape[1], config)
    model.load_state_dict({name: torch.from_numpy(values) for name, values in tensors.items()})
    return model


def _train_epoch(
    model: Autoencoder, optimizer: torch.optim.Optimizer, x: Tensor, text: Tensor, *, quantised: bool
) -> float:
    config = model.config
    used_LK = torch.zeros(model.codes_LKZ.shape[:2], dtype=torch.long)
    total = 0.0
    for rows_B in torch.randperm(len(x)).to(x.device).split(config.batch_size):
        losses, codes = model.losses(x[rows_B], text[rows_B], quantised=quantised)
        loss = losses["reconstruction"] + losses["quantisation"] + config.alignment_weight * losses["alignment"]
        if not math.isfinite(loss.item()):
            raise ValueError("The tokenizer's loss is no number. Lower tokenizer.learning_rate.")
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        total += loss.item() * len(rows_B)
        for level, code_B in enumerate(codes):
            used_LK[level] += torch.bincount(code_B.cpu(), minlength=used_LK.shape[1])
    if quantised:
        _revive(model, x, used_LK == 0)
    return total / len(x)


@torch.no_grad()
def _revive(model: Autoencoder, x: Tensor, dead_LK: Tensor) -> None:
    """Put each level's unused codes where items are: on what the levels before leave of randomly drawn ones."""
    codes_LKZ = model.codes_LKZ
    rows = torch.randint(len(x), (dead_LK.shape[1],)).to(x.device)
    residual_KZ = model.encoder(x[rows])
    for level, dead_K in enumerate(dead_LK.to(x.device)):
        chosen_K = torch.cdist(residual_KZ, codes_LKZ[level]).argmin(1)
        left_KZ = residual_KZ - codes_LKZ[level, chosen_K]
        codes_LKZ[level, dead_K] = residual_KZ[dead_K]
        residual_KZ = left_KZ


@torch.no_grad()
def _repaired_loss(model: Autoencoder, x_NP: Floats, text: Tensor) -> float:
    """Reconstruction and weighted alignment of the codes as they would be published, without collisions."""
    config, x_NP = model.config, x_NP[:CHECKED_ITEMS]
    centroids_LKZ = model.codes_LKZ.detach().cpu().numpy().astype(np.float64)
    none_taken = np.empty((0, config.levels), np.int64)
    codes_NL = assign_codes(model.encode(x_NP), centroids_LKZ, none_taken, config.candidates)
    sum_NZ = reconstruct(codes_NL, centroids_LKZ)
    loss = float(((x_NP - model.decode(sum_NZ)) ** 2).sum(1).mean())
    batches = torch.as_tensor(sum_NZ, dtype=torch.float32, device=text.device).split(config.batch_size)
    texts = text[: len(x_NP)].split(config.batch_size)
    aligned = [model.alignment(*pair).item() * len(pair[0]) for pair in zip(batches, texts, strict=True)]
    return loss + config.alignment_weight * sum(aligned) / len(x_NP)


def _sinkhorn(distance_BK: Tensor, config: TokenizerConfig) -> Tensor:
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


def _in_float64(layers: nn.Module, rows: Floats) -> Floats:
    device = next(layers.parameters()).device
    result: Floats = (
        copy.deepcopy(layers).double()(torch.as_tensor(rows, dtype=torch.float64, device=device)).cpu().numpy()
    )
    return result


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """One thread and a generator of our own: sums do not depend on the cores, and nobody else's numbers change."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            yield
    finally:
        torch.set_num_threads(threads)
