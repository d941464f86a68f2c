"""Which data files the last run of stage 1 wrote: its report lists each with the hash of its bytes."""

from __future__ import annotations

from pathlib import Path

from langadapt.errors import UserError
from langadapt.files.records import read_json_object, sha256_of

REPORT = "data_report.json"


def files_vouched_for(folder: str | Path) -> list[str]:
    """Return the names of the data files that the report in ``folder`` lists; none if it cannot be read."""
    try:
        files = read_json_object(Path(folder) / REPORT)["files"]
    except (UserError, KeyError):
        return []
    return [name for name in files if Path(name).name == name] if isinstance(files, dict) else []


def check_vouched(path: str | Path) -> str:
    """Return the SHA-256 of a data file.

    Raises `UserError` when a report of stage 1 stands beside the file and does not list it with this hash: a file of
    an earlier run may share text with the test sets of the last one. Without a report, any file will do.
    """
    path = Path(path)
    sha256 = sha256_of(path)
    report = path.with_name(REPORT)
    if report.is_file():
        files = read_json_object(report, "Run stage 1 again.").get("files")
        listed = files.get(path.name) if isinstance(files, dict) else None
        if not isinstance(listed, dict) or listed.get("sha256") != sha256:
            raise UserError(
                f"{path}: not what the last run of stage 1 wrote, says {report}. Name a file that is listed there (the "
                "cutoff in the name may differ), run stage 1 again, or keep data of your own in another folder."
            )
    return sha256
