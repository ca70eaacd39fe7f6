"""The processes that share one forecast: who they are, how they agree, and how all of them end when one
fails.

In: the environment that `accelerate launch` or torchrun makes. Out: a `Team`; of one process, where nothing
was launched. What they exchange are small Python objects over gloo, also between GPUs. The launcher's traps
are checked, not trusted.
"""

import os
from datetime import timedelta

from accelerate import PartialState

from kronos.config import Config
from kronos.errors import KitError
from kronos.training.distributed import Processes

PATIENCE = timedelta(days=7)
"""How long a process that has done its share waits for the slowest one. A process that died ends the wait at
once.
"""


class Team(Processes):
    """Those that share one forecast."""

    @classmethod
    def join(cls, config: Config, on_cpu: bool) -> "Team":
        """Meet the other processes. Raises KitError when they are not the number that the launcher started or
        was to start.

        `accelerate launch --cpu --num_processes 2` starts one process without a word; with --multi_gpu on a
        machine without GPUs the processes would not know of each other and each write the file.
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
            raise KitError(
                f"expected {launched} processes that know of each other, found {state.num_processes}"
            )
        return cls(state.process_index, state.num_processes)

    def disband(self) -> None:
        """Leave the group; a process that is not the main one has nothing more to do and ends here, well."""
        self.close()
        if not self.is_main:
            raise SystemExit(0)
