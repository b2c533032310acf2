"""Sending a product: what the repository holds already, then one commit."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, get_token
from huggingface_hub.errors import (
    HfHubHTTPError,
    HTTPError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from carv_distill.errors import UserError, one_line
from carv_distill.model_card import CARD

from .card import Repository

_KEPT = ".gitattributes"
_READ = (".safetensors", ".json", ".py", ".bin", ".ckpt", ".pt", ".model", ".txt")
"""Endings of files by which a model is read: of two models in one folder they make a third."""


@dataclass(frozen=True)
class Present:
    """What a repository holds before something is sent."""

    private: bool
    commit: str | None
    files: frozenset[str]
    branch: bool
    """Whether the branch is there."""


def require_token() -> str:
    """The user's token; UserError without one."""
    if token := get_token():
        return token
    raise UserError("no token of the hub is here: hf auth login keeps one, or give it as HF_TOKEN")


def present(api: HfApi, to: Repository) -> Present | None:
    """What is there; None where there is no such repository yet.

    Raises:
        UserError: the hub does not know the token or cannot be reached.
    """
    with _reaching(to):
        api.whoami()
        try:
            info, branch = api.model_info(to.name, revision=to.branch), True
        except RevisionNotFoundError:
            info, branch = api.model_info(to.name), False  # a new branch begins with what main holds
        except RepositoryNotFoundError:
            return None
    files = frozenset(each.rfilename for each in info.siblings or ()) - {_KEPT}
    return Present(bool(info.private), info.sha, files, branch)


def kept(before: Present | None, to: Repository, names: frozenset[str], replace: bool) -> frozenset[str]:
    """Names of the files that stay in the repository beside those that are sent.

    Raises:
        UserError: a model is read by one of them too, and would then be neither the one nor the other.
    """
    others = frozenset() if before is None or replace else before.files - names - {CARD}
    if mixed := sorted(name for name in others if name.endswith(_READ)):
        more = f" and {len(mixed) - 1} more" if len(mixed) > 1 else ""
        raise UserError(
            f"--to: {to} holds {mixed[0]}{more}, which would stay and be mixed with what is sent; "
            "--replace takes them away in the same commit, or name another repository or --revision"
        )
    return others


def send(
    api: HfApi,
    to: Repository,
    before: Present | None,
    files: Mapping[str, Path | bytes],
    card: str,
    message: str,
    private: bool = False,
    replace: bool = False,
) -> str:
    """Everything in one commit, or nothing; its address.

    Args:
        before: what :func:`present` saw; a repository that has changed since is left as it is.
        card: the README.md.
        private: of a new repository.
        replace: what is not sent is taken away.

    Raises:
        UserError: a file cannot be read, or what the hub answers.
    """
    with _reaching(to):
        operations = [CommitOperationAdd(name, path) for name, path in files.items()]
        operations.append(CommitOperationAdd(CARD, card.encode()))
        gone = sorted(before.files - {*files, CARD}) if before is not None and replace else []
        api.create_repo(to.name, private=private or None, exist_ok=True)
        if to.branch is not None and (before is None or not before.branch):
            api.create_branch(to.name, branch=to.branch, exist_ok=True)
        done = api.create_commit(
            to.name,
            [*operations, *(CommitOperationDelete(name) for name in gone)],
            commit_message=message,
            revision=to.branch,
            parent_commit=None if before is None else before.commit,
        )
    return str(done.commit_url)


@contextmanager
def _reaching(to: Repository) -> Iterator[None]:
    """A block that asks the hub; what goes wrong there is one line."""
    try:
        yield
    except HfHubHTTPError as error:
        raise UserError(f"{to}: nothing was committed; the hub says: {one_line(error)}") from error
    except (HTTPError, OSError, RuntimeError, ValueError) as error:  # no network, or a file that is gone
        raise UserError(f"{to}: nothing was committed ({one_line(error)})") from error
