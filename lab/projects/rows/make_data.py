"""Makes the data of this project: `python make_data.py`.

    data/held-out.csv      what the coordinator tries the model on
    data/client-1.csv ...  what each device has

The rows are made up here, so that the project works at once: sensors on machines, and the state that each machine is in. With
tables of your own, write them in the place of `measured`, and keep `main`: a line of column names, numbers with a decimal point,
and a column `state` with the label. In a real fleet no such script cuts data up: each device has its own file.
"""

import csv
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

CLIENTS = 5
EACH, HELD_OUT = 200, 400  # rows
MIX = 0.3  # small: each device has mostly one or two of the states; large: all have the same mix
STATES = ("normal", "worn", "loose", "jammed")
COLUMNS = ("temperature_c", "current_a", "vibration_mm_s", "sound_db", "speed_rpm")
USUAL = {
    "normal": (45.0, 3.0, 1.5, 62.0, 1480.0),
    "worn": (58.0, 3.4, 2.6, 70.0, 1465.0),
    "loose": (47.0, 3.1, 4.5, 74.0, 1478.0),
    "jammed": (66.0, 6.5, 2.2, 66.0, 1250.0),
}
SPREAD = (7.0, 0.5, 0.9, 4.0, 40.0)


def measured(state: str, random: np.random.Generator) -> NDArray[np.float64]:
    """What the sensors of one machine say, in the order of COLUMNS."""
    return random.normal(USUAL[state], SPREAD)


def main() -> None:
    random = np.random.default_rng(0)
    folder = Path(__file__).parent / "data"
    folder.mkdir(exist_ok=True)
    parts = {"held-out": random.choice(STATES, HELD_OUT)}
    for number in range(1, CLIENTS + 1):
        parts[f"client-{number}"] = random.choice(STATES, EACH, p=random.dirichlet(np.full(len(STATES), MIX)))
    for name, states in parts.items():
        with (folder / f"{name}.csv").open("w", newline="", encoding="utf-8") as file:
            table = csv.writer(file)
            table.writerow([*COLUMNS, "state"])
            table.writerows([*(f"{value:.3f}" for value in measured(state, random)), state] for state in states)
        print(f"{folder / name}.csv: {len(states)} rows, {len(set(states))} states")


if __name__ == "__main__":
    main()
