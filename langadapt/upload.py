"""A finished model or data set to the Hugging Face hub; without --go it only says what it would do.

    python -m langadapt.upload saves/quickstart/full/sft --repo_id me/tibetan-small --license apache-2.0
    HF_TOKEN=hf_... python -m langadapt.upload saves/quickstart/full/sft --repo_id me/tibetan-small --go

The token is taken from the environment variable HF_TOKEN and from nowhere else. A repository is private unless --public
is given. Run again after an interruption, it sends only what is missing.
"""

from __future__ import annotations

import argparse
import os
from fnmatch import fnmatch
from pathlib import Path

from huggingface_hub import HfApi, RepoCard
from huggingface_hub.errors import (  # type: ignore[attr-defined]  # HTTPError: of whichever HTTP library it uses
    HfHubHTTPError,
    HFValidationError,
    HTTPError,
    OfflineModeIsEnabled,
)
from huggingface_hub.utils._validators import validate_repo_id

from langadapt.errors import UserError, run_command
from langadapt.files import check_vouched, write_text
from langadapt.files.provenance import REPORT, files_vouched_for

CARD = "README.md"
# Of a path below the folder, any part: what only a run that goes on needs, or nobody but its machine.
_LEFT_OUT = (
    ".*",
    "checkpoint-*",
    "damaged-checkpoint-*",
    "tokens-*",
    "extended_base",
    "runs",
    "*.partial*",
    "*.tmp",
    "*.log",
    "optimizer*",
    "scheduler*",
    "rng_state*",
    "quarantine.jsonl",
)
_AGAIN = "Run the same again: it sends only what is missing."
_LOGS = ("training_log.jsonl", "loss_curve.png")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="a finished model, or what stage 1 or the preference maker wrote")
    parser.add_argument("--repo_id", required=True, metavar="ME/NAME", help="where to on the hub")
    parser.add_argument("--kind", choices=("model", "dataset"), help="default: what the folder holds")
    parser.add_argument("--license", metavar="ID", help="written into the card, e.g. apache-2.0, cc-by-sa-4.0")
    parser.add_argument("--public", action="store_true", help="for everybody to see; default: private")
    parser.add_argument("--logs", action="store_true", help="the training log and its chart too")
    parser.add_argument("--go", action="store_true", help="do it; without, nothing is sent")
    arguments = parser.parse_args()
    folder: Path = arguments.folder
    try:
        validate_repo_id(arguments.repo_id)
    except HFValidationError as error:
        raise UserError(f"--repo_id {arguments.repo_id}: {error}") from None
    kind = arguments.kind or kind_of(folder)
    check_finished(folder, kind)
    card = card_with_licence(folder, arguments.license)
    files, left_out = files_to_send(folder, arguments.logs)
    seen = "public" if arguments.public else "private"
    total = sum((folder / name).stat().st_size for name in files if (folder / name).is_file())
    print(f"{folder} -> {kind} {arguments.repo_id} ({seen}): {len(files)} files, {total:,} bytes")
    for name in files:
        size = len(card.encode()) if name == CARD else (folder / name).stat().st_size
        print(f"{size:>15,}  {name}")
    for name in left_out:
        print(f"{'left out':>15}  {name}")
    if not arguments.go:
        print("nothing was sent; --go sends it")
        return
    write_text(folder / CARD, card)
    print(send(folder, arguments.repo_id, kind, files, private=not arguments.public))


def kind_of(folder: Path) -> str:
    """Return ``model`` or ``dataset``; raises `UserError` for a folder that is neither."""
    for kind, name in (("model", "config.json"), ("dataset", REPORT)):
        if (folder / name).is_file():
            return kind
    raise UserError(f"{folder}: neither a finished model (config.json) nor a data set ({REPORT}). Nothing was sent.")


