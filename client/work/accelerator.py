"""Probing on an accelerator: `--device cuda`, for a high-tier client, which has torch and the model's code.

The module is built here, as for training, and must have the coordinator's layout. Its weights are one vector on the
accelerator, into which the replica is copied for each contribution, and there they are perturbed and restored by the
same arithmetic; the replica itself stays where it is, and only the losses come back.
"""

import torch

from zowarmup.client.errors import Final
from zowarmup.client.work.training import built
from zowarmup.common.exact.layout import Layout
from zowarmup.common.models.on_device import DeviceProgram, Resident
from zowarmup.common.settings.run import ClientSpec
from zowarmup.data import Dataset


def load_on(device: str, spec: ClientSpec, layout: Layout) -> DeviceProgram:
    """The run's model on a device of torch's. Raises Final where there is no such device, or the model that this
    machine builds is not the coordinator's."""
    try:
        place = torch.device(device)
        torch.zeros(1, device=place)
    except (RuntimeError, AssertionError) as error:  # as torch says that it was built without
        reason = str(error).strip().splitlines()[0]
        raise Final(f"--device {device}: torch cannot use it here ({reason}); leave it out") from None
    return DeviceProgram(built(spec, layout), layout, place)


def resident(device: str, dataset: Dataset) -> Resident:
    """A dataset whose inputs are on a device of torch's, so that no batch travels there twice."""
    place = torch.device(device)
    return Resident(
        dataset.inputs, dataset.targets, dataset.scale, place, dataset.mean, dataset.deviation, dataset.mean_shape
    )
