"""Checkpoints: nested states of tensors, numbers and strings in one safetensors file, no pickle.

The tensors of a state become those of the file; the rest, with a place for each tensor, is JSON in
its header.
"""

import json
import os
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as serialized
from torch import Tensor

from heavytail.experiments._files import replaced

_HEADER = "state"


def save(path: str | os.PathLike[str], state: dict[Any, Any]) -> None:
    """Write a state to a file, in one move: a file that is there is whole.

    Args:
        path: of the file; its folder is made if need be.
        state: dictionaries, lists and tuples of tensors, numbers, strings, booleans and None, one
            in another; keys are strings or integers. What ``state_dict`` returns is of this form.

    Raises:
        TypeError: if something else is in the state; nothing is written then.
    """
    if not isinstance(state, dict):
        raise TypeError(f"a state must be a dictionary, got {state!r}")
    tensors: dict[str, Tensor] = {}
    header = json.dumps(_packed(state, tensors))
    try:
        content = serialized(tensors, metadata={_HEADER: header})
    except KeyError as dtype:
        raise TypeError(
            f"a tensor's dtype must be one that safetensors knows, got {dtype}"
        ) from dtype
    # Not `save_file`: what it leaves behind when killed has a name that nobody would know.
    with replaced(Path(path)) as draft:
        draft.write_bytes(content)


def load(path: str | os.PathLike[str]) -> dict[Any, Any]:
    """Return the state that :func:`save` wrote, its tensors on the CPU.

    Raises:
        FileNotFoundError: if there is no file.
        ValueError: if the file is none of :func:`save`.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"no checkpoint at {os.fspath(path)}")
    try:
        with safe_open(path, "pt") as file:
            header = (file.metadata() or {}).get(_HEADER)
            # Copies: the tensors of the file are its pages, gone once another takes its place.
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
    except SafetensorError as failure:
        raise ValueError(f"{os.fspath(path)} must be a checkpoint, got {failure}") from failure
    if header is None:
        raise ValueError(f"{os.fspath(path)} must be a checkpoint, got other tensors")
    try:
        state = _unpacked(json.loads(header), tensors)
    except (AttributeError, KeyError, TypeError, ValueError, RecursionError) as failure:
        raise ValueError(
            f"{os.fspath(path)} must be a checkpoint, got the header {header[:60]!r}"
        ) from failure
    if not isinstance(state, dict):
        raise ValueError(f"{os.fspath(path)} must be a checkpoint, got {state!r}")
    return state


def _packed(value: object, tensors: dict[str, Tensor]) -> Any:
    """Return a value as JSON knows it, its tensors put aside; each form keeps its type."""
    if isinstance(value, Tensor):
        if value.layout is not torch.strided or value.is_meta or value.is_quantized:
            raise TypeError(f"a tensor must be dense, and its numbers there, got {value!r}")
        name = str(len(tensors))
        tensors[name] = value.detach().cpu().clone(memory_format=torch.contiguous_format)
        return {"tensor": name}
    if isinstance(value, dict):
        if not all(type(key) in (str, int) for key in value):
            raise TypeError(f"keys of a state must be strings or integers, got {list(value)}")
        return {"dict": [[key, _packed(part, tensors)] for key, part in value.items()]}
    if type(value) is list or type(value) is tuple:  # others would come back as these
        return {type(value).__name__: [_packed(part, tensors) for part in value]}
    if value is None or type(value) in (bool, int, float, str):
        return {"plain": value}
    raise TypeError(f"a state must hold tensors, numbers and strings, got {value!r}")


def _unpacked(value: dict[str, Any], tensors: dict[str, Tensor]) -> Any:
    ((form, content),) = value.items()
    if form not in ("tensor", "dict", "plain", "tuple", "list"):
        raise ValueError(f"no such form: {form}")
    if form == "tensor":
        return tensors[content]
    if form == "dict":
        return {key: _unpacked(part, tensors) for key, part in content}
    if form == "plain":
        return content
    parts = [_unpacked(part, tensors) for part in content]
    return tuple(parts) if form == "tuple" else parts
