"""How each phase moves the model: what a client computes for a round, what is checked of it, how it becomes a step.

A method is a small frozen object that reads like its paper. The run file names one for each phase, and this is the only
place that knows the names; everybody else talks to `protocol`.
"""

from zowarmup.common.layout import Layout
from zowarmup.common.methods.decomfl import DeComFL
from zowarmup.common.methods.fedavg import FedAvg
from zowarmup.common.methods.fedkseed import FedKSeed
from zowarmup.common.methods.fedopt import FedAdam, FedYogi
from zowarmup.common.methods.heterofl import HeteroFL
from zowarmup.common.methods.mixed import Mixed
from zowarmup.common.methods.zeroth_order import ZOWarmUp
from zowarmup.common.phases import WarmUp, ZerothOrder

_WARM_UP = {"fedavg": FedAvg, "fedadam": FedAdam, "fedyogi": FedYogi, "heterofl": HeteroFL}
_ZEROTH_ORDER = {"zowarmup": ZOWarmUp, "decomfl": DeComFL}


def warm_up_method(spec: WarmUp, layout: Layout) -> FedAvg:
    """The method that `spec` names."""
    return _WARM_UP[spec.method](spec, layout)


def zeroth_order_method(
    spec: ZerothOrder, layout: Layout, pool_seed: int = 0, warmup: WarmUp | None = None
) -> ZOWarmUp:
    """The method that `spec` names. `pool_seed`: the stream of the directions that the whole run shares. `warmup`: how
    those train that go on training."""
    if spec.high_tier == "fedavg":
        return Mixed(spec, layout, warm_up_method(warmup or WarmUp(rounds=0), layout))
    if spec.method == "fedkseed":
        return FedKSeed(spec, layout, pool_seed)
    return _ZEROTH_ORDER[spec.method](spec, layout)
