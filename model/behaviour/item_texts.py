"""What the sequential encoder reads of the items' texts: their vectors' principal components.

Shapes: N items, E text dimensions, X components, D width of item vectors.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from model.tokenizer.inputs import principal_axes

Floats = npt.NDArray[np.float32]


LEAST_DEVIATION = 1e-3
"""Of a component, beside the largest."""
BLOCK_ITEMS = 1 << 16
"""Read at once, in double precision."""


@dataclass(frozen=True)
class TextComponents:
    """Components of text vectors, half whitened [ours]: the strong ones stay stronger, but by the root of it."""

    mean_E: npt.NDArray[np.float64]
    axes_EX: npt.NDArray[np.float64]

    @classmethod
    def fit(cls, text_NE: Floats, dim: int) -> TextComponents:
        """At most `dim` components, of unit scale on average over these texts."""
        mean_E, axes_EX = principal_axes(text_NE, dim)
        deviation_X = cls(mean_E, axes_EX)(text_NE).std(axis=0, dtype=np.float64)
        # Where these texts hardly differ, later ones must not differ hugely.
        known_X = deviation_X > LEAST_DEVIATION * deviation_X.max(initial=0)
        axes_EX = axes_EX * np.divide(1, np.sqrt(deviation_X), out=np.zeros_like(deviation_X), where=known_X)
        scale = np.sqrt(np.square(cls(mean_E, axes_EX)(text_NE)).mean(dtype=np.float64))
        return cls(mean_E, axes_EX / max(scale, 1e-9))

    def __call__(self, text_NE: Floats) -> Floats:
        """[N,X]."""
        components_NX = np.empty((len(text_NE), self.axes_EX.shape[1]), np.float32)
        for low in range(0, len(text_NE), BLOCK_ITEMS):
            rows = slice(low, low + BLOCK_ITEMS)
            components_NX[rows] = (text_NE[rows] - self.mean_E) @ self.axes_EX
        return components_NX

    def projected(self, weight_DX: Floats) -> dict[str, np.ndarray]:
        """What gives a new item its vector: (text - text_mean_E) @ text_map_ED."""
        return {"text_mean_E": self.mean_E, "text_map_ED": self.axes_EX @ weight_DX.T}
