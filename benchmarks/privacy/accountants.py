"""Our accountant beside `dp-accounting`, which nothing else here needs: `pip install dp-accounting==0.6.0` in an environment of its own first.

python -m benchmarks.privacy.accountants
"""

from importlib import import_module
from typing import Any

from zowarmup.common.algorithms.gaussian_privacy import epsilon_of

SETTINGS = ((1.0, 1, 1e-5), (5.0, 100, 1e-5), (20.0, 150, 1e-5), (2.0, 10, 1e-6), (0.6, 1, 1e-5), (100.0, 1000, 1e-5))


def main() -> None:
    """Print a row for each setting."""
    theirs: Any = import_module("dp_accounting")
    kinds = [import_module("dp_accounting.pld").PLDAccountant, import_module("dp_accounting.rdp").RdpAccountant]
    print("| multiplier | releases | delta | ours | privacy losses | Renyi |")
    print("|---|---|---|---|---|---|")
    for multiplier, releases, delta in SETTINGS:
        found = []
        for accountant in [kind() for kind in kinds]:
            accountant.compose(theirs.GaussianDpEvent(multiplier), releases)
            found.append(f"{accountant.get_epsilon(delta):.10f}")
        ours = f"{epsilon_of(multiplier, releases, delta):.10f}"
        print(f"| {multiplier:g} | {releases} | {delta:g} | {ours} | {' | '.join(found)} |")


if __name__ == "__main__":
    main()
