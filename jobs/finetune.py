"""Fine-tune the language model on the alignment tasks, in the job itself or in processes that TorchDistributor starts.

Then learn, on the validation cases, how much each signal of the late fusion weighs.

Reads   training_set/<split>, codebook/<split>, behaviour/<split>
Writes  model/<split>: a Hugging Face folder, LoRA merged, with the code tokens in its vocabulary; in it fusion/, the
        weights and counts of the late fusion; while it trains, checkpoints/<split>, where a killed training goes on

    python -m jobs.finetune --ds 2016-10-16 --split all
"""

from __future__ import annotations

from jobs.common.artefacts import by_identity, commit_trained, descendant, method_of, newest, remove, store
from jobs.common.launch import launch
from jobs.common.rankers import FUSION, signal_inputs, vector_inputs
from jobs.common.settings import load_settings
from jobs.common.spark import open_spark
from jobs.common.step import Day, SettingsFile, SplitOption, run
from jobs.common.tracking import log_training, require_mlflow
from model.recommender.methods.base import LANGUAGE_MODEL, START


def main(ds: Day, split: SplitOption, settings_file: SettingsFile = None) -> None:
    settings = load_settings(settings_file)
    training_set = newest(settings, "training_set", split, ds.date(), "build_training_set")
    codebook = descendant(settings, "codebook", split, ds.date(), training_set, "train_tokenizer")
    if method_of(codebook) != settings.method:
        raise ValueError(
            f"{codebook.identity} was made for {method_of(codebook)}, but method = {settings.method}. "
            f"Run: python -m jobs.train_tokenizer --ds {ds.date()} --split {split}"
        )
    behaviour = by_identity(settings, codebook.manifest.parents["behaviour"])
    if "teacher" in settings.model.fusion.signals and behaviour.manifest.settings["behaviour"]["kind"] != "sasrec":
        raise ValueError(
            f"fusion.signals names teacher, but {behaviour.identity} knows no order: leave the signal out."
        )
    require_mlflow(settings)
    draft = store(settings, "model", split).begin()
    checkpoints = settings.store_uri("checkpoints", split)
    inputs = {"training_set": training_set.uri, "codebook": codebook.uri}
    if settings.method == "rsllm":
        inputs |= vector_inputs(behaviour)
    if settings.method == "ttds":  # the second stage: the model that the codes were made with goes on
        inputs[START] = codebook.path(LANGUAGE_MODEL)
    request = {
        "method": settings.method,
        "config": settings.model_json(),
        "inputs": inputs,
        "output": draft.uri,
        "checkpoints": checkpoints,
    }
    further = {}
    if settings.model.fusion.signals:
        known = inputs | {"model": draft.uri} | signal_inputs(training_set, behaviour)
        fitting = request | {"inputs": known, "output": draft.path(FUSION)}
        further["fusion"] = ("model.recommender.fusion:fit", fitting)
    with open_spark(settings, "finetune"):
        metrics = launch(settings.training, ("model.recommender.registry:train", request), further)
    parents = {"training_set": training_set, "codebook": codebook, "behaviour": behaviour}
    shapes = ("backbone", "finetune", "ttds", "rsllm", "fusion", "history_items", "window_items")
    speed = metrics.pop("speed")  # differs from run to run, so no manifest has it
    model = commit_trained(settings, draft, ds.date(), split, metrics, parents, shapes)
    log_training(settings, model.identity, metrics, speed)
    remove(checkpoints)


if __name__ == "__main__":
    run(main)
