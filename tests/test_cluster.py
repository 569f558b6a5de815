"""The steps on a real cluster, Spark's standalone master with two workers, make the rows that local[2] made."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pyspark
import pytest

from tests.shop import CHAIN, REPO, Shop, Step

SPARK_HOME = Path(pyspark.__file__).parent
ON_A_CLUSTER = ("build_user_histories", "recommend")
"""One that is Spark alone, and one whose work is done by Python workers with our code and a model."""


ONE_CORE = "--conf spark.executor.cores=1"
DYNAMIC = (
    f"{ONE_CORE} --conf spark.executor.memory=512m --conf spark.dynamicAllocation.enabled=true "
    "--conf spark.dynamicAllocation.shuffleTracking.enabled=true"
)
"""Two executors fit a worker: one without the GPU, one with it."""


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _wait_for(log: Path, pattern: str) -> None:
    deadline = time.monotonic() + 60
    while not (log.exists() and re.search(pattern, log.read_text())):
        assert time.monotonic() < deadline, f"{pattern!r} is not in {log}"
        time.sleep(0.1)


def _with_a_gpu(folder: Path) -> str:
    """Workers believe this script that they have a GPU; the model runs on the CPU all the same."""
    script = folder / "gpus.sh"
    script.write_text("""echo '{"name": "gpu", "addresses": ["0"]}'\n""")
    script.chmod(0o700)
    return f"-Dspark.worker.resource.gpu.amount=1 -Dspark.worker.resource.gpu.discoveryScript={script}"


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cluster")


@pytest.fixture(scope="module")
def master(logs: Path) -> Iterator[str]:
    """A standalone master with two workers of two cores and a GPU each, all from the pyspark package."""
    port = _free_port()
    uri = f"spark://127.0.0.1:{port}"
    deploy = "org.apache.spark.deploy"
    env = os.environ | {
        "SPARK_LOCAL_IP": "127.0.0.1",
        "SPARK_WORKER_DIR": str(logs / "work"),
        "SPARK_DAEMON_MEMORY": "256m",
        "PYSPARK_PYTHON": sys.executable,
    }
    env["SPARK_WORKER_OPTS"] = _with_a_gpu(logs)
    commands = {
        "master": [f"{deploy}.master.Master", "--host", "127.0.0.1", "--port", f"{port}", "--webui-port", "0"],
        **{
            f"worker-{n}": [f"{deploy}.worker.Worker", "--cores", "2", "--memory", "1g", "--webui-port", "0", uri]
            for n in (1, 2)
        },
    }
    processes = []
    try:
        for name, arguments in commands.items():
            log = logs / f"{name}.log"
            with log.open("w") as output:
                command = [str(SPARK_HOME / "bin" / "spark-class"), *arguments]
                processes.append(subprocess.Popen(command, env=env, stdout=output, stderr=subprocess.STDOUT))
            _wait_for(log, "I have been elected leader" if name == "master" else "Successfully registered with master")
        yield uri
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.wait(timeout=20)


def on(master: str, submit: str = ONE_CORE, **more: str) -> dict[str, str]:
    return os.environ | {
        "PYSPARK_SUBMIT_ARGS": f"{submit} pyspark-shell",
        "PRECOG_SPARK__MASTER": master,
        "SPARK_LOCAL_IP": "127.0.0.1",
        "PYSPARK_PYTHON": sys.executable,
        "PYTHONPATH": str(REPO),  # on a real cluster: the wheel, by --py-files
        **more,
    }


@pytest.mark.slow
def test_two_executors_train_the_model_that_one_process_trained(shop: Shop, master: str) -> None:
    """The shop's settings: two shards, two micro-batches a step. Here each executor has one of them."""
    step = next(step for step in CHAIN if step.label == "finetune all")
    before = shop.newest(step.writes)
    more = {
        "PRECOG_TRAINING__ON_EXECUTORS": "true",
        "PRECOG_TRAINING__PROCESSES": "2",
        "PRECOG_MODEL__FINETUNE__ACCUMULATION": "1",
        "OMP_NUM_THREADS": "1",
    }
    done = subprocess.run(
        step.command(shop.settings_file), cwd=REPO, env=on(master, **more), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    after = shop.newest(step.writes)
    assert after.attempt > before.attempt
    assert after.manifest.metrics["steps"] == before.manifest.metrics["steps"]
    for task, losses in before.manifest.metrics["loss"].items():
        assert after.manifest.metrics["loss"][task] == pytest.approx(losses, abs=1e-4), task


@pytest.mark.slow
@pytest.mark.parametrize("step", [step for step in CHAIN if step.name in ON_A_CLUSTER], ids=lambda step: step.name)
def test_a_cluster_gives_the_same_rows(shop: Shop, master: str, logs: Path, step: Step) -> None:
    """Its executors have no GPU, until the stage that ranks users asks for some."""
    before = shop.newest(step.writes)
    env = on(master, DYNAMIC, PRECOG_INFERENCE__GPUS_PER_TASK="1")
    done = subprocess.run(
        step.command(shop.settings_file), cwd=REPO, env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    after = shop.newest(step.writes)
    assert after.attempt > before.attempt
    assert after.manifest.checksums == before.manifest.checksums
    assert after.manifest.counts == before.manifest.counts
    asked = "gpu -> name: gpu, amount: 1" in (logs / "master.log").read_text()
    assert asked == (step.name == "recommend")
