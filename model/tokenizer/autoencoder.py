"""The quantising autoencoder: codes that let a decoder rebuild the item's vector, and whose sum lies close to its text;
and the training of any residual autoencoder.

[paper] Semantic Convergence, stage 1: reconstruction, residual quantisation, alignment to the language model's space;
codebooks start from clusters. [ours] The alignment's form (InfoNCE between images of the quantised vector and of the
text vector), the stop by repaired codes.

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

from model.config import TokenizerConfig
from model.progress import Progress
from model.tokenizer.assignment import assign_codes
from model.tokenizer.dual import DualAutoencoder
from model.tokenizer.quantizer import Floats, reconstruct, train_centroids
from model.tokenizer.residual import ResidualAutoencoder, info_nce, perceptron

CHECKED_ITEMS = 50_000
"""Of larger catalogues so many items say how good the repaired codes are."""


class Autoencoder(ResidualAutoencoder):
    def __init__(self, input_P: int, text_E: int, config: TokenizerConfig) -> None:
        super().__init__(config)
        hidden, latent = config.hidden_dim, config.latent_dim
        self.encoder, self.decoder = perceptron(input_P, hidden, latent), perceptron(latent, hidden, input_P)
        self.of_codes, self.of_text = nn.Linear(latent, latent), nn.Linear(text_E, latent)

    def latent(self, x_BP: Tensor) -> Tensor:
        z_BZ: Tensor = self.encoder(x_BP)
        return z_BZ

    def decoded(self, z_BZ: Tensor) -> Tensor:
        x_BP: Tensor = self.decoder(z_BZ)
        return x_BP

    def losses(self, x_BP: Tensor, text_BE: Tensor, *, quantised: bool) -> tuple[dict[str, Tensor], list[Tensor]]:
        """Mean reconstruction, quantisation and alignment losses, and each level's codes [B] if it quantises."""
        z_BZ = self.latent(x_BP)
        sum_BZ, quantisation, codes = self.quantise(z_BZ) if quantised else (z_BZ, z_BZ.new_zeros(()), [])
        return {
            "reconstruction": (x_BP - self.decoded(sum_BZ)).square().sum(1).mean(),
            "quantisation": quantisation,
            "alignment": self.alignment(sum_BZ, text_BE),
        }, codes

    def weighted(self, losses: dict[str, Tensor]) -> Tensor:
        return losses["reconstruction"] + losses["quantisation"] + self.config.alignment_weight * losses["alignment"]

    def alignment(self, sum_BZ: Tensor, text_BE: Tensor) -> Tensor:
        """InfoNCE, nats: each quantised vector has to find its text among the batch's, and each text its vector."""
        return info_nce(self.of_codes(sum_BZ), self.of_text(text_BE), self.config.temperature)

    @torch.no_grad()
    def published_loss(self, x_NP: Floats, sum_NZ: Floats, text_NE: Tensor) -> float:
        """Mean reconstruction and weighted alignment."""
        loss = float(((x_NP - self.decode(sum_NZ)) ** 2).sum(1).mean())
        sums = torch.as_tensor(sum_NZ, dtype=torch.float32, device=text_NE.device).split(self.config.batch_size)
        pairs = zip(sums, text_NE.split(self.config.batch_size), strict=True)
        aligned = [self.alignment(*pair).item() * len(pair[0]) for pair in pairs]
        return loss + self.config.alignment_weight * sum(aligned) / len(x_NP)


def train_autoencoder(x_NP: Floats, text_NE: np.ndarray, config: TokenizerConfig) -> ResidualAutoencoder:
    """Train on the items in their order; the same for the same rows on any number of cores. GPU if there is one.

    Returns the autoencoder of the best check (the loss of its repaired codes). A first fifth of the epochs runs without
    codes; then each level starts from clusters. ValueError when no check would be reached, or the loss is no number.
    """
    warmup = max(1, config.epochs // 5)
    if warmup + config.check_every > config.epochs:
        raise ValueError(
            f"tokenizer.epochs = {config.epochs} ends before the first check: raise it, or lower tokenizer.check_every."
        )
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    with _seeded(config.seed):
        model = _untrained(x_NP.shape[1], text_NE.shape[1], config).to(device)
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


def restored(tensors: dict[str, np.ndarray], config: TokenizerConfig) -> ResidualAutoencoder:
    """The autoencoder back from its `state_dict`."""
    model: ResidualAutoencoder
    if config.kind == "dual_autoencoder":
        model = DualAutoencoder(*DualAutoencoder.widths(tensors), config)
    else:
        model = Autoencoder(tensors["encoder.0.weight"].shape[1], tensors["of_text.weight"].shape[1], config)
    model.load_state_dict({name: torch.from_numpy(values) for name, values in tensors.items()})
    return model


def train_step(
    model: ResidualAutoencoder,
    optimizer: torch.optim.Optimizer,
    x: Tensor,
    text: Tensor,
    rows: Tensor,
    *,
    quantised: bool,
) -> tuple[dict[str, float], list[Tensor]]:
    """One step on the rows [B] of inputs [N,P] and texts [N,E]. Depends on these and torch's global generator alone.

    Returns the batch's mean terms and their weighted sum, "loss"; and each level's codes [B] if it quantises.
    ValueError when the loss is no number.
    """
    losses, codes = model.losses(x[rows], text[rows], quantised=quantised)
    loss = model.weighted(losses)
    terms = {name: term.item() for name, term in losses.items()} | {"loss": loss.item()}
    if not math.isfinite(terms["loss"]):
        raise ValueError("The tokenizer's loss is no number. Lower tokenizer.learning_rate.")
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return terms, codes


def _untrained(input_P: int, text_E: int, config: TokenizerConfig) -> ResidualAutoencoder:
    if config.kind == "dual_autoencoder":
        # The text view is all of the text, only rotated: what else there is, is behaviour.
        return DualAutoencoder(input_P - text_E, text_E, config)
    return Autoencoder(input_P, text_E, config)


def _train_epoch(
    model: ResidualAutoencoder, optimizer: torch.optim.Optimizer, x: Tensor, text: Tensor, *, quantised: bool
) -> float:
    used_LK = torch.zeros(model.codes_LKZ.shape[:2], dtype=torch.long)
    total = 0.0
    for rows_B in torch.randperm(len(x)).to(x.device).split(model.config.batch_size):
        terms, codes = train_step(model, optimizer, x, text, rows_B, quantised=quantised)
        total += terms["loss"] * len(rows_B)
        for level, code_B in enumerate(codes):
            used_LK[level] += torch.bincount(code_B.cpu(), minlength=used_LK.shape[1])
    if quantised:
        model.revive(x, used_LK == 0)
    return total / len(x)


def _repaired_loss(model: ResidualAutoencoder, x_NP: Floats, text: Tensor) -> float:
    """The loss of the codes as they would be published, without collisions."""
    config, x_NP = model.config, x_NP[:CHECKED_ITEMS]
    centroids_LKZ = model.codes_LKZ.detach().cpu().numpy().astype(np.float64)
    none_taken = np.empty((0, config.levels), np.int64)
    codes_NL = assign_codes(model.encode(x_NP), centroids_LKZ, none_taken, config.candidates)
    return model.published_loss(x_NP, reconstruct(codes_NL, centroids_LKZ), text[: len(x_NP)])


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
