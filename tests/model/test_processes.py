"""What processes tell each other."""

from __future__ import annotations

from pathlib import Path

import torch

from model.processes import ALONE
from tests.two_processes import run_two

TOGETHER = """
import torch
from model.processes import joined
with joined() as processes:
    own = [torch.tensor([5, 1, 5]), torch.tensor([9, 1, 3, 2])][processes.rank]
    assert processes.union(own).tolist() == [1, 2, 3, 5, 9]
    nothing = own[:0] if processes.first else own
    assert processes.union(nothing).tolist() == [1, 2, 3, 9]
    here = torch.tensor([[1, processes.rank + 7], [2, 3]]).T
    assert processes.first_of(here).tolist() == [[1, 2], [7, 3]]
    assert here[1, 0] == processes.rank + 7
    assert processes.sums(processes.rank + 1.0) == [3.0]
"""


def test_alone_a_union_is_the_different_items() -> None:
    assert ALONE.union(torch.tensor([4, 2, 4], device=ALONE.device)).tolist() == [2, 4]


def test_two_processes_find_the_union_of_both(tmp_path: Path) -> None:
    (tmp_path / "two.py").write_text(TOGETHER)
    run_two(tmp_path / "two.py")
