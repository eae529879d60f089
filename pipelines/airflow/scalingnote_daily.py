"""The daily re-index as an Airflow 3 DAG: plan -> encode (mapped) -> calibrate -> build (mapped) -> publish -> gc.

If the pipeline has [query.adapt], the query tower is adapted after encode, in parallel with calibrate and build.

If the pipeline has [next], a tower that is to take over, the same steps run again for the night's share of
it (group `night`). They publish nothing until the night that completes the tower. Set
`next.tokens_per_run`, because no deadline ends a night here.

Finally, `gc` deletes what no snapshot needs any more, also after failures and on days without changes. It is a teardown:
if it fails, it is red in a green run, and the next run's gc deletes what it left.

Every step is one call of the program and safe to repeat: a finished task does nothing. Steps pass only the
plan's key and a few numbers (XCom); plan and data stay under the pipeline's root. A mapped step does an
equal share of its stage's tasks, so a worker loads the model once, however many tasks there are.

Set these variables in the environment of scheduler and workers:
    SCALINGNOTE_PIPELINE      the pipeline file, as the steps see it
    SCALINGNOTE               the program (default: scalingnote on the PATH)
    SCALINGNOTE_SHARES        most mapped instances of a stage (default 64)
    SCALINGNOTE_CORPUS_SHARES most mapped instances that read the corpus (default 1: the step `plan` reads it). With
                              more, if its SQL handles each row alone: share -> prepare (mapped) -> gather (mapped) -> plan
    SCALINGNOTE_POD           pipelines/kubernetes/tasks-job.yaml: every step is then a pod from that template
                              (pip install apache-airflow-providers-cncf-kubernetes); without it, a process
and create a pool for each kind of machine:
    airflow pools set scalingnote_gpu 4 "one slot a GPU"
    airflow pools set scalingnote_cpu 8 "index builds at a time"
"""

from __future__ import annotations

import datetime
import json
import os
import subprocess

from airflow.sdk import BaseOperator, TaskGroup, dag, task
from airflow.sdk.exceptions import AirflowException, AirflowFailException


def whole(name: str, default: int, least: int) -> int:
    """A setting that is a number. With 0 shares no task would be mapped over, and `publish` would miss them every night."""
    said = os.environ.get(name) or str(default)
    if not (said.isascii() and said.isdigit() and int(said) >= least):
        raise ValueError(f"{name} must be a whole number of {least} or more, not {said!r}")
    return int(said)


PROGRAM = os.environ.get("SCALINGNOTE") or "scalingnote"
PIPELINE = os.environ.get("SCALINGNOTE_PIPELINE") or "/opt/scalingnote/pipelines/daily.toml"
SHARES = whole("SCALINGNOTE_SHARES", 64, 1)
CORPUS_SHARES = whole("SCALINGNOTE_CORPUS_SHARES", 1, 1)
POD = os.environ.get("SCALINGNOTE_POD")
RETRY_DELAY = datetime.timedelta(seconds=whole("SCALINGNOTE_RETRY_SECONDS", 120, 0))

# The plan of each group: the night's is a part of what `plan --brief` says.
PLAN_KEYS = {
    "day": "{{ ti.xcom_pull(task_ids='plan')['plan_key'] }}",
    "night": "{{ ti.xcom_pull(task_ids='plan')['backfill']['plan_key'] }}",
}
# How long a program that is told to stop may store what it has.
STOP_SECONDS = 60
# A node with a GPU may have to be made first, and its image is large; the provider's default is two minutes.
POD_START_SECONDS = 1800
MEANING = {
    1: "see `error:` and `hint:` above",
    2: "a wrong flag or configuration, see above; `scalingnote config check` names all of it",
    3: "a gate refused the snapshot, or the switch to the next tower; the last snapshot stays published",
    75: "a transient failure, another run, or steps that are not done yet",
    130: "told to stop",
    137: "killed: out of memory, or evicted",
}


def failure(code: int, what: str) -> AirflowException:
    """What an exit code means to Airflow. 1, 2 and 3 (a gate refused) would come again: no retry. Everything else
    passes: 75 (a fault, the deadline, another run), 130 (interrupted), a signal (an evicted worker)."""
    code = 128 - code if code < 0 else code  # a signal, as a shell and Kubernetes say it
    told = f"{what} (exit code {code}: {MEANING.get(code, 'stopped by a signal' if code > 128 else 'unknown')})"
    return (AirflowFailException if code in (1, 2, 3) else AirflowException)(told)


