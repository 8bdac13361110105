"""A model card: what was cut, from what, how that is known, and how to load what is left."""

from __future__ import annotations

import hashlib
import json
import re
import shlex
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePath
from typing import Any
from urllib.parse import quote

CARD_FILE = "README.md"
_SEAL = re.compile(r"\n<!-- written by natsel; sha256 ([0-9a-f]{64}) -->\n\Z")
_MARKDOWN = re.compile(r"([\\`*_{}\[\]#|~!$])")
_CAUSAL = "ForCausalLM"
RECOVERED = "recover"
ZEROS = (
    "The zeros are in dense tensors: the folder is as large as that of the dense model, and "
    "nothing is faster by them alone."
)
WITHOUT_CONTROL = (
    "Before is the small model before recovery, teacher the dense model that it learned from."
)
WITH_CONTROL = (
    f"{WITHOUT_CONTROL} The control has the same shape and was trained from scratch in the same "
    "way."
)
_POSITIONAL = ("model", "small")
_OPTIONS = {"learning_rate": "lr"}
_SWITCHES = {
    "compensate": ("--compensate", "--no-compensate"),
    "measure": ("--measure", "--no-measure"),
    "keep_zeros": ("--keep-zeros", "--fill-zeros"),
}
"""Options of which no is said, too; of all others it is the default."""
STATED = ("base_model", "license", "license_name", "license_link", "language")
"""What the head of a card has from the model that was cut."""


def card(
    result: Mapping[str, Any], origin: Mapping[str, Any] | None = None, *, plain: bool = True
) -> str:
    """Return the text of a model card, with the data for a hub at its head.

    What a result does not hold is not told; what it holds is printed, never trusted: no value can
    end a table, a line or the head. Of paths only the last part is shown.

    Args:
        result: as ``result.json`` of a run has it, or what a plan says of a model.
        origin: of the model that was cut: ``base_model``, ``license``, ``language``, ``sha256``,
            ``class``, and ``own`` where that is none of the transformers library.
        plain: whether the configuration alone says what the model is, so that no code is needed.

    Returns:
        Markdown that ends with a seal, by which :func:`is_own` knows it.

    Example:
        >>> text = card({"parameters": [100, 80]}, {"base_model": "a/b", "license": "mit"})
        >>> print(text.partition("## ")[0].rstrip())
        ---
        base_model: "a/b"
        library_name: "transformers"
        license: "mit"
        tags: ["natsel", "pruned"]
        ---
        <BLANKLINE>
        # b, pruned
        <BLANKLINE>
        A smaller model, cut from [a/b](https://huggingface.co/a/b) by natsel.
    """
    origin = origin or {}
    parts = [_head(origin), _title(result, origin), *_sections(result, origin, plain)]
    return _sealed("\n\n".join(parts) + "\n")


def is_own(text: str) -> bool:
    """Say whether a card is one that natsel wrote, and nobody changed since.

    Example:
        >>> is_own(card({})), is_own(card({}) + "More."), is_own("# Mine")
        (True, False, False)
    """
    found = _SEAL.search(text)
    return found is not None and _digest(text[: found.start()]) == found[1]


def with_tags(text: str, tags: Sequence[str]) -> str:
    """Return a card that natsel wrote with more tags at its head; any other as it is.

    Example:
        >>> with_tags(card({}), ["mine"]).splitlines()[2], with_tags("# Mine", ["mine"])
        ('tags: ["natsel", "pruned", "mine"]', '# Mine')
    """
    if not tags or not is_own(text):
        return text
    body = _SEAL.sub("", text)
    found = re.search(r"^tags: (.*)$", body, re.MULTILINE)
    if found is None:
        return text
    known = json.loads(found[1])
    line = f"tags: {json.dumps([*known, *(t for t in tags if t not in known)])}"
    return _sealed(body[: found.start()] + line + body[found.end() :])


def _sealed(text: str) -> str:
    return f"{text}\n<!-- written by natsel; sha256 {_digest(text)} -->\n"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _head(origin: Mapping[str, Any]) -> str:
    """Return the data for a hub; JSON is YAML."""
    data: dict[str, Any] = {name: origin[name] for name in STATED if name in origin}
    kind = str(origin.get("class", ""))
    of_library = "base_model" in data or (kind and not origin.get("own"))
    data["library_name"] = "transformers" if of_library else "natsel"
    data["tags"] = ["natsel", "pruned"]
    if kind.endswith(_CAUSAL):
        data["pipeline_tag"] = "text-generation"
    lines = [f"{name}: {json.dumps(data[name])}" for name in sorted(data)]
    return "\n".join(["---", *lines, "---"])


