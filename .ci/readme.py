"""Run the README's own commands, in their order, in the repository: python .ci/readme.py

Every ```bash block is run by bash and must succeed, except one whose line before says why not:
<!-- not run: reason -->. A block that CI ran before is named by --ran-before.
"""

import argparse
import re
import subprocess
import time
from pathlib import Path

REASON = r"(?:<!-- not run: (?P<reason>.+?) -->\n+)?"
BLOCK = re.compile(rf"{REASON}^```bash\n(?P<commands>.*?)^```", re.MULTILINE | re.DOTALL)


def blocks(markdown: str) -> list[tuple[str, str | None]]:
    """The commands of each bash block, and why it is not run, if so."""
    return [(found["commands"].strip(), found["reason"]) for found in BLOCK.finditer(markdown)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ran-before", action="append", default=[], metavar="BLOCK")
    ran_before = parser.parse_args().ran_before
    for commands, reason in blocks(Path("README.md").read_text(encoding="utf-8")):
        print(f"\n$ {commands}", flush=True)
        if reason or commands in ran_before:
            print(f"(not run: {reason or 'ran before'})", flush=True)
            continue
        started = time.monotonic()
        subprocess.run(["bash", "-euo", "pipefail", "-c", commands], stdin=subprocess.DEVNULL, check=True)  # noqa: S603, S607
        print(f"({time.monotonic() - started:.0f} s)", flush=True)


if __name__ == "__main__":
    main()
