"""A hub on this machine: what is committed can be fetched again; calls must fit the real client's."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import huggingface_hub
import pytest
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError
from huggingface_hub.utils import filter_repo_objects


@dataclass
class Held:
    """A repository: the files of each branch, and the messages of its commits."""

    private: bool = False
    branches: dict[str, dict[str, bytes]] = field(default_factory=lambda: {"main": {".gitattributes": b""}})
    commits: list[str] = field(default_factory=list)

    @property
    def sha(self) -> str:
        """Of the newest commit."""
        return f"{len(self.commits):040x}"


@dataclass
class FakeHub:
    """Takes the place of the hub's client for a test.

    Args:
        folder: where what is fetched is put.
    """

    folder: Path
    repositories: dict[str, Held] = field(default_factory=dict)
    calls: list[str] = field(default_factory=list)

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """For the rest of the test."""
        monkeypatch.setenv("HF_TOKEN", "hf_of_a_test")
        for name in ("whoami", "model_info", "create_repo", "create_branch", "create_commit"):
            monkeypatch.setattr(HfApi, name, self._method(getattr(HfApi, name), getattr(self, name)))
        fetch = self._checked(huggingface_hub.snapshot_download, self.snapshot_download)
        monkeypatch.setattr("carv_distill.teachers.folder.snapshot_download", fetch)

    def _method(self, real: Callable[..., Any], fake: Callable[..., Any]) -> Callable[..., Any]:
        def call(api: HfApi, *args: Any, **options: Any) -> Any:
            bound = inspect.signature(real).bind(api, *args, **options).arguments
            self.calls.append(real.__name__)
            del bound["self"]
            return fake(**bound)

        return call

    def _checked(self, real: Callable[..., Any], fake: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            return fake(**inspect.signature(real).bind(*args, **options).arguments)

        return call

    def whoami(self) -> dict[str, str]:
        return {"name": "ada"}

    def model_info(self, repo_id: str, revision: str | None = None) -> SimpleNamespace:
        if repo_id not in self.repositories:
            raise RepositoryNotFoundError("404 Client Error. Repository Not Found", response=Mock(headers={}))
        held = self.repositories[repo_id]
        if (revision or "main") not in held.branches:
            raise RevisionNotFoundError("404 Client Error. Revision Not Found", response=Mock(headers={}))
        files = [SimpleNamespace(rfilename=name) for name in held.branches[revision or "main"]]
        return SimpleNamespace(private=held.private, sha=held.sha, siblings=files)

    def create_repo(self, repo_id: str, private: bool | None = None, exist_ok: bool = False) -> None:
        assert exist_ok
        self.repositories.setdefault(repo_id, Held(bool(private)))

    def create_branch(self, repo_id: str, branch: str, exist_ok: bool = False) -> None:
        held = self.repositories[repo_id]
        assert branch not in held.branches or exist_ok
        held.branches.setdefault(branch, dict(held.branches["main"]))

    def create_commit(
        self,
        repo_id: str,
        operations: list[CommitOperationAdd | CommitOperationDelete],
        commit_message: str,
        revision: str | None = None,
        parent_commit: str | None = None,
    ) -> SimpleNamespace:
        held = self.repositories[repo_id]
        assert parent_commit in (None, held.sha)
        files = dict(held.branches[revision or "main"])
        for operation in operations:
            if isinstance(operation, CommitOperationAdd):
                with operation.as_file() as content:
                    files[operation.path_in_repo] = content.read()
            else:
                del files[operation.path_in_repo]
        held.branches[revision or "main"] = files
        held.commits.append(commit_message)
        return SimpleNamespace(commit_url=f"https://hub.test/{repo_id}/commit/{held.sha}")

    def snapshot_download(
        self,
        repo_id: str,
        allow_patterns: list[str] | None = None,
        ignore_patterns: list[str] | None = None,
    ) -> str:
        """The files of main that match, in a folder of the repository's name."""
        files = self.repositories[repo_id].branches["main"]
        for name in filter_repo_objects(
            files, allow_patterns=allow_patterns, ignore_patterns=ignore_patterns
        ):
            path = self.folder / repo_id / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(files[name])
        return str(self.folder / repo_id)
