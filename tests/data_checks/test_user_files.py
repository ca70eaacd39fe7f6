"""One named test per data check, on the files of --data or, without it, on a generated market that has
nothing wrong.

A warning passes: cleaning or a fallback deals with what was found. A failure says what a person should look
at first.
"""

import pytest

from kronos.data import check_result, data_checks


@pytest.mark.parametrize("name", data_checks.CHECKS)
def test_check(
    name: str, evidence: check_result.Evidence, users_results: list[check_result.CheckResult] | None
) -> None:
    """Keeps out: training on files that nobody has looked at, and false alarms on clean ones."""
    result = data_checks.check(name, evidence)
    if users_results is None:
        assert result.status == "ok", result.line
        return
    users_results.append(result)
    if result.status == "fail":
        pytest.fail(result.line, pytrace=False)
    if result.status == "skip":
        pytest.skip(result.line)
