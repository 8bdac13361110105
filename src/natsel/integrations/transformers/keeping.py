"""A small model of the transformers library knows its own configuration, and saves it."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from natsel.common.files import write_atomic
from natsel.communities.tensors import all_tensors
from natsel.extraction.store import PLAN_FILE
from natsel.integrations.transformers.beside import beside, carrying
from natsel.integrations.transformers.cards import carrying_card
from natsel.integrations.transformers.library import class_of, library
from natsel.integrations.transformers.pretrained import described, pretrained
from natsel.integrations.transformers.pushing import push_folder
from natsel.integrations.transformers.uniform import answers, plain_config, same

_MARK = "natsel_keeps"
"""An attribute of the models whose ``save_pretrained`` says what was removed."""


@dataclass(frozen=True)
class Kept:
    """What marks a model; a copy, or one out of a pickle, is marked as well."""


def keep(small: nn.Module) -> None:
    """Let a small model, and those of the library inside it, say and save what they are.

    The configuration gets the small sizes where it can state them, with the same output as before;
    it belongs to the small model alone. ``save_pretrained`` writes a folder that loads.

    Args:
        small: changed in place; a model that has nothing of the library is left alone.
    """
    kind = library().PreTrainedModel
    inside = [(name, m) for name, m in small.named_modules() if isinstance(m, kind)]
    outermost: list[str] = []
    for name, module in inside:
        mark(module)
        if not any(name.startswith(f"{outer}.") or not outer for outer in outermost):
            outermost.append(name)
            _state_sizes(module)


def mark(model: nn.Module) -> None:
    """Let ``save_pretrained`` of a model say what it has otherwise than its configuration."""
    vars(model)[_MARK] = Kept()


def _watch(kind: Any) -> None:
    """Let ``save_pretrained`` of all models look for the mark; for any other it is as it was.

    An attribute of the one model would have to hold on to it, so that it never goes by itself.
    """
    write = kind.save_pretrained
    if hasattr(write, _MARK):
        return

    @functools.wraps(write)
    def save_pretrained(self: Any, save_directory: Any, *args: Any, **options: Any) -> Any:
        marked = isinstance(vars(self).get(_MARK), Kept)
        # Adapters that the library itself has put in are saved alone, without what they are on.
        if not marked or getattr(self, "_hf_peft_config_loaded", False):
            return write(self, save_directory, *args, **options)
        named = dict(zip(("is_main_process", "state_dict", "push_to_hub"), args, strict=False))
        return _save(self, Path(save_directory), write, {**named, **options}, args[len(named) :])

    setattr(save_pretrained, _MARK, write)
    kind.save_pretrained = save_pretrained
    push = kind.push_to_hub

    @functools.wraps(push)
    def push_to_hub(self: Any, repo_id: str, **options: Any) -> Any:
        if not isinstance(vars(self).get(_MARK), Kept) or options.keys() - set(_PUSHED):
            return push(self, repo_id, **options)
        return push_folder(self, repo_id, **options)

    kind.push_to_hub = push_to_hub


def _save(
    model: Any, folder: Path, write: Any, options: dict[str, Any], rest: tuple[Any, ...]
) -> None:
    """Write a folder that ``from_pretrained`` reads, by the method of the class."""
    known = pretrained(model, own=True)
    if known is None:
        warnings.warn(
            f"no configuration of a {type(model).__name__} says what was removed: "
            f"from_pretrained will refuse {folder}; natsel.save writes what natsel.load reads",
            stacklevel=3,
        )
    push = options.pop("push_to_hub", False)
    sent = {name: options.pop(name) for name in _SENT if push and name in options}
    if known is not None and not known.is_plain:
        # Nothing else reads these shapes, so the names are those of the model itself.
        options.setdefault("save_original_format", False)
        given = options.get("state_dict")
        state = dict(given if given is not None else model.state_dict())
        options["state_dict"] = state | _besides(known, state, all_tensors(model))
    main = options.pop("is_main_process", True)
    writes = model.should_save_on_this_rank(main)
    if writes and (folder / PLAN_FILE).is_file():
        (folder / PLAN_FILE).unlink()  # it seals what is about to change
    state = options.pop("state_dict", None)
    write(model, folder, main, state, False, *rest, **options)
    if writes and known is not None:
        for name, content in known.companions.items():
            write_atomic(folder / name, content)
        with carrying(beside(model), folder, {}), carrying_card(None, model, folder, known):
            pass
    if push:
        # It saves once more: what the method above would send is what it wrote by itself.
        model.push_to_hub(**{"repo_id": folder.name, **sent})


_SENT = (
    *("repo_id", "commit_message", "commit_description", "private", "token"),
    *("revision", "create_pr", "tags"),
)
_PUSHED = (*_SENT, "max_shard_size")


def _besides(known: Any, state: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> Any:
    """Return what a file needs besides the state of a model, to be loaded or to be refused."""
    copies = {name: tensors[name].detach().clone() for name in known.repeated}
    buffers = {name: tensors[name] for name in known.added if name not in state}
    like = next(iter(tensors.values()))
    return {**copies, **buffers, **{name: like.new_zeros(0) for name in known.absent}}


def _state_sizes(small: nn.Module) -> None:
    """Set the small sizes in the configuration of a model, where one can state them."""
    kind: Any = class_of(small) or type(small)
    model: Any = small
    if model.dtype is None or any(p.is_meta for p in small.parameters()):
        return
    try:
        like, data = described(small, kind)
        plain = plain_config(small, kind, data, like)
    except ValueError:  # a configuration that does not build its class describes nothing
        return
    changes = list(_changes(data, plain)) if plain is not None else []
    if not changes:
        return
    before = answers(small)
    done: list[tuple[Any, str, Any]] = []
    configs = {id(c): c for m in small.modules() if (c := vars(m).get("config")) is not None}
    for config in configs.values():
        for (*parents, key), old, new in changes:
            inner = config
            for parent in parents:
                inner = getattr(inner, parent, None)
            if inner is not None and getattr(inner, key, None) == old:
                done.append((inner, key, getattr(inner, key, _NONE)))
                setattr(inner, key, new)
    if before is None or not same(before, answers(small)):  # forward reads it, and meant the old
        for inner, key, old in reversed(done):
            if old is _NONE:
                delattr(inner, key)
            else:
                setattr(inner, key, old)


_NONE = object()


def _changes(before: Any, after: Any) -> Iterator[tuple[tuple[str, ...], Any, Any]]:
    """Yield path, old and new value of what differs between two configurations."""
    for key, new in after.items():
        old = before.get(key)
        if isinstance(new, dict) and isinstance(old, dict):
            yield from (((key, *path), a, b) for path, a, b in _changes(old, new))
        elif new != old:
            yield (key,), old, new


_watch(library().PreTrainedModel)
