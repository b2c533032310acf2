"""One commit, or nothing; and what the real client's errors become."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from huggingface_hub import HfApi

from carv_distill.errors import UserError
from carv_distill.hub.card import Repository
from carv_distill.hub.send import Present, kept, present, require_token, send
from tests.helpers.fake_hub import FakeHub, Held

TO = Repository("ada/digits")


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    (tmp_path / "config.json").write_text("{}")
    return {"unet/config.json": tmp_path / "config.json"}


def test_a_new_repository_has_the_files_and_the_card_in_one_commit(
    hub: FakeHub, files: dict[str, Path]
) -> None:
    assert present(HfApi(), TO) is None
    address = send(HfApi(), TO, None, files, "# card", "the student", private=True)
    held = hub.repositories["ada/digits"]
    assert held.branches["main"] == {".gitattributes": b"", "unet/config.json": b"{}", "README.md": b"# card"}
    assert held.commits == ["the student"]
    assert held.private
    assert address == f"https://hub.test/ada/digits/commit/{held.sha}"


def test_a_second_one_is_a_commit_on_top(hub: FakeHub, files: dict[str, Path]) -> None:
    for card in ("# first", "# second"):
        send(HfApi(), TO, present(HfApi(), TO), files, card, card)
    held = hub.repositories["ada/digits"]
    assert held.branches["main"]["README.md"] == b"# second"
    assert held.commits == ["# first", "# second"]


def test_a_branch_begins_with_main_and_leaves_it(hub: FakeHub, files: dict[str, Path]) -> None:
    hub.repositories["ada/digits"] = Held(branches={"main": {"notes.md": b"mine"}})
    to = Repository("ada/digits", "small")
    before = present(HfApi(), to)
    assert before is not None
    assert (before.branch, before.files) == (False, {"notes.md"})
    send(HfApi(), to, before, files, "# card", "small")
    held = hub.repositories["ada/digits"]
    assert held.branches["main"] == {"notes.md": b"mine"}
    assert set(held.branches["small"]) == {"notes.md", "README.md", "unet/config.json"}
    again = present(HfApi(), to)
    assert again is not None
    assert again.branch


def test_files_by_which_a_model_is_read_may_not_stay(hub: FakeHub, files: dict[str, Path]) -> None:
    """Unless they are taken away in the same commit; the hub's own file and pictures stay."""
    other = {".gitattributes": b"", "config.json": b"{}", "unet/x.safetensors": b"", "me.png": b""}
    hub.repositories["ada/digits"] = Held(branches={"main": other})
    before, names = present(HfApi(), TO), frozenset(files)
    with pytest.raises(
        UserError, match=r"ada/digits holds config\.json and 1 more, .*--replace takes them away"
    ):
        kept(before, TO, names, replace=False)
    assert kept(before, TO, names, replace=True) == frozenset()
    send(HfApi(), TO, before, files, "# card", "anew", replace=True)
    assert set(hub.repositories["ada/digits"].branches["main"]) == {
        ".gitattributes",
        "README.md",
        "unet/config.json",
    }


def test_other_files_stay_and_are_named(files: dict[str, Path]) -> None:
    before = Present(False, "0", frozenset({"README.md", "unet/config.json", "me.png"}), True)
    assert kept(before, TO, frozenset(files), replace=False) == {"me.png"}


def test_a_file_that_is_gone_stops_it_before_anything_is_made(hub: FakeHub, files: dict[str, Path]) -> None:
    files["unet/config.json"].unlink()
    with pytest.raises(UserError, match=r"ada/digits: nothing was committed \(.*config\.json"):
        send(HfApi(), TO, None, files, "# card", "the student")
    assert hub.repositories == {}
    assert hub.calls == []


def test_no_token_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "token"))
    with pytest.raises(
        UserError, match=r"no token of the hub is here: hf auth login keeps one, or .* HF_TOKEN"
    ):
        require_token()
    monkeypatch.setenv("HF_TOKEN", "hf_x")
    assert require_token() == "hf_x"


class Refusing(BaseHTTPRequestHandler):
    """Answers every question as the hub answers a token that it does not know."""

    def do_GET(self) -> None:
        self.send_response(401)
        self.send_header("X-Error-Message", "Invalid user token.")
        self.end_headers()

    def log_message(self, *args: object) -> None:
        """Says nothing."""


@pytest.fixture
def refusing(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    server = ThreadingHTTPServer(("127.0.0.1", 0), Refusing)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_a_token_that_the_hub_does_not_know_is_one_line(refusing: str) -> None:
    """By the real client."""
    with pytest.raises(
        UserError, match=r"ada/digits: nothing was committed; the hub says: .*token"
    ) as caught:
        present(HfApi(refusing, token="hf_x"), TO)
    assert "\n" not in str(caught.value)


def test_no_network_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the real client, where nobody listens, and where it is told that it is offline."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with pytest.raises(UserError, match=r"ada/digits: nothing was committed \(.*refused") as caught:
        present(HfApi("http://127.0.0.1:9", token="hf_x"), TO)
    assert "\n" not in str(caught.value)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match=r"nothing was committed \(.*offline"):
        present(HfApi("http://127.0.0.1:9", token="hf_x"), TO)
