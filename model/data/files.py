"""Small artefacts behind URIs: tensors as safetensors, tables as Parquet, values as JSON. Never a pickle.

Any fsspec URI will do; parent folders are made. That a set of files is complete is said by the generation's manifest
(model/generation.py).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import safetensors.numpy

TEXT_VECTORS_FILE = "text_vectors.safetensors"
TEXTS_FILE = "texts.parquet"
"""Of additions to a codebook: (item_index, title, text)."""
ITEMS_FILE = "items.parquet"
"""Of a codebook, of additions to it: the codes."""


def save_tensors(uri: str, tensors: Mapping[str, np.ndarray]) -> None:
    _write(uri, safetensors.numpy.save({name: np.ascontiguousarray(values) for name, values in tensors.items()}))


def load_tensors(uri: str) -> dict[str, np.ndarray]:
    """Raises ValueError when the file does not exist."""
    return dict(safetensors.numpy.load(_read(uri)))


def save_json(uri: str, value: Any) -> None:
    _write(uri, json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False).encode())


def load_json(uri: str) -> Any:
    """Raises ValueError when the file does not exist."""
    return json.loads(_read(uri))


def save_table(uri: str, table: pa.Table) -> None:
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    _write(uri, sink.getvalue().to_pybytes())


def _write(uri: str, content: bytes) -> None:
    fs, path = fsspec.url_to_fs(uri)
    fs.makedirs(fs._parent(path), exist_ok=True)
    fs.pipe_file(path, content)


def _read(uri: str) -> bytes:
    fs, path = fsspec.url_to_fs(uri)
    try:
        return bytes(fs.cat_file(path))
    except FileNotFoundError:
        raise ValueError(f"{uri} does not exist. Run the step that writes it.") from None