def _title(result: Mapping[str, Any], origin: Mapping[str, Any]) -> str:
    base, recovered = origin.get("base_model"), result.get("kind") == RECOVERED
    if base is not None:
        name = str(base).rpartition("/")[2]
        whence = f"[{said(base)}](https://huggingface.co/{quote(str(base))})"
    else:
        name = str(origin.get("class") or "A model")
        whence = f"a {said(name)}" if origin.get("class") else "a larger one"
        if "sha256" in origin and not recovered:  # which is of what was recovered
            whence += f" (SHA-256 of its weights: `{origin['sha256']}`)"
    made = "A sparse model, made" if result.get("weights") else "A smaller model, cut"
    more = " It was recovered since: trained to say what the dense model says."
    return f"# {said(name)}, pruned\n\n{made} from {whence} by natsel.{more if recovered else ''}"


def _sections(result: Mapping[str, Any], origin: Mapping[str, Any], plain: bool) -> Iterator[str]:
    if rows := list(_cut(result.get("communities") or ())):
        head = ("kind", "communities", "kept", "of", "share kept", "in each")
        yield "## What was cut\n\n" + table(head, rows)
    if weights := result.get("weights"):
        yield f"## What was set to zero\n\n{said(weights.get('summary', ''))}\n\n{ZEROS}"
    if rows := list(_costs(result)):
        yield "## What it costs\n\n" + table(("", "before", "after", "after / before"), rows)
    if quality := list(_quality(result)):
        yield "## What it is worth\n\n" + "\n\n".join(quality)
    if proof := _proof(result.get("verification")):
        yield f"## How that is known\n\n{proof}"
    if command := command_of(result):
        fenced = f"```sh\n{command}\n```"
        yield f"## How it was made\n\nFiles and folders are named without their paths.\n\n{fenced}"
    yield f"## How to load it\n\n{_loading(origin, plain)}"


def _cut(communities: Sequence[Mapping[str, Any]]) -> Iterator[tuple[object, ...]]:
    by_kind: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for one in communities:
        by_kind[str(one["kind"])].append(one)
    for kind, members in by_kind.items():
        kept, size = (sum(int(m[key]) for m in members) for key in ("kept", "size"))
        least, most = (f([int(m["kept"]) for m in members]) for f in (min, max))
        each = f"{least:,}" if least == most else f"{least:,} to {most:,}"
        yield kind, len(members), f"{kept:,}", f"{size:,}", _share(kept, size), each


def _costs(result: Mapping[str, Any]) -> Iterator[tuple[object, ...]]:
    for name, key in (("parameters", "parameters"), ("multiply-accumulates a sample", "macs")):
        if result.get(key):
            before, after = result[key]
            yield name, f"{before:,.0f}", f"{after:,.0f}", _share(after, before)
    for timing in (result.get("prediction") or {}).get("timings") or ():
        dense, small, ratio = (_median(timing[of]) for of in ("dense", "small", "ratio"))
        yield (
            f"milliseconds at batch {timing['batch_size']} (median)",
            f"{dense[0]:.4g}",
            f"{small[0]:.4g}",
            f"{ratio[0]:.3f} ({ratio[1]:.3f} to {ratio[2]:.3f})",
        )


def _median(found: Mapping[str, float] | Sequence[float]) -> list[float]:
    """Return a median with the ends of its interval, which JSON holds as a list."""
    if isinstance(found, Mapping):
        return [found[name] for name in ("median", "low", "high")]
    return list(found)


def _quality(result: Mapping[str, Any]) -> Iterator[str]:
    found = result.get("quality")
    if found and found.get("after"):
        rows = [
            (when, _number(found, one["mean"]), _interval(found, one), one["n"])
            for when in ("before", "after", "teacher", "control")
            if (one := found.get(when))
        ]
        yield table(("", str(found["measure"]), "95 % interval", "n"), rows)
        if found.get("summary"):
            yield said(found["summary"])
        if result.get("kind") == RECOVERED:
            yield WITH_CONTROL if found.get("control") else WITHOUT_CONTROL
    for name, one in (result.get("accuracy") or {}).items() if not found else ():
        yield (
            f"{said(name)}: test accuracy {one['accuracy']:.2%} "
            f"({one['low']:.2%} to {one['high']:.2%})"
        )
    if compensation := result.get("compensation"):
        yield said(str(compensation.get("summary", "")).partition("\n")[0])


def _number(found: Mapping[str, Any], value: float) -> str:
    return f"{value:.2%}" if found["measure"] == "accuracy" else f"{value:.4g}"


