"""Residual k-means: level by level, a vector's nearest centroid is its code, and what is left goes to the next level.

[paper] the residual cascade of Semantic Convergence; k-means alone, without the autoencoder around it [ours]: on small
catalogues it is as good and far cheaper.

Shapes: N items, P input dimensions, L levels, K codes a level, W beam width, R rows.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt

from model.config import TokenizerConfig

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

CHUNK_CELLS = 1 << 22
"""Distances held at a time: 32 MiB."""


def train_centroids(x_NP: Floats, config: TokenizerConfig) -> Floats:
    """Centroids [L,K,P] by one k-means a level, the same for the same rows in the same order on any number of cores.

    Fewer items than codes give as many centroids as items; the other codes are zero vectors, which add nothing to a sum
    but can be given away like any code.
    """
    centroids_LKP = np.zeros((config.levels, config.codes_per_level, x_NP.shape[1]))
    residual_NP = x_NP
    for level, centroids_KP in enumerate(centroids_LKP):
        learned = _kmeans(residual_NP, min(config.codes_per_level, len(x_NP)), config, config.seed + level)
        centroids_KP[: len(learned)] = learned
        residual_NP = residual_NP - centroids_KP[nearest(residual_NP, centroids_KP)]
    return centroids_LKP


def nearest_codes(x_NP: Floats, centroids_LKP: Floats) -> Ints:
    """Codes [N,L], each level's nearest centroid of what the levels before left over. Items may share all codes."""
    codes_NL = np.empty((len(x_NP), len(centroids_LKP)), np.int64)
    residual_NP = x_NP
    for level, centroids_KP in enumerate(centroids_LKP):
        codes_NL[:, level] = nearest(residual_NP, centroids_KP)
        residual_NP = residual_NP - centroids_KP[codes_NL[:, level]]
    return codes_NL


def reconstruct(codes_NL: Ints, centroids_LKP: Floats) -> Floats:
    """The sum of the codes' centroids [N,P]. Codes may be prefixes: fewer levels than there are centroids."""
    x_NP = np.zeros((len(codes_NL), centroids_LKP.shape[2]))
    for level in range(codes_NL.shape[1]):
        x_NP += centroids_LKP[level, codes_NL[:, level]]
    return x_NP


def refitted(x_NP: Floats, codes_NL: Ints, centroids_LKP: Floats) -> Floats:
    """Centroids [L,K,P] that are, level by level, the means of what the levels before left of the rows with the code;
    a code that no row has stays where it is.
    """
    after_LKP, residual_NP = centroids_LKP.copy(), x_NP
    for centroids_KP, codes_N in zip(after_LKP, codes_NL.T, strict=True):
        count_K = np.bincount(codes_N, minlength=len(centroids_KP))
        sum_KP = np.zeros_like(centroids_KP)
        np.add.at(sum_KP, codes_N, residual_NP)
        used_K = count_K > 0
        centroids_KP[used_K] = sum_KP[used_K] / count_K[used_K, None]
        residual_NP = residual_NP - centroids_KP[codes_N]
    return after_LKP


def nearest(x_RP: Floats, centroids_KP: Floats) -> Ints:
    """Index [R] of each row's nearest centroid; the smaller index where two are equally near."""
    rows = max(1, CHUNK_CELLS // len(centroids_KP))
    chunks = [squared_distances(x_RP[low : low + rows], centroids_KP).argmin(1) for low in range(0, len(x_RP), rows)]
    return np.concatenate([np.empty(0, np.int64), *chunks])


def squared_distances(x_RP: Floats, centroids_KP: Floats) -> Floats:
    """Squared Euclidean distances [R,K]."""
    products_RK = x_RP @ centroids_KP.T
    return np.asarray((x_RP**2).sum(1)[:, None] - 2 * products_RK + (centroids_KP**2).sum(1))


def nearest_prefixes(x_RP: Floats, centroids_LKP: Floats, width: int) -> tuple[Ints, Floats]:
    """For each row the W near prefixes that a beam search over the given levels finds, nearest first, and how far.

    Returns prefixes [R,W,L] and squared distances [R,W], W = min(width, all prefixes). With that maximum it is exact.
    """
    levels, codes, _ = centroids_LKP.shape
    rows = max(1, CHUNK_CELLS // (codes * width))
    found = [_beam(x_RP[low : low + rows], centroids_LKP, width) for low in range(0, len(x_RP), rows)]
    beams = min(width, codes**levels)
    prefixes = [np.empty((0, beams, levels), np.int64), *(prefixes for prefixes, _ in found)]
    return np.concatenate(prefixes), np.concatenate([np.empty((0, beams)), *(distances for _, distances in found)])


def _beam(x_RP: Floats, centroids_LKP: Floats, width: int) -> tuple[Ints, Floats]:
    codes = centroids_LKP.shape[1]
    prefixes_RWL = np.empty((len(x_RP), 1, 0), np.int64)
    residual_RWP = x_RP[:, None, :]
    distances_RW = (residual_RWP**2).sum(-1)
    for centroids_KP in centroids_LKP:
        R, W, P = residual_RWP.shape
        flat_RX = squared_distances(residual_RWP.reshape(R * W, P), centroids_KP).reshape(R, W * codes)
        best_RW = np.argsort(flat_RX, axis=1, kind="stable")[:, :width]
        beam_RW, code_RW = np.divmod(best_RW, codes)
        distances_RW = np.take_along_axis(flat_RX, best_RW, 1)
        prefixes_RWL = np.concatenate([np.take_along_axis(prefixes_RWL, beam_RW[..., None], 1), code_RW[..., None]], -1)
        residual_RWP = np.take_along_axis(residual_RWP, beam_RW[..., None], 1) - centroids_KP[code_RW]
    return prefixes_RWL, distances_RW


def _kmeans(x_NP: Floats, clusters: int, config: TokenizerConfig, seed: int) -> Floats:
    import faiss  # noqa: PLC0415  (only training needs it)

    with _one_thread():
        kmeans = faiss.Kmeans(
            x_NP.shape[1], clusters, niter=config.kmeans_iterations, seed=seed, min_points_per_centroid=1
        )
        kmeans.train(np.ascontiguousarray(x_NP, np.float32))
    return np.asarray(kmeans.centroids, np.float64)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Sums in one order, so that the same data gives the same centroids whatever the number of cores."""
    import faiss  # noqa: PLC0415

    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)
