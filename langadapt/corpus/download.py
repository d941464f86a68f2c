"""Fetching the sources and the base model from the Hugging Face hub, with the commit that was fetched."""

from __future__ import annotations

from pathlib import Path

from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.errors import HTTPError  # type: ignore[attr-defined]  # of whichever HTTP library it uses

from langadapt.errors import UserError
from langadapt.files import read_json_file, write_json
from langadapt.recipe.preprocess import Download, PreprocessSettings

RECORD = "downloaded.json"


def download_sources(settings: PreprocessSettings) -> None:
    """Fetch everything under the key `download`, and note the commit of each beside it.

    A broken download goes on where it stopped when run again. Raises `UserError` when the hub does not answer or does
    not know the repository or revision.
    """
    if not settings.download:
        raise UserError(
            "this recipe names nothing to download; its sources are local. Set `data_dir` and leave --download out."
        )
    for item in settings.download:
        folder = local_dir(item, settings)
        try:
            info = HfApi().repo_info(item.repo_id, repo_type=item.repo_type, revision=item.revision)
            print(f"{item.repo_type} {item.repo_id} at {info.sha} -> {folder}")
            snapshot_download(
                item.repo_id,
                repo_type=item.repo_type,
                revision=info.sha,
                local_dir=folder,
                allow_patterns=item.patterns,
            )
        except (HTTPError, OSError) as error:  # the hub's own errors and the connection's are among them
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise UserError(
                f"{item.repo_id} (revision {item.revision}): the download failed: {reason}. Check the network and the "
                "name; run the same command again to go on where it stopped."
            ) from None
        write_json(folder / RECORD, {"repo_id": item.repo_id, "revision": item.revision, "commit": info.sha})


def recorded_commits(settings: PreprocessSettings) -> dict[str, str]:
    """Return the commit of each download that is on this disk, by repository."""
    records = (local_dir(item, settings) / RECORD for item in settings.download)
    return {
        record["repo_id"]: record["commit"] for path in records if path.is_file() for record in [read_json_file(path)]
    }


def local_dir(item: Download, settings: PreprocessSettings) -> Path:
    """Return the folder a download goes to."""
    return Path(item.local_dir.replace("{data_dir}", settings.data_dir))