def _interval(found: Mapping[str, Any], one: Mapping[str, Any]) -> str:
    return f"{_number(found, one['low'])} to {_number(found, one['high'])}"


def _proof(found: Mapping[str, Any] | None) -> str:
    if not found:
        return ""
    if not found.get("passed"):
        return said(f"The comparison with the masked model did not pass: {found.get('reason')}")
    return (
        "The small model computes what the dense one does in which the removed parts are masked: "
        f"in {said(found.get('precision') or 'its own precision')} they differ by "
        f"{found['error']:.1e} of what the removal changes (allowed {found['tolerance']:.0e}). "
        "That says that the removal is carried out right, not that it is harmless."
    )


def command_of(result: Mapping[str, Any]) -> str:
    """Return the command that a result says it came from; empty where it says none.

    Example:
        >>> command_of({"kind": "prune", "config": {"model": "/home/me/net", "budget": "macs=0.5",
        ...     "include": ("*.mlp",), "data": None, "measure": True, "seed": 0}})
        "natsel prune net --budget macs=0.5 --include '*.mlp' --measure --seed 0"
    """
    config, kind = result.get("config"), result.get("kind")
    if not isinstance(config, Mapping) or not isinstance(kind, str):
        return ""
    words = ["natsel", kind]
    for key, value in config.items():
        if key in _POSITIONAL:
            words.append(unlocated(value))
            continue
        name = f"--{_OPTIONS.get(key, str(key)).replace('_', '-')}"
        if isinstance(value, bool):
            on, off = _SWITCHES.get(key, (name, ""))
            words += [word for word in (on if value else off,) if word]
            continue
        values = value if isinstance(value, list | tuple) else [value]
        for one in values:
            words += [name, unlocated(one)] if one is not None else []
    return re.sub(r"[\x00-\x1f\x7f`]", "?", shlex.join(words))


def unlocated(value: object) -> str:
    """Return a value as text, of a path only its last part.

    Example:
        >>> [unlocated(v) for v in ("/home/me/a.txt", "./small", "hf:a/b", "macs=0.5")]
        ['a.txt', 'small', 'hf:a/b', 'macs=0.5']
    """
    text = str(value)
    if text.startswith(("hf:", "hub:")):
        prefix, _, name = text.partition(":")
        located = name.startswith(("/", ".", "~")) or name.count("/") > 1
        return f"{prefix}:{PurePath(name).name}" if located else text
    return re.split(r"[/\\]", text.rstrip("/\\"))[-1]


def _loading(origin: Mapping[str, Any], plain: bool) -> str:
    lines = []
    kind = str(origin.get("class", ""))
    if kind and not origin.get("own"):
        auto = "AutoModelForCausalLM" if kind.endswith(_CAUSAL) else kind
        auto = auto if plain or kind.endswith(_CAUSAL) else "AutoModel"
        trust = "" if plain else ", trust_remote_code=True"
        lines += [f"from transformers import {auto}", ""]
        lines += [f"model = {auto}.from_pretrained(FOLDER{trust})", ""]
    lines += ["import natsel", ""]
    lines += ["model = natsel.load(FOLDER)" + ("" if kind else "  # see its documentation")]
    code = "\n".join(["```python", *lines, "```"])
    if plain:
        return code
    return (
        f"{code}\n\nWidths differ between layers, which the configuration of the class cannot say: "
        "the code beside it, which has to be trusted, makes them; it needs no natsel unless layers "
        "hold compressed rows."
    )


def table(head: Sequence[object], rows: Sequence[Sequence[object]]) -> str:
    """Return a table in Markdown; no cell can end it.

    Example:
        >>> print(table(("a", "b"), [(1, "x|y")]))
        | a | b |
        | --- | --- |
        | 1 | x\\|y |
    """
    lines = [head, ["---"] * len(head), *rows]
    cells = [[c if c == "---" else said(c) for c in line] for line in lines]
    return "\n".join(f"| {' | '.join(line)} |" for line in cells)


def said(value: object) -> str:
    """Return a value as text that Markdown and HTML print as it is.

    Example:
        >>> print(said("<b>|`x`\\n# y"))
        &lt;b&gt;\\|\\`x\\` \\# y
    """
    text = " ".join(str(value).split())
    text = "".join(c for c in text if c.isprintable())
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return _MARKDOWN.sub(r"\\\1", text) if not _is_number(text) else text


def _is_number(text: str) -> bool:
    return re.fullmatch(r"[\d.,% e+-]*", text) is not None


def _share(part: float, whole: float) -> str:
    return f"{part / whole:.1%}" if whole else "-"
