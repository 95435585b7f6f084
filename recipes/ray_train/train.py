"""Train on a Ray cluster what ``vconv train`` trains: Ray Train starts the processes, the training is the same.

    python recipes/ray_train/train.py recipes/vctk/config.yaml --processes 8 --gpu --set output=/shared/run

README.md beside this file says what is needed and what happens when something fails.
"""

from __future__ import annotations

import argparse
import os
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import ray
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer

from vconv.errors import InputError, VconvError, run_script
from vconv.training import configuration, run
from vconv.training.checkpoint import is_run


@dataclass(frozen=True)
class Job:
    """What each process needs to train; paths are those of the driver's working folder."""

    folder: str
    config: str
    settings: list[str]
    gpu: bool


def train_in_process(job: dict[str, Any]) -> None:
    """One of the processes, in the group that Ray has made. It goes on from the last checkpoint, if there is one."""
    os.chdir(job["folder"])
    if not job["gpu"]:
        os.environ["ACCELERATE_USE_CPU"] = "true"
    run(job["config"], job["settings"], resume=True)


def train(options: argparse.Namespace) -> Path:
    """Train on the cluster; returns the folder of the run.

    Raises:
        InputError: the configuration, or a run that exists and is not to be resumed.
        VconvError: the training failed more often than it may.
    """
    config = configuration(options.config, options.settings)
    output = Path(config.output).absolute()
    if is_run(output) and not options.resume:
        raise InputError(f"{output}: holds a run already; add --resume to go on, or choose another output")
    os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "600")  # PyTorch from a slow disk takes minutes
    if options.address:
        ray.init(options.address)
    else:
        ray.init(num_cpus=max(os.cpu_count() or 1, options.processes * options.cpus), include_dashboard=False)
    job = Job(str(Path.cwd()), str(options.config), options.settings, options.gpu)
    trainer = TorchTrainer(
        train_in_process,
        train_loop_config=asdict(job),
        torch_config=TorchConfig(backend="nccl" if options.gpu else "gloo"),
        scaling_config=ScalingConfig(
            num_workers=options.processes, use_gpu=options.gpu, resources_per_worker=resources(options)
        ),
        run_config=RunConfig(
            name="ray", storage_path=str(output), failure_config=FailureConfig(max_failures=options.retries)
        ),
    )
    try:
        trainer.fit()
    except Exception as error:  # Ray's own kinds differ between its versions; the cause is the process's
        raise VconvError(f"the training failed: {reason(error)}; --resume goes on from its last checkpoint") from error
    finally:
        ray.shutdown()
    return output


def resources(options: argparse.Namespace) -> dict[str, float]:
    """Of one process."""
    return {"CPU": options.cpus} | ({"GPU": 1} if options.gpu else {})


def reason(error: BaseException) -> str:
    """The last line of what went wrong in a process."""
    failures = getattr(error, "worker_failures", None)
    text = str(next(iter(failures.values())) if failures else error.__cause__ or error)
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), type(error).__name__)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Train on a Ray cluster what vconv train trains.")
    parser.add_argument("config", type=Path, help="YAML file of a training")
    parser.add_argument("--set", dest="settings", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--resume", action="store_true", help="continue from the last checkpoint")
    parser.add_argument("--processes", type=int, default=2, help="over all machines (2)")
    parser.add_argument("--cpus", type=int, default=1, help="of one process (1); data workers need more")
    parser.add_argument("--gpu", action="store_true", help="one GPU for each process")
    parser.add_argument("--retries", type=int, default=3, help="restarts after a process or a machine is lost (3)")
    parser.add_argument("--address", default="", help="of a running cluster, as auto; default: Ray starts here")
    options = parser.parse_args(arguments)

    def command() -> int:
        print(f"the run is in {train(options)}")
        return 0

    return run_script("train.py", command)


if __name__ == "__main__":
    sys.exit(main())
