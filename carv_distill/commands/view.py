"""carv-distill view: a run of text-to-3D in the browser, while it goes and afterwards."""

from __future__ import annotations

import errno
import logging
import shlex
import socket
import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from carv_distill.command_line import Parser, add_options, options_of, run_command, spin_briefly
from carv_distill.engine.console import show_messages
from carv_distill.engine.folder import CONFIG, checkpoints_in
from carv_distill.engine.lock import is_owned
from carv_distill.errors import UserError
from carv_distill.options import between, option

from .command import Command, PlaceOptions, chosen_device

log = logging.getLogger(__name__)

DEFAULT_PORT, LAST_PORT = 8080, 65535
EVERY = 1.0
"""Seconds between two looks into the run's folder."""
HELP = """Shows a run of text-to-3D in the browser, while it goes and afterwards: the newest one, unless --run
names another.

carv-distill view                                     open http://127.0.0.1:8080
carv-distill view --run runs/sds_carv --port 8090
carv-distill view --host 0.0.0.0                      for everyone who reaches this machine
"""


@dataclass(frozen=True)
class ViewOptions(PlaceOptions):
    """What `carv-distill view` is told."""

    run: Path | None = option(None, metavar="FOLDER")
    """default: the newest under --runs"""
    port: int = between(1, LAST_PORT, DEFAULT_PORT)
    """that it listens on"""
    host: str = option("127.0.0.1", metavar="ADDRESS")
    """that it listens on; the default is reached from this machine alone"""
    size: int = between(32, 2048, 512)
    """rows of a field's picture at rest, at most"""


def main(words: list[str] | None = None) -> int:
    """Reads the words of a command line and shows the run; the exit status."""
    parser = Parser(HELP, prog="carv-distill view")
    add_options(parser, ViewOptions)
    arguments = parser.parse_args(words)
    spin_briefly()
    return run_command(lambda: view(options_of(ViewOptions, arguments)))


def view(options: ViewOptions) -> None:
    """Shows a run until Ctrl-C.

    Raises:
        UserError: no run of text-to-3D, one that will never have anything to show, or an address that cannot
            be listened on.
    """
    show_messages()
    run = options.run or VIEW.newest(options)
    VIEW.open(run, options)
    require_scene(run)
    require_address(options.host, options.port)

    import viser  # noqa: F401, whose absence is said before what is slow

    log.info("view of %s: loading torch …", run)
    VIEW.measure(options, [run], chosen_device(options))


def _show(options: ViewOptions, runs: list[Path], device: str) -> None:
    from carv_distill.text_to_3d.viewer.session import Session

    (run,) = runs
    _, config = VIEW.open(run, options)
    try:
        with closing(Session(run, config, device, options.host, options.port, options.size)) as session:
            session.begin()
            print(f"open {page(options.host, options.port)} to see {run}; Ctrl-C ends it", flush=True)
            if session.state is None:
                log.info("there is no checkpoint yet; the first comes at update %d", config.checkpoint.every)
            while True:
                time.sleep(EVERY)
                session.look()
    except KeyboardInterrupt:
        print("ended")


def page(host: str, port: int) -> str:
    """The address to open; where it listens on all of this machine's, that by its name."""
    name = socket.gethostname() if host in ("0.0.0.0", "::") else f"[{host}]" if ":" in host else host
    return f"http://{name}:{port}"


def require_scene(run: Path) -> None:
    """UserError for a run that has no scene, and that no process is at work on."""
    there = checkpoints_in(run / "checkpoints") or (run / "object/scene.safetensors").is_file()
    if not there and not is_owned(run):
        again = f"python train.py --config {shlex.quote(str(run / CONFIG))} --requeue"
        raise UserError(
            f"{run} ended before its first checkpoint and has nothing to show; {again} starts it again"
        )


def require_address(host: str, port: int) -> None:
    """UserError for an address or a port that cannot be listened on."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as trial:
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            trial.bind(address)
    except socket.gaierror as error:
        raise UserError(f"--host: {host} is no address ({error.strerror})") from error
    except PermissionError as error:
        raise UserError(f"--port: {port} is not for every user; give one from 1024 on") from error
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise UserError(taken(port)) from error
        raise UserError(f"--host: {host} is no address of this machine ({error.strerror})") from error


def taken(port: int) -> str:
    """What is said of a port that is."""
    other = port + 1 if port < LAST_PORT else DEFAULT_PORT
    why = "is taken by another program, perhaps by another view"
    return f"--port: {port} {why}; give another, as --port {other}"


VIEW = Command(
    "view",
    "shows a run of text-to-3D in the browser",
    ViewOptions,
    _show,
    "renders",
    door="python -m carv_distill",
)
