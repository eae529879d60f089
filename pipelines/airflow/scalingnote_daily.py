"""The daily re-index as an Airflow 3 DAG: plan -> encode (mapped) -> calibrate -> build (mapped) -> publish.

Every task is one call of the program, safe to repeat: a task that is done does nothing. Between tasks
only ids travel (small JSON in XCom); data stays under the pipeline's root.

Set up: SCALINGNOTE and SCALINGNOTE_PIPELINE in the workers' environment, and a pool for each kind of machine:
    airflow pools set scalingnote_gpu 4 "one slot a GPU"
    airflow pools set scalingnote_cpu 8 "index builds at a time"
"""

from __future__ import annotations

import datetime
import json
import os
import subprocess

from airflow.sdk import dag, task
from airflow.sdk.exceptions import AirflowException, AirflowFailException

PROGRAM = os.environ.get("SCALINGNOTE", "scalingnote")
PIPELINE = os.environ.get("SCALINGNOTE_PIPELINE", "/opt/scalingnote/pipelines/daily.toml")
# Mapped task instances of one stage at most (Airflow's max_map_length is 1,024): more ids share one.
MAX_MAPPED = 512

RETRY_DELAY = datetime.timedelta(seconds=int(os.environ.get("SCALINGNOTE_RETRY_SECONDS", "120")))
RUN_AGAIN = {75, 130}  # a passing fault, the deadline, another publisher; interrupted


def scalingnote(*arguments: str) -> str:
    """Runs the program; its progress goes to the task's log, its result is returned.

    Exit codes: 75 and 130 are retried by Airflow; 3 (a gate refused), 2 and 1 are not, since the same
    call would fail the same way. A process killed by a signal (an evicted worker) is retried.
    """
    command = [PROGRAM, *arguments, "--progress", "lines"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    code = done.returncode
    if code == 0:
        return done.stdout
    message = f"`{' '.join(command)}` ended with exit code {code}"
    if code in RUN_AGAIN or code < 0 or code > 128:
        raise AirflowException(message)
    if code == 3:
        message += ": a gate refused the snapshot; the last one stays published"
    raise AirflowFailException(message)


def share(ids: list[str]) -> list[list[str]]:
    """The ids in at most MAX_MAPPED lists of about the same length."""
    lists = min(len(ids), MAX_MAPPED)
    return [ids[start::lists] for start in range(lists)]


@dag(
    schedule="15 2 * * *",
    start_date=datetime.datetime(2025, 1, 1, tzinfo=datetime.timezone.utc),
    catchup=False,
    max_active_runs=1,
    default_args={
        "retries": 4,
        "retry_delay": RETRY_DELAY,
        "retry_exponential_backoff": True,
        "max_retry_delay": datetime.timedelta(minutes=30),
    },
    tags=["scalingnote"],
)
def scalingnote_daily():
    @task(execution_timeout=datetime.timedelta(hours=2))
    def plan() -> dict:
        plan = json.loads(scalingnote("plan", PIPELINE, "--json"))
        kept = ("tasks", "plan_key", "encode_tasks", "calibrate_task", "build_tasks")
        return {name: plan.get(name) for name in kept}

    @task.short_circuit
    def anything_to_do(plan: dict) -> bool:
        """Nothing changed: everything downstream is skipped and the newest snapshot stays."""
        return plan["tasks"] > 0

    @task
    def shares(plan: dict, stage: str) -> list[list[str]]:
        return share(plan[f"{stage}_tasks"])

    @task(pool="scalingnote_gpu", execution_timeout=datetime.timedelta(hours=6))
    def encode(plan: dict, ids: list[str]) -> None:
        for task_id in ids:
            scalingnote("task", PIPELINE, "--plan", plan["plan_key"], "--task", task_id)

    # A day of deletions has nothing to encode, and mapping over nothing counts as skipped: hence none_failed.
    @task(pool="scalingnote_cpu", trigger_rule="none_failed", execution_timeout=datetime.timedelta(hours=1))
    def calibrate(plan: dict) -> None:
        """Freezes the scale of the quantised vectors; absent from the plan once it is frozen."""
        if plan["calibrate_task"]:
            scalingnote("task", PIPELINE, "--plan", plan["plan_key"], "--task", plan["calibrate_task"])

    @task(pool="scalingnote_cpu", trigger_rule="none_failed", execution_timeout=datetime.timedelta(hours=6))
    def build(plan: dict, ids: list[str]) -> None:
        for task_id in ids:
            scalingnote("task", PIPELINE, "--plan", plan["plan_key"], "--task", task_id)

    @task(trigger_rule="none_failed", execution_timeout=datetime.timedelta(hours=2))
    def publish(plan: dict) -> None:
        print(scalingnote("publish", PIPELINE, "--plan", plan["plan_key"]))

    planned = plan()
    encode_shares = shares.override(task_id="encode_shares")(planned, "encode")
    build_shares = shares.override(task_id="build_shares")(planned, "build")
    anything_to_do(planned) >> [encode_shares, build_shares]
    encoded = encode.partial(plan=planned).expand(ids=encode_shares)
    built = build.partial(plan=planned).expand(ids=build_shares)
    encoded >> calibrate(planned) >> built >> publish(planned)


scalingnote_daily()
