"""The tokenizer of two views: each term by hand, missing views, and a codebook that is frozen like the others."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.distributions import Normal, kl_divergence

from model.tokenizer.autoencoder import train_step
from model.tokenizer.codebook import Codebook
from model.tokenizer.dual import DualAutoencoder, divergence, product
from model.tokenizer.quantizer import nearest_codes
from tests.model.tokenizer.conftest import BEHAVIOUR_DIM, IDS, ITEMS, NONE, TEXT_DIM, TRAINED

CONFIG = dataclasses.replace(TRAINED, kind="dual_autoencoder")
P, Q = BEHAVIOUR_DIM, TEXT_DIM
BOTH_TERMS = ("cross", "coarse", "fine")


@pytest.fixture(scope="module")
def codebook(grouped: tuple[np.ndarray, ...]) -> Codebook:
    return Codebook.train(CONFIG, IDS, *grouped)


@pytest.fixture
def model() -> DualAutoencoder:
    """In evaluation mode: without chance. Its codes lie where latent vectors do."""
    torch.manual_seed(0)
    made = DualAutoencoder(P, Q, CONFIG)
    torch.nn.init.normal_(made.codes_LKZ, std=0.1)
    return made.eval()


def terms(model: DualAutoencoder, x_BP: torch.Tensor, *, quantised: bool = True) -> dict[str, torch.Tensor]:
    return model.losses(x_BP, x_BP[:, P:], quantised=quantised)[0]


def test_the_product_of_experts_by_hand() -> None:
    mean_VBZ, precision_VBZ = torch.tensor([[[2.0]], [[-1.0]]]), torch.tensor([[[3.0]], [[0.0]]])
    mean_BZ, variance_BZ = product(mean_VBZ, precision_VBZ)
    assert (mean_BZ.item(), variance_BZ.item()) == (1.5, 0.25)  # 3 x 2 and the prior's 1 x 0, over 4
    precision_VBZ[1] = 4
    mean_BZ, variance_BZ = product(mean_VBZ, precision_VBZ)
    assert (mean_BZ.item(), variance_BZ.item()) == (0.25, 0.125)


def test_the_divergence_is_that_of_torch() -> None:
    torch.manual_seed(0)
    mean_BZ, variance_BZ = torch.randn(5, 4), torch.rand(5, 4) + 0.1
    theirs = kl_divergence(Normal(mean_BZ, variance_BZ.sqrt()), Normal(0.0, 1.0)).sum(1)
    torch.testing.assert_close(divergence(mean_BZ, variance_BZ), theirs)


def test_terms_by_hand(model: DualAutoencoder) -> None:
    x_BP = torch.randn(7, P + Q)
    behaviour_BP, text_BQ = x_BP.split([P, Q], 1)
    zeros_BP, zeros_BQ = torch.zeros(7, P), torch.zeros(7, Q)
    z_BZ = model.latent(x_BP)
    of_behaviour_BZ = model.latent(torch.cat([behaviour_BP, zeros_BQ], 1))
    of_text_BZ = model.latent(torch.cat([zeros_BP, text_BQ], 1))
    to_behaviour, to_text = model.decoders["behaviour"], model.decoders["text"]
    found, codes = model.losses(x_BP, text_BQ, quantised=True)

    sum_BZ = sum(code_KZ[code_B] for code_B, code_KZ in zip(codes, model.codes_LKZ, strict=True))
    rebuilt = ((x_BP - model.decoded(sum_BZ)) ** 2).sum(1).mean()
    torch.testing.assert_close(found["reconstruction"], rebuilt)
    crossed = (text_BQ - to_text(of_behaviour_BZ)) ** 2, (behaviour_BP - to_behaviour(of_text_BZ)) ** 2
    torch.testing.assert_close(found["cross"], sum(each.sum(1).mean() for each in crossed))

    cosine_BB = torch.cosine_similarity(of_behaviour_BZ[:, None], of_text_BZ[None], dim=2) / CONFIG.temperature
    nats = [-torch.log_softmax(cosine_BB, axis).diagonal().mean() for axis in (0, 1)]
    torch.testing.assert_close(found["coarse"], sum(nats) / 2)

    residual_BZ, quantisation = z_BZ, 0
    for code_B, code_KZ in zip(codes, model.codes_LKZ, strict=True):
        residual_BZ = residual_BZ - code_KZ[code_B]
        quantisation = quantisation + (1 + CONFIG.commitment) * (residual_BZ**2).sum(1).mean()
    torch.testing.assert_close(found["quantisation"], quantisation)


def test_fine_alignment_by_hand(model: DualAutoencoder) -> None:
    a_BZ, b_BZ, codes = torch.randn(1, 4), torch.randn(1, 4), [torch.tensor([3]), torch.tensor([5])]
    found, total = model.fine(a_BZ, b_BZ, codes), 0.0
    for level, code in enumerate((3, 5)):
        centres_KZ = model.codes_LKZ[level]
        far = [((rest_BZ - centres_KZ) ** 2).sum(1) for rest_BZ in (a_BZ, b_BZ)]
        scale = CONFIG.temperature * torch.cat(far).mean()
        p_K, q_K = (torch.softmax(-each / scale, 0) for each in far)
        total += -((p_K * q_K.log()).sum() + (q_K * p_K.log()).sum()) / 2 / 2
        a_BZ, b_BZ = a_BZ - centres_KZ[code], b_BZ - centres_KZ[code]
    torch.testing.assert_close(found, torch.as_tensor(total))
    assert model.fine(a_BZ, b_BZ, []) == 0


@pytest.mark.parametrize("missing", [slice(0, P), slice(P, P + Q)])
def test_what_lacks_a_view_says_nothing_of_both(model: DualAutoencoder, missing: slice) -> None:
    x_BP = torch.randn(6, P + Q)
    x_BP[4:, missing] = 0
    found, alone = terms(model, x_BP, quantised=False), terms(model, x_BP[:4], quantised=False)
    for name in BOTH_TERMS:
        torch.testing.assert_close(found[name], alone[name])
    lonely = terms(model, x_BP[4:])
    assert all(lonely[name] == 0 for name in BOTH_TERMS)
    lonely["reconstruction"].backward()
    absent, other = ("behaviour", "text") if missing.start == 0 else ("text", "behaviour")
    for layers in (model.encoders, model.decoders):
        assert not any(p.grad is not None and p.grad.any() for p in layers[absent].parameters())
        assert any(p.grad.any() for p in layers[other].parameters())


def test_an_item_without_any_view_is_the_prior(model: DualAutoencoder) -> None:
    nothing_BP = torch.zeros(3, P + Q)
    assert not model.latent(nothing_BP).any()
    found = terms(model, nothing_BP)
    assert found["kl"] == found["reconstruction"] == 0
    assert not model.encode(nothing_BP.numpy()).any()


def test_gradients_of_the_reconstruction_pass_through_the_codes(model: DualAutoencoder) -> None:
    terms(model, torch.randn(16, P + Q))["reconstruction"].backward()
    assert all(encoder[0].weight.grad.any() for encoder in model.encoders.values())
    assert model.codes_LKZ.grad is None or not model.codes_LKZ.grad.any()


def test_a_weight_of_0_removes_its_term(model: DualAutoencoder) -> None:
    losses = {name: torch.tensor(1.0) for name in ("reconstruction", "quantisation", "cross", "kl", "coarse", "fine")}
    weights = {f"{name}_weight": 0.5 for name in ("cross", "kl", "coarse", "fine")}
    for chosen in range(5):
        on = dict(list(weights.items())[:chosen])
        model.config = dataclasses.replace(CONFIG, **(dict.fromkeys(weights, 0.0) | on))
        assert model.weighted(losses) == 2 + 0.5 * chosen
    with pytest.raises(ValueError, match="kl_weight = -1"):
        dataclasses.replace(CONFIG, kl_weight=-1)


def test_a_step_depends_on_its_arguments_and_the_generator() -> None:
    torch.manual_seed(0)
    x, text = torch.randn(20, P + Q), torch.randn(20, Q)
    found = []
    for _ in range(2):
        torch.manual_seed(1)
        model = DualAutoencoder(P, Q, CONFIG)
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
        steps = [train_step(model, optimizer, x, text, torch.arange(9), quantised=on)[0] for on in (False, True)]
        found.append([steps, model.encoders["text"][0].weight.tolist()])
    assert found[0] == found[1]
    assert set(steps[0]) == {"reconstruction", "cross", "kl", "quantisation", "coarse", "fine", "loss"}
    assert steps[0]["quantisation"] == steps[0]["fine"] == 0 < steps[1]["fine"]


def test_items_and_codes_are_a_bijection_in_any_order(codebook: Codebook, grouped: tuple[np.ndarray, ...]) -> None:
    codes_NL = codebook.assign(IDS, codebook.inputs(*grouped), NONE)
    assert len(np.unique(codes_NL, axis=0)) == ITEMS
    order = np.random.default_rng(1).permutation(ITEMS)
    shuffled = [IDS[i] for i in order], *(each[order] for each in grouped)
    again = Codebook.train(CONFIG, *shuffled)
    np.testing.assert_array_equal(again.centroids_LKZ, codebook.centroids_LKZ)
    np.testing.assert_array_equal(again.assign(shuffled[0], again.inputs(*shuffled[1:]), NONE), codes_NL[order])


def test_codes_rebuild_both_views(codebook: Codebook, grouped: tuple[np.ndarray, ...]) -> None:
    text_NE, behaviour_ND, has_N = (each[grouped[2]] for each in grouped)
    x_NP = codebook.inputs(text_NE, behaviour_ND, has_N)
    codes_NL = nearest_codes(codebook.quantised(x_NP), codebook.centroids_LKZ)
    error_NP = (x_NP - codebook.rebuilt(codes_NL)) ** 2
    for view in (slice(0, P), slice(P, P + Q)):
        assert error_NP[:, view].sum() < 0.5 * x_NP[:, view].var(0).sum() * len(x_NP)


def test_a_cold_twin_shares_the_first_code(codebook: Codebook, grouped: tuple[np.ndarray, ...]) -> None:
    text_NE, behaviour_ND, has_N = (each[grouped[2]] for each in grouped)
    x_NP, cold_NP = (codebook.inputs(text_NE, behaviour_ND, has) for has in (has_N, ~has_N))
    assert not cold_NP[:, :P].any()
    first_N, cold_N = (nearest_codes(codebook.quantised(x), codebook.centroids_LKZ)[:, 0] for x in (x_NP, cold_NP))
    chance = (np.bincount(first_N, minlength=8) * np.bincount(cold_N, minlength=8)).sum() / len(first_N) ** 2
    assert (first_N == cold_N).mean() > 3 * chance


def test_a_saved_codebook_gives_the_same_codes(
    codebook: Codebook, grouped: tuple[np.ndarray, ...], tmp_path: Path
) -> None:
    codebook.save(str(tmp_path))
    loaded = Codebook.load(str(tmp_path))
    assert loaded.config == CONFIG
    for behaviour in (None, grouped[1][:9]):
        added = [each.append(IDS[:9], grouped[0][:9], NONE, behaviour) for each in (codebook, loaded)]
        np.testing.assert_array_equal(*added)
