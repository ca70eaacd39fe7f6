"""The recipe: prepare the data, train what is missing, score it, forecast; and say where everything is.

In: `Flags`. Out: an exit code: 0 done, or saved at the time limit; 2 a mistake; 130 or 143 interrupted.
"""

import os
import shlex
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from kronos import final, records
from kronos.config import Config
from kronos.data.sources.flags import with_flags
from kronos.errors import KitError
from kronos.launch import ending, environment
from kronos.launch.arguments import ROOT, Flags, colours
from kronos.launch.plan import LaunchPlan, Step, count_gpus, plan_launch
from kronos.launch.run import Output, Runner, Stopped
from kronos.training.restart import state_of


class Ended(Exception):
    """The launch ends here, with this exit code; everything has been said."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


def launch(flags: Flags, start: Path) -> int:
    """Run what the command line asks for. start: the user's folder. Returns the exit code; KitError before
    anything ran.
    """
    signal.signal(
        signal.SIGINT, signal.default_int_handler
    )  # ignored where a script started the launcher with &
    os.chdir(ROOT)  # relative paths of a configuration start here
    removed = environment.remove_foreign()
    gpus = count_gpus() if flags.gpus else None
    plan = plan_launch(
        flags.config,
        with_flags(flags.config, flags.overrides, flags.data_source, flags.skip_data_process),
        fast=flags.fast,
        wanted=_wanted(flags.gpus, gpus),
        gpus=gpus,
        write=not flags.dry_run,
        submit=flags.submit,
        strict=flags.strict,
    )
    if flags.submit and not plan.leads:
        print("--submit: machine 0 writes and scores the submission; this machine only trains.")
    if flags.dry_run:
        _show(plan, removed)
        return 0
    output = Output(plan.log_path)
    steps = environment.for_steps(os.environ, uses_gpu=plan.uses_gpu, on_terminal=sys.stdout.isatty())
    runner = Runner(output, steps)
    runner.listen()
    sys.stdout.flush()
    for line in (removed, *plan.notes):
        if line:
            output.say(line)
    try:
        return _Recipe(plan, runner, start).run()
    except Stopped as stopped:
        return _interrupted(plan, output, stopped.signal)
    except Ended as ended:
        return ended.code
    finally:
        output.close()


def _wanted(asked: str | None, there: int | None) -> int | None:
    """GPUs of each machine: all that are there, a number, or None for what the configuration says."""
    if asked is None or asked == "all":
        return there
    return int(asked)


def _interrupted(plan: LaunchPlan, output: Output, number: int) -> int:
    _, _, red, plain = colours()
    how = f"go on with the same command{_without_fresh()}"
    output.say(f"{red}Interrupted.{plain} What was saved lies in {plan.config.run_dir}; {how}.")
    return 128 + (signal.SIGINT if number == signal.SIGINT else signal.SIGTERM)


def _without_fresh() -> str:
    return " without --fresh" if "--fresh" in sys.argv else ""


class _Recipe:
    """The steps of one launch, and what came of them."""

    def __init__(self, plan: LaunchPlan, runner: Runner, start: Path) -> None:
        self.plan, self.runner, self.output, self.start = plan, runner, runner.output, start
        self.started = time.monotonic()
        self.trained = False
        self.forecast = False
        self.submission: Path | None = None
        self.bold, self.green, self.red, self.plain = colours()

    def run(self) -> int:
        """All steps, in order. Returns 0; raises Stopped or Ended."""
        ran = 0
        for step in self.plan.steps():
            self.runner.check()
            there = self._there_already(step)
            if there is not None:
                if there:
                    self.output.say(there)
                continue
            ran += step.name != "preparing the data"
            self._run(step)
        if not ran:
            self.output.say(
                f"\nEverything of {self.plan.config.run_dir} is there and complete: nothing was trained or written."
            )
        self._report()
        return 0

    # -- what is done already --------------------------------------------------------------------------------
    def _there_already(self, step: Step) -> str | None:
        """The line that says why a step need not run, '' where another step's line has said it; None where it
        has to run.
        """
        config = self.plan.config
        if step.stage is not None:
            if self.plan.several_machines:
                return None  # the processes of all machines have to meet; together they find out that a stage is complete
            state = state_of(config, step.stage)
            kept = state.status == "complete" or (state.finished and config.experiment.skip_existing)
            return f"{'; '.join(state.lines)}: kept" if kept else None
        if self.trained:
            return None
        if step.final:
            return self._final_there(step)
        if step.name == "the backtest" and ending.newer_than_networks(
            config, config.run_dir / "backtest" / "report.json"
        ):
            return f"backtest: there in {config.run_dir / 'backtest'}: kept"
        if step.name == "the submission" or (step.name == "the score" and not self.forecast):
            self.submission = ending.known_submission(config)
            if self.submission is not None:
                line = f"submission: {self.submission} is of these networks and settings: kept"
                return line if step.name == "the submission" else ""
        return None

    def _final_there(self, step: Step) -> str | None:
        """As `_there_already`, of a step of the final run, whose plan stands first."""
        own, _ = final.of_run(self.plan.config)
        if own is None:
            return None
        return "" if step.folder else f"final run: {own.run_dir} is complete: kept"

    # -- running ---------------------------------------------------------------------------------------------
    def _run(self, step: Step) -> None:
        if step.title:
            self.output.say(f"\n{self.bold}{step.title}{self.plain}")
        marker = Path(f"{self.plan.log_path}.failure")  # a trainer's error, see kronos/cli.py
        if step.trainers:
            self.runner.environment["KIT_FAILURE"] = str(marker)
        code = self.runner.run(step)
        self.runner.environment.pop("KIT_FAILURE", None)
        if marker.exists():
            marker.unlink()
            code = code or 2
        if code and step.optional:
            self.output.say(
                f"No {step.name.removeprefix('the ')}, for the reason above; the models are complete."
            )
        elif code:
            self._failed(step, code)
        if step.folder is not None:
            self.trained = True
            self._look_at(step.name, step.folder)
        if step.name == "the submission":
            self.submission, self.forecast = self.plan.submission, True

    def _failed(self, step: Step, code: int) -> NoReturn:
        """A user's error (status 2) has said its line already."""
        if code in (
            128 + signal.SIGTERM,
            128 + signal.SIGINT,
            128 + signal.SIGHUP,
        ):  # sent to the step, not to this process
            raise Stopped(code - 128)
        if code != 2:
            why = (
                ending.killed(step.name, code - 128, self.plan.config)
                if code > 128
                else f"{step.name} failed"
            )
            self.output.say(f"error: {why}; its output is in {self.plan.log_path}")
        raise Ended(2)

    def _look_at(self, name: str, folder: Path) -> None:
        """Whether a stage that ended well is complete: processes that were asked to stop, or at the time
        limit, end well, too.
        """
        summary = records.read(folder / "summary.json", _Summary, remedy="run the same command again")
        if summary.status == "complete":
            return
        if summary.reason != "time limit":
            raise Stopped(signal.SIGTERM)
        self.output.say(
            f"\n{self.red}Time limit:{self.plain} {name} is saved in {folder.parent}, not complete; "
            f"go on with the same command{_without_fresh()}."
        )
        if self.plan.submit:
            self.output.say(
                "Not submitted: no submission is written from networks that are not fully trained."
            )
        raise Ended(0)  # Kaggle keeps the files only of a run that ends well

    def _report(self) -> None:
        """Where everything is, and what to type next."""
        seconds = int(time.monotonic() - self.started)
        self.output.say(f"\n{self.bold}{self.green}Done in {seconds} s{self.plain}")
        for line in ending.places(self.plan, self.submission, self.start):
            self.output.say(line)
        self.output.say(f"{self.bold}Next{self.plain}")
        self.output.say(ending.next_command(self.plan, self.submission, self.start))


@dataclass(frozen=True)
class _Summary:
    status: str
    reason: str | None = None


# -- a dry run -----------------------------------------------------------------------------------------------
def _show(plan: LaunchPlan, removed: str) -> None:
    print(f"Would run, from {ROOT}:")
    for step in plan.steps():
        print(f"  {shlex.join(step.command)}")
    for line in (removed, *_costs(plan.config)):
        if line:
            print(line)
    print("Nothing was run or written.")


def _costs(config: Config) -> list[str]:
    """Memory and time of the run on this machine, estimated and not probed, so that a dry run stays quick."""
    from kronos.planning.devices import find_device
    from kronos.planning.plan import describe, make_plan

    try:
        return describe(make_plan(config, find_device("auto", config), probing=False))
    except KitError as error:
        return [f"No plan of memory and time: {error}"]
