"""Records of Hugging Face data sets, by name and revision, or from a folder."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from langadapt.errors import UserError
from langadapt.files.containers import BATCH, Item, arrow_records, require_columns
from langadapt.recipe.sources import HubDataset

if TYPE_CHECKING:
    from datasets import DatasetBuilder

_COMMIT = re.compile("[0-9a-f]{40}")


def place_of(dataset: HubDataset) -> str:
    """Return what messages call a data set: its name, and its revision unless that is the newest."""
    return dataset.name if dataset.revision == "main" else f"{dataset.name}@{dataset.revision}"


def folder_of(dataset: HubDataset, data_dir: str) -> Path:
    """Return the folder below ``data_dir`` that a data set is read from; where there is none, it is on the hub."""
    return Path(data_dir).expanduser() / Path(dataset.name).expanduser()


def resolve_commit(dataset: HubDataset) -> str | None:
    """Return the commit on the hub that the revision stands for, or None where that cannot be known.

    Without a connection it is the commit that the cache of `datasets` holds, the newest there, which is what is read
    then. Raises `UserError` as `iter_dataset` does.
    """
    with _explained(dataset):
        commit = str(_open_from_hub(dataset).hash)
    return commit if _COMMIT.fullmatch(commit) else None


def iter_dataset(dataset: HubDataset, data_dir: str, required: Sequence[str]) -> Iterator[Item]:
    """Yield ``(row number from 1, record)`` or `Bad` for each row; only the ``required`` columns are read, and ``id``.

    A folder may hold data files or what `datasets.Dataset.save_to_disk` wrote. What the hub sends is kept in the cache
    of `datasets` and mapped into memory; code in a data set is never run. Raises `UserError` where there is no such
    data set, configuration, split, revision or column, or no connection.
    """
    import datasets

    folder = folder_of(dataset, data_dir)
    with _explained(dataset):
        if (folder / "state.json").is_file() or (folder / "dataset_dict.json").is_file():
            data = datasets.load_from_disk(folder)
            data = data[dataset.split] if isinstance(data, datasets.DatasetDict) else data
        elif folder.is_dir():
            data = datasets.load_dataset(str(folder), dataset.config, split=dataset.split)
        else:
            builder = _open_from_hub(dataset)
            builder.download_and_prepare()
            data = builder.as_dataset(dataset.split)
    require_columns(place_of(dataset), data.column_names, required)
    if required:
        data = data.select_columns([name for name in data.column_names if name in (*required, "id")])
    yield from arrow_records(place_of(dataset), data.with_format("arrow").iter(BATCH))


def _open_from_hub(dataset: HubDataset) -> DatasetBuilder:
    import datasets

    builder = datasets.load_dataset_builder(dataset.name, dataset.config, revision=dataset.revision)
    # Without a connection `datasets` takes the newest commit in its cache, whichever was asked for.
    if _COMMIT.fullmatch(dataset.revision) and builder.hash != dataset.revision:
        raise ValueError(f"no connection, and the newest commit in the cache is {builder.hash}")
    return builder


@contextmanager
def _explained(dataset: HubDataset) -> Iterator[None]:
    import datasets

    try:
        yield
    except (OSError, ValueError, KeyError, datasets.exceptions.DatasetsError) as error:
        cause = f"{error.__cause__ or error}".strip().splitlines()[0]
        raise UserError(
            f"{place_of(dataset)}: the data set cannot be opened ({cause}). Check `name`, `config`, `split` and "
            "`revision`, and the connection; where there is none, fetch it elsewhere (hf download --repo-type dataset "
            f"{dataset.name}) and give its folder as `name`."
        ) from None
