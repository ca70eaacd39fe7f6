"""scripts/submit.py against a Kaggle on loopback: what is sent, what counts as sent, and what the ledger
remembers.
"""

import csv
import gzip
import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from kaggle_stub import COMPETITION, EXPIRED, Stub, script

from kronos import configfile, files
from kronos.config import Config
from kronos.delivery import submit
from kronos.delivery.client import KaggleError
from kronos.delivery.ledger import Ledger
from kronos.delivery.parcel import Parcel, pack
from kronos.delivery.process import WORKER
from kronos.errors import KitError

FOLDER = Path("data") / COMPETITION
FILE = Path("submissions") / "mine.csv"
LEDGER = Path("submissions") / "ledger.csv"
SAMPLE = "ID,Pred\na,0\nb,0\nc,0\n"
ANSWER = "ID,Pred\na,1\nb,0\nc,1\n"


@pytest.fixture
def config(root: Path, stub: Stub, monkeypatch: pytest.MonkeyPatch) -> Config:
    """The competition's sample and a file to submit; the first look at the score comes soon."""
    monkeypatch.setattr(submit, "FIRST_PAUSE", 0.05)
    monkeypatch.setattr(submit, "SETTLE", 0.5)
    FOLDER.mkdir(parents=True)
    (FOLDER / "sample_submission.csv").write_text(SAMPLE)
    (FOLDER / "test.csv").write_text("ID,Date\na,2024-01-05\nb,2024-01-05\nc,2024-01-05\n")
    FILE.parent.mkdir()
    FILE.write_text(ANSWER)
    return configfile.load(root / "configs" / "kaggle.yaml")


@pytest.fixture
def parcel(config: Config) -> Parcel:
    return pack(config, FILE, "first try")


@pytest.fixture
def ledger(config: Config) -> Ledger:
    return Ledger(LEDGER)


def only(ledger: Ledger) -> dict[str, str]:
    (row,) = ledger.rows()
    return row


def with_manifest(**more: Any) -> None:
    tree = {"sha256": files.digest(FILE), "config": {"model_paths": {"base_save_path": "runs/kaggle"}}}
    files.write_json(FILE.with_suffix(".json"), tree | more)


# -- the command ---------------------------------------------------------------------------------------------
def test_command_sends_waits_logs_and_shows(stub: Stub, config: Config, root: Path) -> None:
    """The user's day: one command from the file to its score in the log."""
    with_manifest()
    done = script(root, "submit", "--file", str(FILE), "--message", "first, try", "--timeout", "60")
    assert done.returncode == 0, done.stderr
    assert list(stub.uploads.values()) == [ANSWER.encode()]
    row = only(Ledger(LEDGER))
    assert (row["ref"], row["status"], row["public"], row["run"]) == (
        "1000",
        "complete",
        stub.score,
        "runs/kaggle",
    )
    assert (row["sha256"], row["message"], row["expected"]) == (
        files.digest(FILE),
        "first, try",
        "no backtest",
    )
    assert re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d", row["date"])
    assert "submissions left today: 4" in done.stdout and "waiting for the score" in done.stdout
    assert re.search(
        rf"\| .*mine.csv .*\| kaggle .*\| {stub.score} .*\| no backtest .*\| complete .*\| 1000 ", done.stdout
    )

    second = script(root, "submit", "--file", str(FILE), "--message", "again?")
    assert (
        second.returncode == 2
        and "the same content was submitted" in second.stderr
        and stub.score in second.stderr
    )
    assert "--again" in second.stderr and len(stub.submissions) == 1

    third = script(root, "submit", "--file", str(FILE), "--message", "again", "--again", "--no-wait")
    assert third.returncode == 0 and [item["description"] for item in stub.submissions] == [
        "first, try",
        "again",
    ]
    assert [row["status"] for row in Ledger(LEDGER).rows()] == ["complete", "pending"]


def test_dry_run_touches_nothing(stub: Stub, config: Config, root: Path) -> None:
    """Five submissions a day are few: one must be able to look before."""
    done = script(root, "submit", "--file", str(FILE), "--message", "look", "--dry-run", KAGGLE_API_TOKEN="")
    assert done.returncode == 0, done.stderr
    for fact in (
        COMPETITION,
        "mine.csv",
        "3 (66.7% rises)",
        "look",
        "no backtest",
        "Not submitted before",
        files.digest(FILE)[:16],
    ):
        assert fact in done.stdout
    assert not stub.requests and not LEDGER.exists()


