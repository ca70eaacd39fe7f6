"""The processes that share one forecast: who they are, how they agree, and how all of them end when one fails.

In: the environment that `accelerate launch` or torchrun makes. Out: a `Team`; of one process, where nothing was launched.
What they exchange are small Python objects over gloo, also between GPUs. The launcher's traps are checked, not trusted.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch.distributed as dist
from accelerate import PartialState
from accelerate.utils import gather_object

from kronos.config import Config
from kronos.errors import KitError
from kronos.training.runtime import PeerFailed

Result = TypeVar("Result")

PATIENCE = timedelta(days=7)
"""How long a process that has done its share waits for the slowest one. A process that died ends the wait at once."""


@dataclass(frozen=True)
class Team:
    """rank, world: this process and how many there are."""

    rank: int = 0
    world: int = 1

    @classmethod
    def join(cls, config: Config, on_cpu: bool) -> "Team":
        """Meet the other processes. Raises KitError when they are not the number that the launcher started or was to start.

        `accelerate launch --cpu --num_processes 2` starts one process without a word; with --multi_gpu on a machine without
        GPUs the processes would not know of each other and each write the file.
        """
        launched, asked = int(os.environ.get("WORLD_SIZE", "1")), config.distributed.num_processes
        if launched == 1:
            if asked > 1 and "ACCELERATE_MIXED_PRECISION" in os.environ:
                raise KitError(
                    f"expected {asked} processes (distributed.num_processes), the launcher started 1; start them with accelerate "
                    f"launch --multi_gpu --num_processes {asked}, on a processor too, or set distributed.num_processes=1"
                )
            return cls()
        state = PartialState(cpu=on_cpu, backend="gloo", timeout=PATIENCE)
        if state.num_processes != launched:
            raise KitError(f"expected {launched} processes that know of each other, found {state.num_processes}")
        return cls(state.process_index, state.num_processes)

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def gather(self, thing: Any) -> list[Any]:
        """`thing` of every process, by rank."""
        return [thing] if self.world == 1 else gather_object([thing])

    def together(self, action: Callable[[], Result]) -> Result:
        """Run `action` on every process. A user's error on any ends all: one says it, the others leave with `PeerFailed`."""
        result, error = None, None
        try:
            result = action()
        except (KitError, OSError) as caught:
            error = caught
        failed = [rank for rank, bad in enumerate(self.gather(error is not None)) if bad]
        if failed:
            self._leave()
            if error is not None and self.rank == failed[0]:
                raise error
            raise PeerFailed
        return result  # type: ignore[return-value]

    def main_first(self, action: Callable[[], Result]) -> Result:
        """Run `action` on the main process, then on the others, which find what it prepared."""
        early = self.together(action if self.is_main else lambda: None)
        late = self.together((lambda: None) if self.is_main else action)
        return early if self.is_main else late  # type: ignore[return-value]

    def disband(self) -> None:
        """Leave the group; a process that is not the main one has nothing more to do and ends here, well."""
        self._leave()
        if not self.is_main:
            raise SystemExit(0)

    def _leave(self) -> None:
        if self.world > 1 and dist.is_initialized():
            dist.destroy_process_group()
