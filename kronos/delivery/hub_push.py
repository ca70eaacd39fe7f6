"""Upload a packaged model to the Hugging Face hub.

In: a packaged folder and "owner/name". Out: the address of the commit, or one clear line. The hub client finds the user's
token itself (HF_TOKEN, or what `hf auth login` has saved); it is never read or printed here.
"""

import json
import re
from pathlib import Path

import huggingface_hub
from huggingface_hub.errors import HfHubHTTPError

from kronos.delivery.package import METADATA, check_package
from kronos.errors import KitError
from kronos.networks.hub import HUB_ERRORS


def push(folder: str | Path, repository: str) -> str:
    """Check the folder, upload it as one commit to a private repository (made where missing) and tag it with its version.

    Returns the commit's address. Raises KitError when the folder is not sound, without a token, or when the hub refuses.
    """
    folder = Path(folder)
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", repository):
        raise KitError(f"--push: expected OWNER/NAME, found {repository!r}")
    check_package(folder)
    version = json.loads((folder / METADATA).read_text(encoding="utf-8"))["version"]
    client = huggingface_hub.HfApi()
    try:
        client.create_repo(repository, private=True, exist_ok=True)
        commit = client.upload_folder(repo_id=repository, folder_path=folder, commit_message=version, delete_patterns="*")
        client.create_tag(repository, tag=version, revision=commit.oid, exist_ok=True)
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