def with_share(arguments: list[str], share: str | None) -> list[str]:
    return [*arguments, "--share", share] if share else list(arguments)


class ProcessStep(BaseOperator):
    """One call of the program on the worker; its progress is the task's log, its JSON the result where one is wanted."""

    template_fields = ("arguments", "share")

    def __init__(self, *, arguments: list[str], share: str | None = None, gpu: bool = False, **options):
        super().__init__(**options)
        self.arguments, self.share = arguments, share
        self.process: subprocess.Popen | None = None

    def execute(self, context):
        command = [PROGRAM, *with_share(self.arguments, self.share), "--progress", "lines"]
        try:
            self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        except OSError as cause:
            told = f"{cause}: SCALINGNOTE in the environment of the workers must name the program, not {PROGRAM!r}"
            raise AirflowFailException(told) from cause
        with self.process:
            try:
                said = self.process.stdout.read()
                code = self.process.wait()
            except BaseException:  # Airflow's time limit comes as one: the program must not outlive its task
                self.process.terminate()
                try:
                    self.process.wait(STOP_SECONDS)
                except subprocess.TimeoutExpired:
                    self.process.kill()
                raise
        if code != 0:
            raise failure(code, f"`{' '.join(command)}` failed")
        if self.do_xcom_push:
            return json.loads(said)
        print(said)
        return None

    def on_kill(self):
        if self.process:
            self.process.terminate()


def pod_step():
    """A step as a pod. The class is made only where the Kubernetes provider is needed."""
    import yaml
    from airflow.providers.cncf.kubernetes.operators.pod import KubernetesPodOperator

    with open(POD, encoding="utf-8") as file:
        template = json.dumps(yaml.safe_load(file)["spec"]["template"])

    class PodStep(KubernetesPodOperator):
        """One call of the program in a pod of the Job's template; GPUs only where the step needs one."""

        template_fields = (*KubernetesPodOperator.template_fields, "share")

        def __init__(self, *, arguments: list[str], share: str | None = None, gpu: bool = False, **options):
            pod = {"apiVersion": "v1", "kind": "Pod", **json.loads(template)}
            (container,) = pod["spec"]["containers"]
            container["args"] = []  # those of the Job
            if not gpu:
                for amounts in container["resources"].values():
                    amounts.pop("nvidia.com/gpu", None)
                # The other one does not start where there is no driver.
                container["command"] = [f"{program}-cpu" for program in container["command"]]
            if options.get("do_xcom_push"):  # the result is read from this file
                line = 'exec "$0" "$@" >/airflow/xcom/return.json'
                options["cmds"] = ["/bin/sh", "-c", line, *container["command"]]
            super().__init__(
                arguments=arguments,
                pod_template_dict=pod,
                base_container_name=container["name"],
                xcom_sidecar_container_security_context=container["securityContext"],
                log_pod_spec_on_failure=False,
                startup_timeout_seconds=POD_START_SECONDS,
                **options,
            )
            self.share = share

        def execute(self, context):
            self.arguments = with_share(self.arguments, self.share)
            return super().execute(context)

        def cleanup(self, pod, remote_pod, xcom_result=None, context=None):
            try:
                super().cleanup(pod, remote_pod, xcom_result, context)
            except AirflowException as failed:
                statuses = (remote_pod.status and remote_pod.status.container_statuses) or []
                ended = [s.state.terminated for s in statuses if s.name == self.base_container_name and s.state]
                if ended and ended[0]:
                    raise failure(ended[0].exit_code, str(failed)) from failed
                raise  # it never ran: evicted, or its image could not be pulled

    return PodStep


Step = pod_step() if POD else ProcessStep


def step(*arguments: str, gpu: bool = False, hours: int = 1, result: bool = False, **options) -> dict:
    """What both kinds of step are made from."""
    return {
        "arguments": list(arguments),
        "gpu": gpu,
        "pool": "scalingnote_gpu" if gpu else "scalingnote_cpu",
        "do_xcom_push": result,
        "execution_timeout": datetime.timedelta(hours=hours),
        **options,
    }


