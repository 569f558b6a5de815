"""Settings that belong to one method alone: parts of `model.config.ModelConfig`, like which they are made."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from model.task_names import USER_TASKS, TaskName, default_user_mixture

STRICT = {"extra": "forbid"}


def require(config: Any, least: int, *names: str) -> None:
    """ValueError that names the settings below `least`."""
    wrong = [f"{name} = {getattr(config, name)}" for name in names if getattr(config, name) < least]
    if wrong:
        raise ValueError(f"{', '.join(wrong)}: must be at least {least}.")


@dataclass(frozen=True)
class TtdsConfig:
    """Method "ttds". Its towers are dual_autoencoders, whatever tokenizer.kind, by the tokenizer's other settings; they
    learn from a batch of theirs a step."""

    __pydantic_config__: ClassVar = STRICT
    epochs: int = 2
    """Of the first stage, while the index moves; finetune.epochs are those of the second, with frozen codes. Whenever
    codes move the model learns them anew, so the second is where it gets good."""
    second_stage: float = 1.0
    """Learning rate of the second stage, as a share of finetune.learning_rate."""
    renewals: int = 4
    """How often the catalogue is read and quantised anew, evenly spread over the first stage, so that codes rest in its
    last part. 0: the index of the start stays, and its towers learn nothing more."""
    hysteresis: float = 0.3
    """An item takes a new code only if that is nearer by more than this share of its squared distance to the old.
    Users' codes follow from the states and do not wait."""
    tower_share: float = 0.1
    """Learning rate of the towers while the index moves, as a share of tokenizer.learning_rate."""
    mixture: dict[TaskName, float] = field(default_factory=default_user_mixture)
    """Tasks with users' codes, beside those of finetune.mixture; empty: users have no part in it."""
    contrast_weight: float = 1.0
    """Of InfoNCE between the state of a code string and that of its text."""
    distance_weight: float = 1.0
    """Of the mean squared distance between the two."""
    strings: int = 64
    """Items, and as many users, in each micro-batch whose code strings are compared with their texts."""

    def __post_init__(self) -> None:
        require(self, 1, "epochs", "strings")
        require(self, 0, "second_stage", "renewals", "hysteresis", "contrast_weight", "distance_weight")
        require(self, 0, "tower_share")
        if self.hysteresis >= 1:
            raise ValueError(f"ttds.hysteresis = {self.hysteresis} lets no item move: it must be below 1.")
        if others := sorted(set(self.mixture) - set(USER_TASKS)):
            raise ValueError(f"ttds.mixture: {', '.join(others)} belong into finetune.mixture.")


@dataclass(frozen=True)
class RsllmConfig:
    """Method "rsllm": titles and ID tokens that are read as the teacher's item vectors."""

    __pydantic_config__: ClassVar = STRICT
    title_tokens: int = 10
    """Of an item in a prompt, at most."""
    prompts: Literal["unified", "titles", "ids"] = "unified"
    """What prompts hold of an item: its title and its ID token, or one of them alone."""
    text_share: float = 0.2
    """Of the steps, the first ones, in which ID tokens are a word like any other: the stage of the text alone. Prompts
    of IDs alone say nothing in it and skip it, and the curriculum too."""
    curriculum: float = 0.2
    """Of the steps, those behind them, over which ever more examples have their items' vectors; 0: all at once."""
    text_weight: float = 1.0
    """Of the language modelling loss."""
    choice_weight: float = 1.0
    """Of choosing among candidates; it needs choice_share."""
    choice_share: float = 0.0
    """Examples of a choice among 20 candidates per window of a micro-batch. Ranking needs none."""
    id_text_weight: float = 0.1
    """Of InfoNCE between an item's vector and its text's."""
    user_item_weight: float = 0.1
    """Of InfoNCE between a user's state and the next item's vector: ranking is learned by it."""
    temperature: float = 0.07
    """Of both."""
    negatives: int = 20_000
    """Items drawn for each micro-batch that states are compared with, beside the targets of all processes."""

    def __post_init__(self) -> None:
        require(self, 1, "title_tokens", "negatives")
        require(self, 0, "text_share", "curriculum", "text_weight", "choice_weight", "choice_share")
        require(self, 0, "id_text_weight", "user_item_weight")
        if self.temperature <= 0:
            raise ValueError(f"rsllm.temperature = {self.temperature}: must be above 0.")
        if self.text_share == 1:
            raise ValueError("rsllm.text_share = 1 leaves no step in which vectors are read: it must be below 1.")
        if self.text_share + self.curriculum > 1:
            raise ValueError(
                f"rsllm.text_share {self.text_share} and rsllm.curriculum {self.curriculum} are shares of the same "
                "steps: together at most 1."
            )

    @property
    def stages(self) -> tuple[float, float]:
        """Shares of the steps: those of the text alone, and those of the curriculum behind them."""
        return (0.0, 0.0) if self.prompts == "ids" else (self.text_share, self.curriculum)
