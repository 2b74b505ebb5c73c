"""Writes deploy/grafana/dashboards/*.json: `python -m deploy.grafana`."""

from pathlib import Path

from deploy.grafana.fleet_cost import FLEET_COST
from deploy.grafana.fleet_health import FLEET_HEALTH
from deploy.grafana.panels import encoded

FILES = {"fleet-cost.json": FLEET_COST, "fleet-health.json": FLEET_HEALTH}
FOLDER = Path(__file__).parent / "dashboards"

if __name__ == "__main__":
    for name, board in FILES.items():
        (FOLDER / name).write_text(encoded(board), encoding="utf-8")
        print(FOLDER / name)
