"""Exit 0 when every package of the lock files is installed in the locked version, and the compiled ones load."""

import importlib.metadata
import re
from pathlib import Path


def installed_version(name: str) -> str:
    try:
        return importlib.metadata.version(name).partition("+")[0]  # 2.13.0+cpu is a build of 2.13.0
    except importlib.metadata.PackageNotFoundError:
        return "missing"


def main() -> None:
    locks = "".join(Path(lock).read_text() for lock in ("requirements.lock", "requirements.sample.lock"))
    wanted = re.findall(r"^([\w.-]+)==(\S+)", locks, re.MULTILINE)
    found = {name: installed_version(name) for name, _ in wanted}
    wrong = [f"{name}: {found[name]}, not {version}" for name, version in wanted if found[name] != version]
    if wrong:
        raise SystemExit("\n".join(wrong))
    for compiled in ("pyarrow", "pyspark", "torch"):
        importlib.import_module(compiled)


if __name__ == "__main__":
    main()
