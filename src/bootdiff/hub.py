"""Models on the Hugging Face Hub: a folder is pushed as it is, and pulled as JSON, safetensors and the model card. And
data sets there, of which only the files that are named are pulled.

Nothing that could be code, such as a pickle or a .py file, is pulled: what a model of one's own is made of is given as
classes, never fetched.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
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

__all__ = ["dataset_files", "is_hub_id", "pull", "pull_dataset", "push"]

PULLED = ("*.json", "*.safetensors", "README.md")
_LOG_IN = "log in by `hf auth login`, or pass token="
_OPEN_ONCE = "open it once, or copy its Parquet files into a folder"


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
    with _asked(repo_id, revision, local_files_only, "no such folder here, ", "load it once, or copy the folder"):
        folder = huggingface_hub.snapshot_download(
            repo_id, revision=revision, token=token, cache_dir=cache_dir, local_files_only=local_files_only,
            allow_patterns=list(PULLED),
        )  # fmt: skip
    return Path(folder)


def dataset_files(repo_id: str, *, revision: str | None = None) -> dict[str, int] | None:
    """The files of a data set on the Hub and their bytes; None where the Hub cannot be reached.

    Raises:
        BootdiffError: no such data set or revision, or one that is private or gated.
    """
    with _asked(repo_id, revision, False, "", _OPEN_ONCE):
        try:
            about = huggingface_hub.HfApi().dataset_info(repo_id, revision=revision, files_metadata=True)
        except (HfHubHTTPError, HFValidationError):
            raise
        except Exception:  # without a connection, whatever the HTTP library of this huggingface_hub raises
            return None
    return {file.rfilename: file.size or 0 for file in about.siblings or ()}


def pull_dataset(
    repo_id: str, names: Sequence[str], *, revision: str | None = None, local_files_only: bool = False
) -> Path:
    """The folder of a data set, in the cache of huggingface_hub, with its files of these names (or patterns).

    Raises:
        BootdiffError: as `pull`; or there is no room for them.
    """
    with _asked(repo_id, revision, local_files_only, "", _OPEN_ONCE):
        try:
            folder = huggingface_hub.snapshot_download(
                repo_id, repo_type="dataset", revision=revision, allow_patterns=list(names),
                local_files_only=local_files_only,
            )  # fmt: skip
        except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError):
            raise
        except OSError as error:
            raise BootdiffError(
                f"{repo_id}: could not be downloaded ({_first_line(error)}); make room, or try again"
            ) from None
    return Path(folder)


@contextmanager
def _asked(repo_id: str, revision: str | None, local_files_only: bool, here: str, remedy: str) -> Iterator[None]:
    """What the Hub refuses, as BootdiffError. here: where else was looked; remedy: what else helps without it."""
    log_in = _LOG_IN if here else "log in by `hf auth login`"
    there = f" at revision {revision}" if revision else ""
    try:
        yield
    except GatedRepoError:
        raise BootdiffError(
            f"{repo_id}: access to this repository is given on request; ask for it on its page, then {log_in}"
        ) from None
    except RevisionNotFoundError:
        raise BootdiffError(f"{repo_id}: it has no revision {revision!r}; give a branch, a tag or a commit") from None
    except RepositoryNotFoundError:
        also = f"{here}and " if here else ""
        raise BootdiffError(
            f"{repo_id}: {also}no such repository on the Hub, or it is private; check the name, or {log_in}"
        ) from None
    except LocalEntryNotFoundError:
        why = "the Hub was not asked (local_files_only)" if local_files_only and here else "the Hub cannot be reached"
        raise BootdiffError(
            f"{repo_id}: {here}{why}, and the cache does not have it{there}; connect and {remedy}"
        ) from None
    except (HfHubHTTPError, HFValidationError) as error:
        raise BootdiffError(f"{repo_id}: the Hub refused{there} ({_first_line(error)}); try again later") from None


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
