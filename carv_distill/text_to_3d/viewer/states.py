"""What there is to see of a run: its scene at the newest checkpoint, its mesh, its figures."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from carv_distill.engine.folder import METRICS, checkpoints_in, product_step
from carv_distill.engine.lock import is_owned
from carv_distill.engine.metrics import read_metrics
from carv_distill.errors import UserError
from carv_distill.text_to_3d.options import SDSConfig
from carv_distill.text_to_3d.scene_files import load_scene
from carv_distill.text_to_3d.states import State, state_at

Signature = tuple[tuple[str, int], ...]


def load_state(run: Path, config: SDSConfig, device: str) -> State:
    """The scene at a run's newest checkpoint; that of `object/` where checkpoints are gone.

    Raises:
        UserError: neither is there, or can be read.
    """
    if not checkpoints_in(run / "checkpoints"):
        scene, _, _ = load_scene(run / "object")
        return State(scene.to(device), product_step(run) or 0)
    return state_at(run, config, device)


@dataclass(frozen=True)
class Facts:
    """What the panel says of a run."""

    update: str
    score: str
    activity: str


class Newest:
    """The newest state and mesh of a run, each given once, and its figures."""

    def __init__(self, run: Path, config: SDSConfig, device: str) -> None:
        self.run, self.config, self.device = run, config, device
        self._state_at: Signature = ()
        self._mesh_at: Signature = ()
        self._metrics_at: Signature = ()
        self._score = "not measured yet"

    def state(self) -> State | None:
        """Where there is one that was not given yet.

        Raises:
            UserError: a file that lies there for good cannot be read; said once. Of one that is replaced or
                removed while it is read, the next call sees the successor.
        """
        checkpoints = [path for path, _ in checkpoints_in(self.run / "checkpoints")]
        files = checkpoints or [self.run / "object/scene.safetensors"]
        seen = _signature(files)
        if not seen or seen == self._state_at:
            return None
        try:
            state = load_state(self.run, self.config, self.device)
        except (UserError, FileNotFoundError) as error:
            if seen != _signature(files):
                return None
            self._state_at = seen
            raise UserError(str(error)) from error
        self._state_at = seen
        return state

    def mesh(self) -> bytes | None:
        """The content of a `mesh.glb` that was not given yet."""
        path = self.run / "object/mesh.glb"
        seen = _signature([path])
        if not seen or seen == self._mesh_at:
            return None
        self._mesh_at = seen
        try:
            return path.read_bytes()
        except FileNotFoundError:  # an export of a scene without a surface has just removed it
            return None

    def facts(self, state: State | None) -> Facts:
        """What the panel says, as metrics.csv and the run's lock have it now."""
        metrics = self.run / METRICS
        if (seen := _signature([metrics])) != self._metrics_at:
            self._metrics_at, self._score = seen, last_score(metrics)
        first, last = self.config.checkpoint.every, self.config.trainer.max_steps
        update = f"seen from {first} on" if state is None else f"{state.step} of {last}"
        return Facts(update, self._score, self._activity(state))

    def _activity(self, state: State | None) -> str:
        if is_owned(self.run):
            return "a process works on it"
        if state is None:
            return "it ended before that"
        finished = state.step >= self.config.trainer.max_steps
        return "finished" if finished else "stopped; --resume goes on"


def last_score(metrics: Path) -> str:
    """The last CLIP score, its interval and its update."""
    try:
        rows = [row for row in read_metrics(metrics) if "clip/score" in row]
    except UserError as error:
        return str(error)
    if not rows:
        return "not measured yet"
    row = rows[-1]
    low, high = row.get("clip/score_low"), row.get("clip/score_high")
    interval = "" if low is None or high is None else f" [{low:.1f}, {high:.1f}]"
    return f"{row['clip/score']:.1f}{interval} at update {int(row['step'])}"


def _signature(paths: list[Path]) -> Signature:
    """Names and times of those files that are there."""
    signature = []
    for path in paths:
        try:
            signature.append((path.name, path.stat().st_mtime_ns))
        except FileNotFoundError:
            continue
    return tuple(signature)
