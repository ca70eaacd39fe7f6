"""Upload a packaged model to the Hugging Face hub.

In: a packaged folder and "owner/name". Out: the address of the commit, or one clear line. The hub client
finds the user's token itself (HF_TOKEN, or what `hf auth login` has saved); it is never read or printed here.
"""

import re
from pathlib import Path
from typing import Any

import huggingface_hub
from huggingface_hub.errors import HfHubHTTPError

from kronos import records
from kronos.delivery.package import check_package
from kronos.delivery.package_facts import CHECKSUMS, METADATA
from kronos.errors import KitError
from kronos.networks.hub import HUB_ERRORS

OF_THE_HUB = {".gitattributes"}
"""What the hub itself puts into a new repository."""


def push(
    folder: str | Path, repository: str, allow_public: bool = False, replace_others: bool = False
) -> str:
    """Check the folder, upload it as one commit to a private repository (made where missing) and tag it with
    its version.

    The repository's files become those of the folder. Returns the commit's address. Raises KitError when the
    folder is not sound, without a token, when the hub refuses, when the repository is public (unless
    `allow_public`), or when it holds files that no package of ours left there (unless `replace_others`).
    """
    folder = Path(folder)
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", repository):
        raise KitError(f"--push: expected OWNER/NAME, found {repository!r}")
    check_package(folder)
    version = str(records.read(folder / METADATA, dict[str, Any])["version"])
    client = huggingface_hub.HfApi()
    try:
        client.create_repo(repository, private=True, exist_ok=True)  # changes nothing about one that exists
        _check_repository(client.repo_info(repository), repository, allow_public, replace_others)
        commit = client.upload_folder(
            repo_id=repository, folder_path=folder, commit_message=version, delete_patterns="*"
        )
        _tag(client, repository, version, commit.oid)
    except HfHubHTTPError as error:
        code = getattr(error.response, "status_code", "no status")
        reason = " ".join(str(error.server_message or error).split())[:200]
        raise KitError(
            f"{repository}: expected the hub to take the upload, found {code}: {reason}; check the name, and that your token "
            "('hf auth login' or HF_TOKEN) is valid and may write there"
        ) from error
    except HUB_ERRORS as error:
        raise KitError(
            f"{repository}: expected a connection to the hub, found {type(error).__name__}; try again later"
        ) from error
    return str(commit.commit_url)


def _tag(client: huggingface_hub.HfApi, repository: str, version: str, commit: str) -> None:
    """Let the tag `version` name the commit, also where an earlier upload of the same version has left it on
    another.
    """
    tags = {ref.name: ref.target_commit for ref in client.list_repo_refs(repository).tags}
    if tags.get(version) == commit:
        return
    if version in tags:
        client.delete_tag(repository, tag=version)
    client.create_tag(repository, tag=version, revision=commit)


def _check_repository(info: Any, repository: str, allow_public: bool, replace_others: bool) -> None:
    """Refuse to publish, or to delete somebody's files, by an upload that was meant to do neither."""
    if not info.private and not allow_public:
        raise KitError(
            f"{repository}: expected a private repository, found a public one; make it private in its settings, name another, "
            "or publish with --allow-public"
        )
    names = {entry.rfilename for entry in info.siblings or []} - OF_THE_HUB
    if names and not {METADATA, CHECKSUMS} <= names and not replace_others:
        raise KitError(
            f"{repository}: expected an empty repository or an earlier package, found {len(names)} other files, e.g. "
            f"{min(names)}; name another repository, or delete them with --replace-others"
        )
