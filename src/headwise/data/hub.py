"""Datasets of the Hugging Face Hub, or the copies of them on this machine.

text = dataset(DataConfig(source="hub", name="roneneldan/TinyStories"), "train")
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
from typing import Any

from headwise.config import DataConfig
from headwise.console import Progress, say
from headwise.data.readers import as_lines, document, find_column
from headwise.data.surveys import once, require_unchanged, stamp
from headwise.errors import UserError, require
from headwise.stream import Source, Stream, first, survey

SECONDS = 5  # to wait for the Hub's first answer
ROWS = 256  # read at a time


def dataset(data: DataConfig, split: str) -> Source:
    """A split of the dataset, a document in each row that has text. Raises UserError where neither the Hub nor this
    machine has it, or it has no such configuration, split or column."""
    revision = newest(str(data.name))
    rows = load(data, split, revision)
    read = partial(read_rows, rows, data, split)
    settings = [data.name, data.config, split, data.column, data.join_rows, data.max_documents]
    if data.streaming:
        return Source(read, f"{revision} {settings}")
    files = [Path(file["filename"]) for file in rows.cache_files]
    seen = stamp(files)

    def found() -> dict:
        source = survey(read, Progress("read", "characters"))
        return {name: getattr(source, name) for name in ("fingerprint", "characters", "documents")}

    check = partial(require_unchanged, files, seen, f"data.name={data.name}")
    return Source(read, **once(seen, settings, data.cache_dir, found), check=check)


@cache
def newest(name: str) -> str | None:
    """The revision of a dataset that the Hub has now, asked for once, so that both halves are of one; None where it
    does not answer."""
    from huggingface_hub import HfApi, constants
    from huggingface_hub.errors import GatedRepoError, HFValidationError, OfflineModeIsEnabled, RepositoryNotFoundError

    try:
        return HfApi().dataset_info(name, timeout=SECONDS).sha
    except HFValidationError as error:
        raise UserError(f"data.name={name} is no name of a dataset ({error})") from error
    except (RepositoryNotFoundError, GatedRepoError) as error:
        raise UserError(
            f"data.name={name} is no dataset of {constants.ENDPOINT} that you may read; log in with `hf auth login` "
            "where it is private, or has conditions"
        ) from error
    except OfflineModeIsEnabled:
        return None
    except Exception as error:  # of whichever HTTP library it uses
        say(f"{constants.ENDPOINT} does not answer ({str(error).splitlines()[0]}); looking for a copy on this machine")
        return None


def load(data: DataConfig, split: str, revision: str | None) -> Any:
    """A split's rows, as `datasets` has them: of this revision, or of a copy from before where there is none."""
    import datasets

    datasets.logging.set_verbosity_error()
    wanted = f"data.name={data.name}"
    require(
        revision is not None or not data.streaming,
        f"{wanted} data.streaming=true needs the Hub; without it, give data=files data.path=FOLDER data.column="
        f"{data.column} with a copy of the files",
    )
    try:
        with offline(revision is None):
            return datasets.load_dataset(
                data.name, data.config, split=split, revision=revision, streaming=data.streaming
            )
    except ConnectionError as error:
        raise UserError(
            f"{wanted} is neither to be had from the Hub nor among the copies in {datasets.config.HF_DATASETS_CACHE}; "
            f"fetch it where there is a network (hf download {data.name} --repo-type dataset --local-dir FOLDER) and "
            f"give data=files data.column={data.column} with data.path and data.val_path for its files"
        ) from error
    except (ValueError, FileNotFoundError, datasets.exceptions.DatasetsError) as error:
        why = " ".join(str(error).split())
        raise UserError(f"{wanted} data.config={data.config} split {split}: {why}") from error


@contextmanager
def offline(on: bool) -> Iterator[None]:
    """Whether the Hub's libraries keep to what is on this machine, for as long as the block lasts."""
    import datasets
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = datasets.config.HF_HUB_OFFLINE = on
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE = before


def read_rows(rows: Any, data: DataConfig, split: str) -> Stream:
    """The column of each row that has text, END after each of them, or after all where the rows are lines."""

    def documents() -> Stream:
        number, what = 0, f"data.name={data.name} {split}"
        for table in rows.with_format("arrow").iter(ROWS):
            find_column(data.column, table.column_names, what)
            for value in table[data.column].to_pylist():
                number += 1
                yield from document(value, f"{what} row {number}, {data.column},")

    wanted = first(documents(), data.max_documents)
    yield from as_lines(wanted) if data.join_rows else wanted