def check_finished(folder: Path, kind: str) -> None:
    """Raise `UserError` for a model without weights, and for data that its report does not vouch for."""
    if kind == "model":
        if not (folder / "config.json").is_file() or not list(folder.glob("*.safetensors")):
            raise UserError(f"{folder}: no finished model (config.json and *.safetensors). Let its training end first.")
        return
    if not (names := files_vouched_for(folder)):
        raise UserError(f"{folder}: no finished data set, for {REPORT} is not there or lists no file. Run stage 1.")
    for name in names:
        if not (folder / name).is_file():
            raise UserError(f"{folder / name} is missing, which {REPORT} lists. Run stage 1 again.")
        check_vouched(folder / name)


def card_with_licence(folder: Path, licence: str | None) -> str:
    """Return the card to send: README.md, or of a data set without one its report as a page.

    Raises `UserError` where there is none, and where neither it nor ``licence`` states a licence.
    """
    page = next((folder / name for name in (CARD, "data_report.md") if (folder / name).is_file()), None)
    if page is None:
        raise UserError(f"{folder}: no card ({CARD}), without which nobody knows what it is. Write one.")
    card = RepoCard(page.read_text(encoding="utf-8"), ignore_metadata_errors=True)
    if licence is not None:
        card.data["license"] = licence
    if not card.data.get("license"):
        raise UserError(f"{page} states no licence. Give one that the data and the base model allow: --license ID.")
    return str(card)


def files_to_send(folder: Path, logs: bool) -> tuple[list[str], list[str]]:
    """Return the names, below ``folder``, of what is sent and of what is left out; of folders left out their own."""
    sent, left_out = {CARD}, set()
    for path in sorted(folder.rglob("*")):
        parts = path.relative_to(folder).parts
        unwanted = next((k for k, part in enumerate(parts) if any(fnmatch(part, p) for p in _LEFT_OUT)), None)
        if unwanted is not None:
            left_out.add("/".join(parts[: unwanted + 1]))
        elif not logs and parts[-1] in _LOGS:
            left_out.add("/".join(parts))
        elif path.is_symlink():
            raise UserError(f"{path} is a link, which could bring along what is elsewhere. Replace it by the file.")
        elif path.is_file():
            sent.add("/".join(parts))
    return sorted(sent), sorted(left_out)


def send(folder: Path, repo_id: str, kind: str, files: list[str], private: bool) -> str:
    """Make the repository, if it is not there, send the files, and return its address.

    Raises `UserError` without HF_TOKEN, for a repository that is there and public where a private one is asked for, or
    the other way round, and with what the hub answers where it refuses.
    """
    token = os.environ.get("HF_TOKEN")
    if not token:
        raise UserError("HF_TOKEN is not set. Make a token that may write on the hub, and put it into the environment.")
    api = HfApi(token=token)
    try:
        address = api.create_repo(repo_id, repo_type=kind, private=private, exist_ok=True)
        if api.repo_info(repo_id, repo_type=kind).private != private:
            wrong, way_out = ("public", "Give --public") if private else ("private", "Leave out --public")
            raise UserError(f"{repo_id} is there already, and {wrong}. {way_out}, or give another --repo_id.")
        api.upload_folder(
            repo_id=repo_id,
            repo_type=kind,
            folder_path=folder,
            allow_patterns=[_literal(name) for name in files],
            commit_message="Upload by langadapt",
        )
    except HfHubHTTPError as error:
        status = error.response.status_code if error.response is not None else "no answer"
        raise UserError(f"the hub refused ({status}): {error.server_message or 'it says no more'}") from None
    except (HTTPError, OfflineModeIsEnabled) as error:
        raise UserError(f"{api.endpoint}: no answer ({error}). {_AGAIN}") from None
    except RuntimeError as error:  # of one large file, when it was tried several times
        raise UserError(f"{error} ({error.__cause__ or 'it says no more'}) {_AGAIN}") from None
    return str(address)


def _literal(name: str) -> str:
    """Return a file name as a pattern that matches nothing else."""
    return "".join(f"[{character}]" if character in "*?[" else character for character in name)


if __name__ == "__main__":
    run_command(main)
