"""Lightning: a callback.

trainer = L.Trainer(callbacks=[ProjectorCallback(projector)], ...)
trainer.fit(module)
compact = lrpet.factorize(module.network, projector.plan)
"""

from __future__ import annotations

from typing import Any

import lightning as L
from torch.utils.hooks import RemovableHandle

from lrpet.integrations.optimizer import attach
from lrpet.projecting.projector import Projector


class ProjectorCallback(L.Callback):
    """Projects after the optimizer steps at which the projector says so, and once more when training ends.

    The projector goes into Lightning's checkpoints, and comes back with them. What a projection pruned is logged as
    `lrpet/pruned`. Skipped steps (gradient scaler) and accumulated batches do not count.

    Args:
        projector: Made for the LightningModule, or for a module in it; with the plan made before it is moved to its device.
        optimizer: Which of the LightningModule's optimizers, if it has several.
    """

    def __init__(self, projector: Projector, *, optimizer: int = 0) -> None:
        self.projector = projector
        self.optimizer = optimizer
        self._handle: RemovableHandle | None = None
        self._logged: object = None

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Attach to the optimizer. Raises ValueError under several processes, which this version does not project in."""
        if trainer.world_size > 1:
            raise ValueError(f"the projector runs in one process; this trainer has {trainer.world_size}: use devices=1")
        self._handle = attach(self.projector, trainer.optimizers[self.optimizer])

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        """Log the projection, if there was one."""
        report = self.projector.last
        if report is not None and report is not self._logged:
            self._logged = report
            pl_module.log("lrpet/pruned", report.pruned)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Project, so that the weights are low-rank, and detach."""
        self.projector.project()
        self._detach()

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Detach."""
        self._detach()

    def _detach(self) -> None:
        if self._handle is not None:
            self._handle.remove()
            self._handle = None

    def state_dict(self) -> dict[str, Any]:
        """The projector's, for the checkpoint."""
        return self.projector.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """From the checkpoint. Raises ValueError if it is that of a projector with other layers or ranks."""
        self.projector.load_state_dict(state_dict)
