"""Models on the Hugging Face Hub: a folder is pushed as it is, and pulled as JSON, safetensors and the model card.

Nothing that could be code, such as a pickle or a .py file, is pulled: what a model of one's own is made of is given as
classes, never fetched.
"""

from __future__ import annotations

import re
from pathlib import Path

import huggingface_hub
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from bootdiff.errors import BootdiffError

__all__ = ["is_hub_id", "pull", "push"]

PULLED = ("*.json", "*.safetensors", "README.md")
_LOG_IN = "log in by `hf auth login`, or pass token="


def is_hub_id(name: str | Path) -> bool:
    """Whether a name is that of a repository, owner/name, and not of a folder that is there.

    >>> is_hub_id("someone/faces"), is_hub_id("./faces"), is_hub_id("/a/b"), is_hub_id("faces")
    (True, False, False, False)
    """
    if isinstance(name, Path) or Path(name).exists():
        return False
    return re.fullmatch(r"[A-Za-z0-9][\w-]*/[A-Za-z0-9][\w.-]*", name) is not None


def pull(
    repo_id: str,
    *,
    revision: str | None = None,
    token: str | bool | None = None,
    cache_dir: str | Path | None = None,
    local_files_only: bool = False,
) -> Path:
    """The folder of a repository, in the cache of huggingface_hub.

    Args:
        repo_id: "owner/name".
        revision: a branch, tag or commit; None: the newest.
        token: for private repositories; None: that of `hf auth login`.
        cache_dir: another cache.
        local_files_only: take it from the cache, without a connection.

    Raises:
        BootdiffError: no such repository or revision, one that is private or gated, or no connection.
    """
    there = f" at revision {revision}" if revision else ""
    try:
        folder = huggingface_hub.snapshot_download(
            repo_id, revision=revision, token=token, cache_dir=cache_dir, local_files_only=local_files_only,
            allow_patterns=list(PULLED),
        )  # fmt: skip
    except GatedRepoError:
        raise BootdiffError(
            f"{repo_id}: access to this repository is given on request; ask for it on its page, then {_LOG_IN}"
        ) from None
    except RevisionNotFoundError:
        raise BootdiffError(f"{repo_id}: it has no revision {revision!r}; give a branch, a tag or a commit") from None
    except RepositoryNotFoundError:
        raise BootdiffError(
            f"{repo_id}: no such folder here, and no such repository on the Hub, or it is private; check the name, "
            f"or {_LOG_IN}"
        ) from None
    except LocalEntryNotFoundError:
        why = "the Hub was not asked (local_files_only)" if local_files_only else "the Hub cannot be reached"
        raise BootdiffError(
            f"{repo_id}: no such folder here, {why}, and the cache does not have it{there}; connect and load it once, "
            f"or copy the folder"
        ) from None
    except (HfHubHTTPError, HFValidationError) as error:
        raise BootdiffError(f"{repo_id}: the Hub refused{there} ({_first_line(error)}); try again later") from None
    return Path(folder)


def push(
    folder: str | Path,
    repo_id: str,
    *,
    private: bool | None = None,
    token: str | bool | None = None,
    commit_message: str | None = None,
    create_pr: bool = False,
) -> str:
    """Upload a folder that `BootdiffPipeline.save_pretrained` wrote; the repository is made if it is missing.

    A model card that the repository already has is kept; weights that the model no longer has are deleted.

    Args:
        folder: what to upload.
        repo_id: "owner/name", or a name of one's own.
        private: whether a new repository is; None: as the account's default.
        token: with the right to write; None: that of `hf auth login`.
        commit_message: None: "Upload BootdiffPipeline".
        create_pr: open a pull request instead.

    Returns:
        The address of the commit.

    Raises:
        BootdiffError: no connection, no right to write, a name that cannot be.
    """
    try:
        repo_id = huggingface_hub.create_repo(repo_id, private=private, token=token, exist_ok=True).repo_id
        kept = huggingface_hub.file_exists(repo_id, "README.md", token=token)
        commit = huggingface_hub.upload_folder(
            repo_id=repo_id, folder_path=folder, token=token, create_pr=create_pr,
            commit_message=commit_message or "Upload BootdiffPipeline",
            ignore_patterns=["README.md"] if kept else None, delete_patterns=["denoiser/weights/*.safetensors"],
        )  # fmt: skip
    except HFValidationError as error:
        raise BootdiffError(f"{repo_id}: no name of a repository ({_first_line(error)}); give 'owner/name'") from None
    except HfHubHTTPError as error:
        raise BootdiffError(
            f"{repo_id}: the Hub did not accept the model ({_first_line(error)}); {_LOG_IN} that may write there"
        ) from None
    except Exception as error:  # without a connection, whatever the HTTP library of this huggingface_hub raises
        raise BootdiffError(
            f"{repo_id}: could not be uploaded ({_first_line(error)}); check the connection and try again"
        ) from None
    return str(commit)


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
