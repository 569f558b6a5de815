"""Run a command, keep its whole output in a file, and show on the terminal which task runs and how far it is.

The command is one step, or `airflow dags test`, whose log says when its tasks start and end. Steps print lines that
begin with "progress " (model/progress.py); Airflow wraps them into its own lines, and they are found there.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.live import Live
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

TASK_STARTS = re.compile(r"\[DAG TEST\] starting task_id=(\S+)")
TASK_STATE = re.compile(r"\] Task instance state updated .* new_state=(\w+)")
TASK_SKIPPED = re.compile(r"\[DAG TEST\] Marking success for <Task\(\w+\): (\S+)>")
SUBMITTED = re.compile(r"\] Spark-Submit cmd: .*/jobs/(\w+)\.py (.*?)\s+\[airflow\.")
STEP_SAYS = re.compile(r"^\S+Z \[\w+\s*\] (.*?)\s*\[airflow\.task\.hooks\..*SparkSubmitHook\].*$")
PROGRESS = re.compile(r"^progress (.+)$")
SPARK_NOISE = re.compile(r"^\d\d/\d\d/\d\d [\d:]+ INFO |^\s*at (java|scala|org|py4j)\.|^$")

MARKS = {"success": "✓", "failed": "✗", "already done": "·"}
TAIL_LINES = 30
PLAIN_EVERY_SECONDS = 15.0
"""Without a terminal, a task's progress is printed at most so often."""


@dataclass
class Task:
    name: str
    state: str = "running"
    """running | success | failed | already done"""
    started: float = field(default_factory=time.monotonic)
    ended: float = 0.0
    note: str = ""
    """The step's last line of progress."""
    by_hand: str = ""
    """The command that runs this task alone."""

    @property
    def seconds(self) -> float:
        return (self.ended or time.monotonic()) - self.started

    def end(self, state: str) -> None:
        self.state, self.ended = state, time.monotonic()


class TaskLog:
    """What the lines of a log say so far: the tasks, and the last lines that a step printed itself."""

    def __init__(self, *tasks: Task) -> None:
        self.tasks = list(tasks)
        self._said: deque[str] = deque(maxlen=TAIL_LINES)
        self._all: deque[str] = deque(maxlen=TAIL_LINES)

    def read(self, line: str) -> None:
        self._all.append(line)
        if found := TASK_STARTS.search(line):
            self.tasks.append(Task(found[1]))
            self._said.clear()
        elif found := TASK_SKIPPED.search(line):
            self.tasks.append(Task(found[1]))
            self.tasks[-1].end("already done")
        elif not self.tasks:
            return
        elif found := SUBMITTED.search(line):
            self.tasks[-1].by_hand = f".venv/bin/python -m jobs.{found[1]} {found[2]}"
        elif found := TASK_STATE.search(line):
            self.tasks[-1].end(found[1])
        else:
            self._read_step(line)

    def _read_step(self, line: str) -> None:
        wrapped = STEP_SAYS.match(line)
        said = wrapped[1] if wrapped else line
        if found := PROGRESS.match(said):
            self.tasks[-1].note = found[1]
        elif (wrapped or self.tasks[-1].by_hand == "") and not SPARK_NOISE.search(said):
            self._said.append(said)

    def close(self, code: int) -> None:
        """The command ended: so did the task that was running."""
        for task in self.tasks:
            if task.state == "running":
                task.end("success" if code == 0 else "failed")

    def tail(self) -> list[str]:
        """The last lines that matter: the step's own, or the runner's where no step came to speak."""
        return list(self._said or self._all)


class View:
    """Shows the tasks: a live table on a terminal, else a line when something happens."""

    def __init__(self, console: Console, log: TaskLog) -> None:
        self._console, self._log = console, log
        self._printed: dict[str, tuple[str, float]] = {}  # task -> its state, and when its progress was printed last
        self._spinner = Spinner("dots")

    def table(self) -> Table:
        grid = Table.grid(padding=(0, 2))
        for task in self._log.tasks:
            mark = self._spinner if task.state == "running" else Text(MARKS.get(task.state, "?"))
            grid.add_row("  ", mark, task.name, Text(f"{task.seconds:5.0f} s", style="dim"), Text(task.note, "dim"))
        return grid

    def update(self) -> None:
        """Print what is new, where there is no terminal to show it live."""
        if self._console.is_terminal or not self._log.tasks:
            return
        task = self._log.tasks[-1]
        state, noted_at = self._printed.get(task.name, ("", -PLAIN_EVERY_SECONDS))
        now = time.monotonic()
        if task.state != state:
            self._line(task, "started" if task.state == "running" else task.state)
        elif task.state == "running" and task.note and now - noted_at >= PLAIN_EVERY_SECONDS:
            self._line(task, task.note)
            noted_at = now
        self._printed[task.name] = (task.state, noted_at)

    def _line(self, task: Task, text: str) -> None:
        self._console.print(f"  {task.name}  {task.seconds:.0f} s  {text}", markup=False, soft_wrap=True)


def run_watched(
    command: Sequence[str],
    env: Mapping[str, str],
    log_file: Path,
    log: TaskLog,
    console: Console,
    on_line: Callable[[], None] = lambda: None,
) -> int:
    """Run the command to its end and return its exit code. `on_line` is called after each line of its output.

    When we are interrupted, the command and all that it started are ended before the interruption goes on.
    """
    view = View(console, log)
    log_file.parent.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        file = stack.enter_context(log_file.open("w", encoding="utf-8", buffering=1))
        process = stack.enter_context(
            subprocess.Popen(  # noqa: S603  our own commands
                command,
                env=dict(env),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                start_new_session=True,
            )
        )
        stack.callback(_end_group, process)
        if console.is_terminal:
            stack.enter_context(Live(get_renderable=view.table, console=console, refresh_per_second=4))
        assert process.stdout is not None
        for line in process.stdout:
            file.write(line)
            log.read(line.rstrip("\n"))
            view.update()
            on_line()
        log.close(process.wait())
        view.update()
        on_line()
    return process.returncode


def _end_group(process: subprocess.Popen[str], patience_seconds: float = 10.0) -> None:
    """End the command and what it started (spark-submit, the JVM, Python workers), if it still runs."""
    if process.poll() is not None:
        return
    os.killpg(process.pid, signal.SIGTERM)
    try:
        process.wait(timeout=patience_seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