def test_line_of_an_error(stub: Stub, config: Config, root: Path) -> None:
    """An expired token, the whole way: exit code 2, one line, and the log says that nothing was sent."""
    done = script(root, "submit", "--file", str(FILE), "--message", "m", KAGGLE_API_TOKEN=EXPIRED)
    assert (
        done.returncode == 2
        and done.stderr.startswith("error: Kaggle rejects")
        and done.stderr.count("\n") == 1
    )
    assert not LEDGER.exists()


# -- what counts as sent -------------------------------------------------------------------------------------
@pytest.mark.parametrize("status", [403, 503])
def test_failed_upload_is_no_success(stub: Stub, parcel: Parcel, ledger: Ledger, status: int) -> None:
    """kaggle 2.2.4 exits with 0 here: whoever trusts that waits for a score that never comes."""
    stub.upload_status = status
    with pytest.raises(KaggleError, match="upload to Kaggle broke off"):
        submit.submit(parcel, ledger)
    assert only(ledger)["status"] == "failed" and not stub.submissions
    stub.upload_status = 200
    assert submit.submit(parcel, ledger)["public"] == stub.score


def test_interrupted_upload_is_taken_up(stub: Stub, parcel: Parcel, ledger: Ledger) -> None:
    """A connection that breaks once must not cost the submission, nor make two."""
    stub.cut_uploads = 1
    assert submit.submit(parcel, ledger)["status"] == "complete"
    assert list(stub.uploads.values()) == [ANSWER.encode()] and len(stub.submissions) == 1


def test_lost_answer_is_looked_up(
    stub: Stub, parcel: Parcel, ledger: Ledger, caplog: pytest.LogCaptureFixture
) -> None:
    """Kaggle took the file, the answer got lost: a second try would burn a submission of the day."""
    stub.lose_answer = "break"
    row = submit.submit(parcel, ledger)
    assert (row["ref"], row["public"]) == ("1000", stub.score)
    assert "yet Kaggle lists the submission" in caplog.text and len(stub.submissions) == 1


def test_silence_while_sending(stub: Stub, parcel: Parcel, ledger: Ledger) -> None:
    """Neither hanging for ever nor claiming a success."""
    stub.silent = {"PUT"}
    with pytest.raises(KaggleError, match="silent"):
        submit.submit(parcel, ledger, patience=3)
    assert only(ledger)["status"] == "failed"


