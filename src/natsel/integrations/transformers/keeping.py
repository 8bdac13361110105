"""A small model of the transformers library knows its own configuration, and saves it."""

from __future__ import annotations

import os
import warnings
import weakref
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from natsel.common.files import write_atomic
from natsel.communities.tensors import all_tensors
from natsel.extraction.store import PLAN_FILE
from natsel.integrations.transformers.library import class_of, library
from natsel.integrations.transformers.pretrained import described, pretrained
from natsel.integrations.transformers.uniform import answers, plain_config, same


def keep(small: nn.Module) -> None:
    """Let a small model, and those of the library inside it, say and save what they are.

    The configuration gets the small sizes where it can state them, with the same output as before;
    it belongs to the small model alone. ``save_pretrained`` writes a folder that loads.

    Args:
        small: changed in place; a model that has nothing of the library is left alone.
    """
    kind = library().PreTrainedModel
    inside = [(name, m) for name, m in small.named_modules() if isinstance(m, kind)]
    for _, module in inside:
        vars(module)["save_pretrained"] = Saving(module)
    outermost: list[str] = []
    for name, module in inside:
        if not any(name.startswith(f"{outer}.") or not outer for outer in outermost):
            outermost.append(name)
            _state_sizes(module)


class Saving:
    """The ``save_pretrained`` of a small model, which the methods of its class then call.

    It holds on to the model only weakly, so that models go when nobody uses them, and belongs to
    the copy in a copy.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = weakref.ref(model)

    def __call__(
        self,
        save_directory: str | os.PathLike[str],
        *args: Any,
        push_to_hub: bool = False,
        **options: Any,
    ) -> None:
        """Write a folder that ``from_pretrained`` reads, see the method of the class.

        Args:
            save_directory: where to.
            *args: as the method of the class has them.
            push_to_hub: also send it to the Hub.
            **options: as the method of the class has them.
        """
        model: Any = self._model()
        assert model is not None, "nobody holds the model any more"
        write = type(model).save_pretrained
        if getattr(model, "_hf_peft_config_loaded", False):  # then only adapters are saved
            write(model, save_directory, *args, push_to_hub=push_to_hub, **options)
            return
        sent = {k: options.pop(k) for k in _SENT if push_to_hub and k in options}
        names = ("is_main_process", "state_dict")
        options |= dict(zip(names, args, strict=False))
        folder = Path(save_directory)
        known = pretrained(model, own=True)
        if known is None:
            warnings.warn(
                f"no configuration of a {type(model).__name__} says what was removed: "
                f"from_pretrained will not load {folder}, natsel.save writes what natsel.load does",
                stacklevel=2,
            )
            write(model, folder, *args[len(names) :], **options)
            return
        if not known.is_plain:
            # Nothing else reads these shapes, so the names are those of the model itself.
            options.setdefault("save_original_format", False)
            given = options.get("state_dict")
            state = dict(given if given is not None else model.state_dict())
            tensors = all_tensors(model)
            options["state_dict"] = state | _besides(known, state, tensors)
        writes = model.should_save_on_this_rank(options.get("is_main_process", True))
        if writes:
            (folder / PLAN_FILE).unlink(missing_ok=True)  # it seals what is about to change
        write(model, folder, *args[len(names) :], **options)
        if writes:
            for name, content in known.companions.items():
                write_atomic(folder / name, content)
        if push_to_hub:
            sent.setdefault("repo_id", folder.name)
            model.push_to_hub(**sent)

    def __deepcopy__(self, memo: dict[int, Any]) -> Saving:
        model = self._model()
        return Saving(memo.get(id(model), model))

    def __getstate__(self) -> nn.Module | None:
        return self._model()

    def __setstate__(self, model: nn.Module) -> None:
        self._model = weakref.ref(model)


_SENT = (
    *("repo_id", "commit_message", "commit_description", "private", "token"),
    *("revision", "create_pr", "tags"),
)


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
