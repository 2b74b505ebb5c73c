"""The rules and configurations that are shipped, by Prometheus' own tool; and that every alert is tested and explained."""

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.monitoring.live import REPOSITORY, SHIPPED, tool, uncommented

RULES = sorted((SHIPPED / "rules").glob("*.yml"))
TESTS = sorted((SHIPPED / "tests").glob("*.yml"))
PAGE = REPOSITORY / "docs" / "monitoring.md"


def promtool(*arguments: str, cwd: Path = REPOSITORY) -> str:
    done = subprocess.run(
        [tool("promtool"), *arguments], capture_output=True, text=True, check=False, timeout=120, cwd=cwd
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def alerts() -> list[dict[str, Any]]:
    groups = [group for path in RULES for group in yaml.safe_load(path.read_text())["groups"]]
    return [rule for group in groups for rule in group["rules"] if "alert" in rule]


def test_rules_are_sound() -> None:
    assert len(RULES) == 2
    promtool("check", "rules", "--lint=all", "--lint-fatal", *map(str, RULES))


def test_alerts_fire_when_they_should_and_not_otherwise() -> None:
    said = promtool("test", "rules", *map(str, TESTS))
    assert said.count("SUCCESS") == len(TESTS) == 4


def test_every_alert_has_a_test_in_which_it_fires_and_one_in_which_it_does_not() -> None:
    cases = [
        case
        for path in TESTS
        for group in yaml.safe_load(path.read_text())["tests"]
        for case in group.get("alert_rule_test", ())
    ]
    names = {alert["alert"] for alert in alerts()}
    assert {case["alertname"] for case in cases if case["exp_alerts"]} == names
    assert {case["alertname"] for case in cases if not case["exp_alerts"]} == names


def test_a_test_of_rules_can_fail(tmp_path: Path) -> None:
    (tmp_path / "tests").mkdir()
    (tmp_path / "rules").mkdir()
    for path in RULES:
        broken = path.read_text().replace('zowarmup_waiting{reason="disk"}', 'zowarmup_waiting{reason="disc"}')
        (tmp_path / "rules" / path.name).write_text(broken)
    (tmp_path / "tests" / "coordinator.yml").write_text((SHIPPED / "tests" / "coordinator.yml").read_text())
    with pytest.raises(AssertionError, match="ZowarmupDiskRefuses"):
        promtool("test", "rules", "tests/coordinator.yml", cwd=tmp_path)


def test_every_alert_says_what_where_and_how_bad() -> None:
    for alert in alerts():
        assert set(alert["annotations"]) == {"summary", "description", "runbook"}, alert["alert"]
        assert alert["labels"]["severity"] in ("critical", "warning", "info")
        assert alert["annotations"]["runbook"] == f"docs/monitoring.md#{alert['alert'].lower()}"


def test_the_page_explains_exactly_the_alerts_there_are() -> None:
    headings = re.findall(r"^### (Zowarmup\w+)$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    assert headings == [alert["alert"] for alert in alerts()]


@pytest.mark.parametrize("protected", [False, True], ids=["plain", "with TLS and basic authentication"])
def test_the_configuration_is_sound(tmp_path: Path, protected: bool) -> None:
    config = (SHIPPED / "prometheus.yml").read_text()
    if protected:
        config = uncommented(config)
        (scrape,) = yaml.safe_load(config)["scrape_configs"]
        assert set(scrape) == {"job_name", "static_configs", "scheme", "tls_config", "basic_auth"}
        (tmp_path / "certs").mkdir()
        (tmp_path / "certs" / "ca.crt").touch()
        (tmp_path / "certs" / "metrics.password").touch()
    (tmp_path / "prometheus.yml").write_text(config)
    (tmp_path / "rules").symlink_to(SHIPPED / "rules")
    assert f"{len(RULES)} rule files found" in promtool("check", "config", str(tmp_path / "prometheus.yml"))
