"""Send a small model to the Hub: the folder that is read from there, with tokenizer and card."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from natsel.integrations.model_card import CARD_FILE, is_own, with_tags
from natsel.integrations.transformers.cards import text_of
from natsel.integrations.transformers.pretrained import pretrained


def push_folder(
    model: Any,
    repo_id: str,
    *,
    commit_message: str | None = None,
    commit_description: str | None = None,
    private: bool | None = None,
    token: bool | str | None = None,
    revision: str | None = None,
    create_pr: bool = False,
    max_shard_size: int | str | None = None,
    tags: list[str] | None = None,
) -> Any:
    """Upload what ``save_pretrained`` writes, with the files beside the model and its card.

    A card that is on the Hub already, and that natsel did not write, stays.

    Args:
        model: of the transformers library.
        repo_id: its name on the Hub; it is made if it is not there.
        commit_message: as the library has it, like all that follow.
        commit_description: more of it.
        private: whether a new repository is.
        token: of the user.
        revision: branch.
        create_pr: ask for the change instead of making it.
        max_shard_size: of one file of weights.
        tags: for the head of the card, too.

    Returns:
        What the Hub says of the commit.
    """
    from huggingface_hub import HfApi

    api = HfApi()
    repo_id = api.create_repo(repo_id, private=private, token=token, exist_ok=True).repo_id
    if revision is not None and not revision.startswith("refs/pr"):
        api.create_branch(repo_id, branch=revision, token=token, exist_ok=True)
    options = {} if max_shard_size is None else {"max_shard_size": max_shard_size}
    with tempfile.TemporaryDirectory() as work:
        folder = Path(work)
        model.save_pretrained(folder, **options)
        card = folder / CARD_FILE
        if _is_foreign(api, repo_id, revision, token):
            card.unlink(missing_ok=True)
        else:
            text = card.read_text(encoding="utf-8") if card.is_file() else None
            text = text_of(True, model, pretrained(model, own=True)) if text is None else text
            assert text is not None
            card.write_text(with_tags(text, tags or ()), encoding="utf-8")
        return api.upload_folder(
            repo_id=repo_id,
            folder_path=folder,
            commit_message=commit_message or "Upload model",
            commit_description=commit_description,
            token=token,
            revision=revision,
            create_pr=create_pr,
        )


def _is_foreign(api: Any, repo_id: str, revision: str | None, token: Any) -> bool:
    """Say whether a card is on the Hub that natsel did not write."""
    if not api.file_exists(repo_id, CARD_FILE, revision=revision, token=token):
        return False
    path = api.hf_hub_download(repo_id, CARD_FILE, revision=revision, token=token)
    return not is_own(Path(path).read_text(encoding="utf-8", errors="replace"))