def plan_of(plan: dict, group: str) -> dict | None:
    """The plan of a group; `None` where no tower is to take over."""
    return plan if group == "day" else plan.get("backfill")


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
    # Skips the steps of its own group only: the night may have work on a day without changes.
    @task.short_circuit(ignore_downstream_trigger_rules=False, trigger_rule="none_failed")
    def anything_to_do(plan: dict, group: str) -> bool:
        """Nothing changed, or no tower is to take over: the steps are skipped and the newest snapshot stays."""
        part = plan_of(plan, group)
        return part is not None and part["tasks"] > 0

    @task
    def shares(plan: dict, group: str, stage: str, most: int = SHARES) -> list[str]:
        count = min(plan_of(plan, group)[f"{stage}_tasks"], most)
        return [f"{index}/{count}" for index in range(count)]

    def planned() -> Step:
        """The step that plans, behind those that read the corpus."""
        if CORPUS_SHARES < 2:
            return Step(**step("plan", PIPELINE, "--brief", task_id="plan", hours=2, result=True))
        share = Step(**step("plan", PIPELINE, "--shares", task_id="share", hours=2, result=True))
        # Empty where one task reads the corpus: then there is nothing to map over, and the step `plan` reads it.
        key = "{{ ti.xcom_pull(task_ids='share')['shares_key'] or '' }}"

        def mapped(stage: str):
            each = shares.override(task_id=f"{stage}_shares", trigger_rule="none_failed")(share.output, "day", stage, CORPUS_SHARES)
            line = ("task", PIPELINE, "--plan", key, "--stage", stage)
            return Step.partial(**step(*line, task_id=stage, hours=2, trigger_rule="none_failed")).expand(share=each)

        line = ("plan", PIPELINE, "--brief", "--gathered", key)
        plan = Step(**step(*line, task_id="plan", hours=2, result=True, trigger_rule="none_failed"))
        share >> mapped("prepare") >> mapped("gather") >> plan
        return plan

    def steps(plan: Step, group: str) -> tuple:
        """The steps of one group: its first and its last."""

        def step_of(command: str, *arguments: str, **options) -> dict:
            # A day of deletions has nothing to encode, and mapping over nothing counts as skipped: therefore none_failed.
            arguments = (command, PIPELINE, "--plan", PLAN_KEYS[group], *arguments)
            return step(*arguments, trigger_rule="none_failed", **options)

        def tasks_of(stage: str, **options) -> dict:
            return step_of("task", "--stage", stage, task_id=stage, **options)

        with TaskGroup(group):
            begin = anything_to_do(plan.output, group)
            encode_shares = shares.override(task_id="encode_shares")(plan.output, group, "encode")
            build_shares = shares.override(task_id="build_shares")(plan.output, group, "build")
            adapt_shares = shares.override(task_id="adapt_shares")(plan.output, group, "adapt")
            encode = Step.partial(**tasks_of("encode", gpu=True, hours=6)).expand(share=encode_shares)
            calibrate = Step(**tasks_of("calibrate"))  # does nothing where the scale is frozen already
            # One task or none: the LLM reads sentences of the notes, a small tower learns where it places them.
            adapt = Step.partial(**tasks_of("adapt", gpu=True, hours=2)).expand(share=adapt_shares)
            build = Step.partial(**tasks_of("build", hours=6)).expand(share=build_shares)
            # Publishing encodes a sample of unchanged notes again, to see that the tower is what it was: a device.
            publish = Step(**step_of("publish", task_id="publish", gpu=True, hours=2))
        begin >> [encode_shares, adapt_shares, build_shares, encode, calibrate, adapt, build, publish]
        encode >> calibrate >> build >> publish
        encode >> adapt >> publish
        return begin, publish

    plan = planned()
    _, published = steps(plan, "day")
    evening, ended = steps(plan, "night")
    # As in `scalingnote run`: the night comes after the day, and not at all where the day failed.
    published >> evening
    ended >> Step(**step("snapshot", "gc", PIPELINE, task_id="gc", hours=2)).as_teardown()


scalingnote_daily()
