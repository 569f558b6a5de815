"""CI runs the README's commands (.ci/readme.py). Here: that it finds them all, and that what they name exists."""

from __future__ import annotations

import importlib.util
import re
import runpy
from pathlib import Path

REPO = Path(__file__).resolve().parents[1]
README = (REPO / "README.md").read_text(encoding="utf-8")
blocks = runpy.run_path(str(REPO / ".ci" / "readme.py"))["blocks"]


def test_blocks_are_found_with_the_reason_not_to_run_them() -> None:
    markdown = """
```bash
make run
```

<!-- not run: needs a cluster -->

```bash
airflow standalone
feast serve
```

```python
print("no command")
```
"""
    assert blocks(markdown) == [("make run", None), ("airflow standalone\nfeast serve", "needs a cluster")]


def test_every_bash_block_of_the_readme_is_found() -> None:
    assert len(blocks(README)) == README.count("```bash")
    assert "make run" in [commands for commands, _ in blocks(README)]


def test_modules_and_targets_that_the_readme_names_exist() -> None:
    for module in re.findall(r"python -m ([\w.]+)", README):
        assert importlib.util.find_spec(module), module
    targets = re.findall(r"^([a-z]+):", (REPO / "Makefile").read_text(), re.MULTILINE)
    for target in re.findall(r"`?make ([a-z]+)`|^make ([a-z]+)$", README, re.MULTILINE):
        assert (target[0] or target[1]) in targets
