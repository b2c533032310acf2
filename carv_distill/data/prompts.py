"""Lists of prompts: a text file, a table, or a folder of Hugging Face's `datasets`."""

from __future__ import annotations

from pathlib import Path

from carv_distill.errors import UserError

from .tables import TABLES, TEXT, decode_text, read_dataset, read_table


def read_prompts(path: Path | str) -> list[str]:
    """Prompts in their order; those that are there twice stay so, as they are drawn uniformly and are then
    drawn twice as often.

    A `.txt` has one a line, less the space around it; blank lines are passed over, and all else is part of a
    prompt, a # and commas too. A `.jsonl`, `.csv`, `.parquet`, or a folder by `datasets.save_to_disk`, has
    them in its column `prompt`, `text` or `caption`, as they are.

    Raises:
        UserError: nothing there, no prompts in it, not UTF-8, no such column or two, a value that is no text
            or an empty one, or a file or folder of another kind.
    """
    place = Path(path)
    prompts = [text for _, (text,) in read_dataset(place, TEXT)] if place.is_dir() else _from_file(place)
    if not prompts:
        raise UserError(f"prompts.path: {path} holds no prompts; it needs one at least, in a .txt one a line")
    return prompts


def _from_file(file: Path) -> list[str]:
    suffix = file.suffix.lower()
    if not file.exists():
        raise UserError(f"{file} does not exist; a file of prompts is needed: .txt, {', '.join(TABLES)}")
    if suffix not in (".txt", *TABLES):
        raise UserError(f"{file}: prompts are read from .txt, {', '.join(TABLES)}, or a folder of datasets")
    if not file.is_file():  # a pipe would be waited for
        raise UserError(f"{file}: cannot be read (it is no file)")
    try:
        content = file.read_bytes()
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror})") from error
    if suffix != ".txt":
        return [text for _, (text,) in read_table(content, str(file), TEXT)]
    # not splitlines(): it cuts at characters that may stand within a prompt
    lines = decode_text(content, str(file)).replace("\r\n", "\n").replace("\r", "\n").split("\n")
    return [prompt for line in lines if (prompt := line.strip())]
