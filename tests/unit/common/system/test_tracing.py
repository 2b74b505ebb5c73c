"""When an environment asks for traces, by OpenTelemetry's own variables."""

import pytest

from zowarmup.common.system.tracing import asked_for, traces_of

ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"


@pytest.mark.parametrize(
    ("environment", "variable"),
    [
        ({}, ""),
        ({ENDPOINT: "http://c:4318"}, ENDPOINT),
        ({ENDPOINT: " "}, ""),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://c"}, "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"),
        ({"OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": "http://c"}, ""),
        ({"OTEL_TRACES_EXPORTER": "otlp"}, "OTEL_TRACES_EXPORTER"),
        ({"OTEL_TRACES_EXPORTER": "none", ENDPOINT: "http://c"}, ""),
        ({"OTEL_SDK_DISABLED": "TRUE", ENDPOINT: "http://c"}, ""),
        ({"OTEL_SERVICE_NAME": "fleet"}, ""),
    ],
)
def test_traces_are_asked_for_by_the_standard_variables(environment: dict[str, str], variable: str) -> None:
    assert asked_for(environment) == variable
    assert variable or traces_of("zowarmup", environment) is None
