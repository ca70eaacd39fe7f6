"""The commands that the documents show, as bash reads them.

In: Markdown pages. Out: the words of every command, found by running each page's `bash` blocks (one shell a
page, so that variables hold) and its inline commands with programs of the same names that only note how they
were called.
"""

import re
import stat
import subprocess
from dataclasses import dataclass
from pathlib import Path

PROGRAMS = ("python", "bash", "pytest", "kaggle", "accelerate", "pip", "unzip", "nvidia-smi")
PROGRAMS += ("curl", "tr", "sha256sum", "chmod", "cat", "kill")
NOTES = """#!/bin/bash
{ printf '%s\\0' "${0##*/}" "$@"; printf '\\n\\0'; } >>"$KIT_NOTES"
"""
INLINE = re.compile(
    r"(?<![`\w])`((?:python (?:scripts|kaggle)/|bash (?:scripts/|train_)|kaggle (?:competitions|kernels|datasets) \w+ -)[^`]*)`"
)


@dataclass(frozen=True)
class Command:
    """One command of a page. synopsis: it shows optional parts in brackets, so its words are flags to know,
    not a line to run.
    """

    page: str
    words: tuple[str, ...]
    synopsis: bool

    @property
    def script(self) -> str:
        """The kit's script that it runs, e.g. scripts/submit.py; '' where it runs none."""
        return next((word for word in self.words[:2] if re.search(r"\.(py|sh)$", word)), "")

    @property
    def arguments(self) -> tuple[str, ...]:
        return self.words[self.words.index(self.script) + 1 :] if self.script else self.words[1:]


def pages(root: Path) -> list[Path]:
    """Every document that shows commands."""
    return [
        *sorted(root.glob("README*.md")),
        *sorted((root / "docs").glob("*.md")),
        root / "submissions" / "README.md",
    ]


def blocks(text: str, language: str) -> list[str]:
    """The fenced blocks of a language, without the indentation of a list."""
    found = re.findall(rf"^( *)```{language}\n(.*?)^ *```", text, flags=re.MULTILINE | re.DOTALL)
    return [re.sub(rf"^{indent}", "", body, flags=re.MULTILINE) for indent, body in found]


def commands(page: Path, root: Path, folder: Path) -> list[Command]:
    """Every command of a page, in its order; inline ones last."""
    text = page.read_text(encoding="utf-8")
    name = str(page.relative_to(root))
    shown = blocks(text, "bash") + blocks(text, "console")
    inline = INLINE.findall(text)
    found = []
    for source in ["\n".join(shown), *inline]:
        for synopsis in (False, True):
            lines = _joined(source)
            kept = [line for line in lines if ("[" in line) == synopsis]
            found += [
                Command(name, words, synopsis) for words in _called("\n".join(map(_plain, kept)), folder)
            ]
    return found


def _joined(source: str) -> list[str]:
    """Lines; those that go on (indented, or ending in a backslash, or within quotes) as one."""
    lines: list[str] = []
    for line in source.splitlines():
        if lines and (
            lines[-1].endswith("\\") or lines[-1].count('"') % 2 or (line.startswith("   ") and "[" in line)
        ):
            lines[-1] = f"{lines[-1].removesuffix(chr(92))} {line.strip()}"
        else:
            lines.append(line)
    return lines


def _plain(line: str) -> str:
    """A synopsis without its brackets; `<time>` is a redirection to bash."""
    line = re.sub(r"<(\w+)>", r"\1", line)
    return re.sub(r" \| |[][]|\.\.\.", " ", line).replace("|", "/") if "[" in line else line


def _called(source: str, folder: Path) -> list[tuple[str, ...]]:
    tools = folder / "tools"
    tools.mkdir(exist_ok=True)
    for name in PROGRAMS:
        (tools / name).write_text(NOTES)
        (tools / name).chmod((tools / name).stat().st_mode | stat.S_IXUSR)
    notes = folder / "notes"
    notes.write_bytes(b"")
    done = subprocess.run(
        ["/bin/bash", "-eu", "-c", f"enable -n kill\n{source}"],
        cwd=folder,
        env={"PATH": str(tools), "KIT_NOTES": str(notes)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, f"bash cannot read this:\n{source}\n{done.stderr}"
    calls = notes.read_text().split("\0\n\0")[:-1]
    return [tuple(call.split("\0")) for call in calls]