def test_unknown_outcome_is_called_unknown(
    stub: Stub, parcel: Parcel, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The network goes while the answer is on its way: "failed" would be a guess, and so would "sent"."""
    stub.lose_answer = "break"
    send = submit.Client.submit

    def send_and_lose_the_line(self: Any, file: Path, message: str) -> dict[str, Any]:
        stub.errors = {"ListSubmissions": (500, "gone")} if stub.lose_answer else {}
        return send(self, file, message)

    monkeypatch.setattr(submit.Client, "submit", send_and_lose_the_line)
    with pytest.raises(KitError, match="not known: the next call looks first"):
        submit.submit(parcel, ledger)
    assert only(ledger)["status"] == "unclear"
    stub.lose_answer, stub.errors = "", {}
    assert submit.submit(parcel, ledger)["ref"] == "1000"
    assert len(stub.submissions) == 1


REFUSALS = [
    ("CreateSubmission", 400, "You have used all 5 submissions", "used all 5", "refused"),
    ("StartSubmissionUpload", 403, "You must accept the rules", "/rules", "refused"),
    ("CreateSubmission", 429, "slow down", "wait some minutes", "refused"),
    ("CreateSubmission", 500, "boom", "problem of its own", "failed"),
]


@pytest.mark.parametrize(("route", "status", "message", "line", "state"), REFUSALS)
def test_refusals(
    stub: Stub, parcel: Parcel, ledger: Ledger, route: str, status: int, message: str, line: str, state: str
) -> None:
    """The reason reaches the user in one line and stays in the log; the content can be sent later."""
    stub.errors = {route: (status, message)}
    with pytest.raises(KaggleError, match=line):
        submit.submit(parcel, ledger)
    row = only(ledger)
    assert row["status"] == state and message in row["problem"]
    assert submit.last(parcel, ledger) is None


def test_no_submission_left(stub: Stub, parcel: Parcel, ledger: Ledger) -> None:
    """Said before the upload, with the hour at which the count begins anew."""
    submit.submit(parcel, ledger, wait=0)
    stub.allowed = 0
    with pytest.raises(KitError, match=r"no submission is left today \(1 made\).*00:00 UTC"):
        submit.submit(parcel, ledger, again=True)
    assert len(stub.submissions) == 1


def test_unknown_limits_do_not_stop_a_submission(stub: Stub, parcel: Parcel, ledger: Ledger) -> None:
    """How many are left is a comfort, not a condition."""
    stub.errors = {"GetSubmissionLimits": (404, "no such route")}
    assert submit.submit(parcel, ledger)["status"] == "complete"


# -- killed, late, twice -------------------------------------------------------------------------------------
def start(root: Path, *more: str) -> subprocess.Popen[str]:
    command = [
        sys.executable,
        str(root / "scripts" / "submit.py"),
        "--config",
        str(root / "configs" / "kaggle.yaml"),
    ]
    command += ["--file", str(FILE), "--message", "first try", *more]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )


@pytest.mark.parametrize("sent", [True, False])
def test_killed_while_sending(stub: Stub, parcel: Parcel, ledger: Ledger, root: Path, sent: bool) -> None:
    """The next call finds out on Kaggle's list whether the file arrived: once is sent once, not at all is
    sent now.
    """
    stub.lose_answer, stub.silent = ("hang", set()) if sent else ("", {"PUT"})
    process = start(root)
    end = time.monotonic() + 60
    while not stub.asked("CreateSubmission" if sent else "PUT"):
        assert time.monotonic() < end
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert only(ledger)["status"] == "sending"
    stub.lose_answer, stub.silent = "", set()
    assert submit.submit(parcel, ledger)["public"] == stub.score
    assert len(stub.submissions) == 1
    assert [row["status"] for row in ledger.rows()] == (["complete"] if sent else ["failed", "complete"])


def kill_alone(stub: Stub, root: Path, after: str, delay: float) -> None:
    """Start the command, and kill it, not the process that sends for it, `delay` seconds after the route was
    asked.
    """
    before = stub.asked(after)
    process = start(root, "--no-wait")
    end = time.monotonic() + 120
    while stub.asked(after) == before:
        assert time.monotonic() < end
        time.sleep(0.01)
    time.sleep(delay)
    process.kill()
    process.communicate()


def test_the_command_alone_is_killed_while_it_sends(
    stub: Stub, parcel: Parcel, ledger: Ledger, root: Path
) -> None:
    """The upload went on without its command; the next one did not wait for it, found nothing, and sent the
    file again.
    """
    stub.pause = 2.0
    kill_alone(stub, root, "PUT", 0.2)
    assert only(ledger)["status"] == "sending" and not stub.submissions
    assert submit.submit(parcel, ledger)["public"] == stub.score
    assert len(stub.submissions) == 1 and only(ledger)["status"] == "complete"


def test_a_request_that_is_under_way_is_waited_for(
    stub: Stub, parcel: Parcel, ledger: Ledger, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C ends the process that sends, not what Kaggle has already received: it appears on the list a
    little later.
    """
    monkeypatch.setattr(submit, "SETTLE", 30.0)
    stub.pause = 2.0
    process = start(root)
    end = time.monotonic() + 120
    while not stub.asked("CreateSubmission"):
        assert time.monotonic() < end
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert submit.submit(parcel, ledger)["public"] == stub.score
    assert len(stub.submissions) == 1 and only(ledger)["status"] == "complete"


@pytest.mark.long
def test_twenty_kills_at_random_moments_send_once(
    stub: Stub, parcel: Parcel, ledger: Ledger, root: Path
) -> None:
    """From the first request of an upload to its last answer."""
    rng = random.Random(6)
    for _ in range(20):
        stub.pause, stub.pending_polls = 0.7, 0
        stub.submissions.clear()
        LEDGER.unlink(missing_ok=True)
        kill_alone(stub, root, "StartSubmissionUpload", rng.uniform(0, 2.0))
        submit.submit(parcel, ledger, wait=0)
        assert len(stub.submissions) == 1
        states = [row["status"] for row in ledger.rows()]
        assert states == ["pending"] and only(ledger)["ref"] == "1000", states


def test_a_process_without_its_command_ends_by_itself(tmp_path: Path) -> None:
    """It keeps the lock: one that waits for ever for a silent Kaggle would block every later submission."""
    words = [sys.executable, "-P", str(WORKER)]
    request = {"operation": "limits", "competition": COMPETITION, "within": 0.5}
    silent = socket.create_server(("127.0.0.1", 0))
    proxy = f"http://127.0.0.1:{silent.getsockname()[1]}"
    environment = {
        "http_proxy": proxy,
        "https_proxy": proxy,
        "HOME": str(tmp_path),
        "KAGGLE_API_TOKEN": "x" * 20,
    }
    worker = subprocess.Popen(
        words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=os.environ | environment, text=True
    )
    answer, _ = worker.communicate(json.dumps(request) + "\n", timeout=60)
    assert (answer, worker.returncode) == ("", -signal.SIGALRM)


def test_late_score_is_found_by_the_same_command(stub: Stub, parcel: Parcel, ledger: Ledger) -> None:
    """Waiting ends, the score comes later: asking again must look, not send."""
    stub.pending_polls = 10**6
    assert submit.submit(parcel, ledger, wait=0.2)["status"] == "pending"
    assert only(ledger)["public"] == ""
    stub.pending_polls = 0
    assert submit.submit(parcel, ledger)["public"] == stub.score
    assert only(ledger)["public"] == stub.score and len(stub.submissions) == 1


def test_hiccup_while_waiting(
    stub: Stub, parcel: Parcel, ledger: Ledger, caplog: pytest.LogCaptureFixture
) -> None:
    """One failed look is no reason to leave a submission without its score."""
    row = submit.submit(parcel, ledger, wait=0)
    stub.errors = {"ListSubmissions": (503, "busy")}

    def recover(seconds: float) -> None:
        stub.errors = {}

    with submit.Client(COMPETITION) as client:
        assert submit.follow(client, ledger, row, 60, sleep=recover)["status"] == "complete"
    assert "busy" in caplog.text


def test_file_that_cannot_be_scored(stub: Stub, parcel: Parcel, ledger: Ledger) -> None:
    """Kaggle's reason is shown and kept; exit code 0 would read as a score to come."""
    stub.fails_with = "Row ID a is missing"
    with pytest.raises(KitError, match="could not score it: Row ID a is missing"):
        submit.submit(parcel, ledger)
    assert (only(ledger)["status"], only(ledger)["problem"]) == ("error", "Row ID a is missing")
    with pytest.raises(KitError, match=r"the same content.*Row ID a is missing"):
        submit.submit(parcel, ledger)


def test_two_commands_at_once_send_once(stub: Stub, parcel: Parcel, ledger: Ledger, root: Path) -> None:
    """Two terminals, one file: the second waits and then says that it is there."""
    both = [start(root) for _ in range(2)]
    outcome = sorted((process.communicate()[1], process.returncode) for process in both)
    assert len(stub.submissions) == 1 and len(ledger.rows()) == 1
    assert outcome[0][1] == 0 and all(
        code == 0 or "the same content was submitted" in text for text, code in outcome
    )


def test_scores_of_earlier_rows_are_filled_in(
    stub: Stub, config: Config, parcel: Parcel, ledger: Ledger
) -> None:
    """A row whose wait was cut short gets its score with the next submission."""
    submit.submit(parcel, ledger, wait=0)
    FILE.write_text(SAMPLE)
    submit.submit(pack(config, FILE, "second"), ledger)
    assert [row["public"] for row in ledger.rows()] == [stub.score] * 2


# -- the file ------------------------------------------------------------------------------------------------
FORMS = {
    "missing": ("ID,Pred\na,1\nb,0\n", "1 missing .c."),
    "extra": (ANSWER + "d,1\n", "1 extra .d."),
    "twice": (ANSWER + "a,1\n", "each ID once"),
    "order": ("ID,Pred\nb,1\na,0\nc,1\n", "expected the order of .* found b for a in line 2"),
    "header": (ANSWER.replace("ID,Pred", "id,pred"), "expected the first line 'ID,Pred'"),
    "column": (
        ANSWER.replace("Pred", "Pred,Prob").replace("1\n", "1,0.6\n").replace("0\n", "0,0.4\n"),
        "expected the first line",
    ),
    "probability": (ANSWER.replace("c,1", "c,0.7"), "expected 0 or 1 in Pred"),
    "empty": (ANSWER.replace("c,1", "c,"), "expected a value"),
}


@pytest.mark.parametrize("form", FORMS)
def test_files_that_kaggle_would_reject_or_misread(config: Config, form: str) -> None:
    """A submission of the day is spent even on a file without a score."""
    content, line = FORMS[form]
    FILE.write_text(content)
    with pytest.raises(KitError, match=line):
        pack(config, FILE, "m")


def test_without_a_sample_the_test_file_says(config: Config) -> None:
    """And a sample that is configured but not there is an error with a remedy, not a check that is left
    out.
    """
    own = replace(config, data=replace(config.data, sample_submission_path=""))
    assert pack(own, FILE, "m").rows == 3
    (FOLDER / "sample_submission.csv").unlink()
    with pytest.raises(KitError, match="download_data"):
        pack(config, FILE, "m")


def test_manifest_of_other_content_names_no_run(config: Config, caplog: pytest.LogCaptureFixture) -> None:
    """A file edited after it was made is not that run's any more; a wrong run in the log misleads for
    months.
    """
    with_manifest()
    assert pack(config, FILE, "m").run == "runs/kaggle"
    FILE.write_text(SAMPLE)
    assert pack(config, FILE, "m").run == "" and "another content" in caplog.text


def report(**more: Any) -> None:
    accuracy = {"value": 0.5123, "low": 0.5031, "high": 0.5215, "p": 0.01, "dates": 40}
    entries = [{"name": "all rise", "figures": {}}, {"name": "kaggle", "figures": {"accuracy": accuracy}}]
    tree = {"main": "kaggle", "control": None, "entries": entries, "models": [{"digest": "d1"}]}
    files.write_json(Path("runs/kaggle/backtest/report.json"), tree | more)


def test_backtests_expectation_stands_beside_the_score(
    config: Config, caplog: pytest.LogCaptureFixture
) -> None:
    """A score means something beside what was expected before; a backtest of other weights or of a control
    expects nothing.
    """
    with_manifest(model={"digest": "d1"})
    assert pack(config, FILE, "m").expected == "no backtest"
    report()
    assert pack(config, FILE, "m").expected == "51.2% (50.3-52.1%, 40 dates)"
    report(models=[{"digest": "d2"}])
    assert pack(config, FILE, "m").expected == "no backtest of these weights"
    report(control="shuffle-labels")
    assert pack(config, FILE, "m").expected == "no backtest (a control: shuffle-labels)"
    report(main="unknown")
    assert (
        pack(config, FILE, "m").expected == "no backtest (unreadable)"
        and "expected a backtest's report" in caplog.text
    )


def test_packed_sample_is_read(config: Config) -> None:
    """Prices may be .csv.gz, so may the sample; a file that is no text is one line."""
    packed = FOLDER / "sample.csv.gz"
    packed.write_bytes(gzip.compress(SAMPLE.encode()))
    own = replace(config, data=replace(config.data, sample_submission_path=str(packed)))
    assert pack(own, FILE, "m").rows == 3
    FILE.write_text(ANSWER.replace("ID,Pred", "id,pred"))
    with pytest.raises(KitError, match=r"expected the first line 'ID,Pred' as in .*gz"):
        pack(own, FILE, "m")


def test_no_time_to_wait_is_no_waiting(stub: Stub, config: Config, root: Path) -> None:
    """--timeout 0 was taken for the default of ten minutes."""
    stub.pending_polls = 10**6
    done = script(root, "submit", "--file", str(FILE), "--message", "m", "--timeout", "0")
    assert done.returncode == 0 and only(Ledger(LEDGER))["status"] == "pending", done.stderr
    assert "waiting" not in done.stdout


def test_message_is_required(config: Config) -> None:
    """A log of nameless rows tells nothing."""
    for message in ("", "   ", "x" * 501):
        with pytest.raises(KitError, match="--message"):
            pack(config, FILE, message)


# -- the ledger ----------------------------------------------------------------------------------------------
APPEND = """
import sys
from kronos.delivery.ledger import COLUMNS, Ledger
for i in range(15):
    with Ledger(sys.argv[1]).edit() as rows:
        rows.append(dict.fromkeys(COLUMNS, "") | {"date": sys.argv[2], "message": str(i)})
"""


def test_writers_at_once_lose_nothing(tmp_path: Path, root: Path) -> None:
    """Two experiments that end together must both be in the log."""
    path = tmp_path / "ledger.csv"
    environment = os.environ | {"PYTHONPATH": str(root)}
    writers = [
        subprocess.Popen([sys.executable, "-c", APPEND, str(path), name], env=environment) for name in "abc"
    ]
    assert [writer.wait(60) for writer in writers] == [0, 0, 0]
    rows = Ledger(path).rows()
    assert sorted((row["date"], int(row["message"])) for row in rows) == [
        (name, i) for name in "abc" for i in range(15)
    ]
    assert [path.name for path in tmp_path.iterdir()] == ["ledger.csv"]


def test_killed_writers_leave_a_whole_file(tmp_path: Path, root: Path) -> None:
    """A log that is half a log after a kill is no log; nor may a dead writer's lock stop the next."""
    path = tmp_path / "ledger.csv"
    for _ in range(4):
        writer = subprocess.Popen(
            [sys.executable, "-c", APPEND, str(path), "a"], env=os.environ | {"PYTHONPATH": str(root)}
        )
        seen = len(Ledger(path).rows())
        while len(Ledger(path).rows()) < seen + 3 and writer.poll() is None:
            pass
        writer.kill()
        writer.wait()
        assert [set(row) for row in Ledger(path).rows()] == [set(submit_columns())] * len(Ledger(path).rows())
    with Ledger(path).edit() as rows:
        assert len(rows) >= 12


def submit_columns() -> list[str]:
    from kronos.delivery.ledger import COLUMNS

    return list(COLUMNS)


def test_own_columns_and_odd_text_survive(stub: Stub, config: Config, ledger: Ledger) -> None:
    """People write notes beside their experiments; a rewrite must not drop them."""
    submit.submit(pack(config, FILE, 'say "hi", ä'), ledger, wait=0)
    rows = list(csv.DictReader(LEDGER.open(newline="")))
    with LEDGER.open("w", newline="") as handle:
        writer = csv.DictWriter(handle, ["note", *rows[0]])
        writer.writeheader()
        writer.writerows([row | {"note": "two\nlines"} for row in rows])
    FILE.write_text(SAMPLE)
    submit.submit(pack(config, FILE, "second"), ledger)
    assert [(row["note"], row["message"]) for row in ledger.rows()] == [
        ("two\nlines", 'say "hi", ä'),
        ("", "second"),
    ]


def test_foreign_file_is_not_overwritten(stub: Stub, parcel: Parcel) -> None:
    """A path typed wrong must not cost the file that lies there."""
    Path("other.csv").write_text("a,b\n1,2\n")
    with pytest.raises(KitError, match="expected a ledger"):
        submit.submit(parcel, Ledger("other.csv"))
    assert Path("other.csv").read_text() == "a,b\n1,2\n" and not stub.submissions


def test_ledger_saved_in_another_encoding(
    stub: Stub, config: Config, parcel: Parcel, ledger: Ledger, root: Path
) -> None:
    """Excel saves in cp1252: the next submission must say so in one line, and leave the file as it is."""
    submit.submit(pack(config, FILE, "größer"), ledger, wait=0)
    LEDGER.write_bytes(LEDGER.read_text().encode("cp1252"))
    before = LEDGER.read_bytes()
    done = script(root, "submit", "--file", str(FILE), "--message", "second")
    assert done.returncode == 2 and "expected UTF-8" in done.stderr and done.stderr.count("\n") == 1, (
        done.stderr
    )
    assert LEDGER.read_bytes() == before and len(stub.uploads) == 1


def test_json_of_a_foreign_kind_beside_the_file(config: Config) -> None:
    """Guessing a run from a file that is no manifest would be worse than stopping."""
    FILE.with_suffix(".json").write_text(json.dumps([1]))
    with pytest.raises(KitError, match="manifest"):
        pack(config, FILE, "m")
