"""Records of Hugging Face data sets, by name and revision, or from a folder."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from langadapt.corpus.reading.containers import BATCH, Item, arrow_records, require_columns
from langadapt.errors import UserError
from langadapt.recipe.sources import HubDataset


def place_of(dataset: HubDataset) -> str:
    """Return what messages call a data set: its name, and its revision unless that is the newest."""
    return dataset.name if dataset.revision == "main" else f"{dataset.name}@{dataset.revision}"


def iter_dataset(dataset: HubDataset, data_dir: str, required: Sequence[str]) -> Iterator[Item]:
    """Yield ``(row number from 1, record)`` or `Bad` for each row; only the ``required`` columns are read, and ``id``.

    A folder below ``data_dir`` goes before a data set of that name on the hub; it may hold data files or what
    `datasets.Dataset.save_to_disk` wrote. What the hub sends is kept in the cache of `datasets` and mapped into
    memory; code in a data set is never run. Raises `UserError` where there is no such data set, configuration, split,
    revision or column, or no connection.
    """
    import datasets

    folder = Path(data_dir).expanduser() / Path(dataset.name).expanduser()
    try:
        if (folder / "state.json").is_file() or (folder / "dataset_dict.json").is_file():
            data = datasets.load_from_disk(folder)
            data = data[dataset.split] if isinstance(data, datasets.DatasetDict) else data
        elif folder.is_dir():
            data = datasets.load_dataset(str(folder), dataset.config, split=dataset.split)
        else:
            data = datasets.load_dataset(dataset.name, dataset.config, split=dataset.split, revision=dataset.revision)
    except (OSError, ValueError, KeyError, datasets.exceptions.DatasetsError) as error:
        cause = f"{error.__cause__ or error}".strip().splitlines()[0]
        raise UserError(
            f"{place_of(dataset)}: the data set cannot be opened ({cause}). Check `name`, `config`, `split` and "
            "`revision`, and the connection; where there is none, fetch it elsewhere (hf download --repo-type dataset "
            f"{dataset.name}) and give its folder as `name`."
        ) from None
    require_columns(place_of(dataset), data.column_names, required)
    if required:
        data = data.select_columns([name for name in data.column_names if name in (*required, "id")])
    yield from arrow_records(place_of(dataset), data.with_format("arrow").iter(BATCH))
