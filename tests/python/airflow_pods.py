"""Checks the DAG's variant of pods under the real Airflow: the pods it would start, and its exit codes.

    SCALINGNOTE_POD=.../tasks-job.yaml python airflow_pods.py DAG_FILE
"""

import importlib.util
import os
import sys
import tempfile
from types import SimpleNamespace

# A cluster by name only: nothing here talks to it.
with tempfile.NamedTemporaryFile("w", suffix=".yaml", delete=False) as config:
    config.write(
        "{apiVersion: v1, kind: Config, current-context: c, contexts: [{name: c, context: {cluster: c, user: u}}], "
        "clusters: [{name: c, cluster: {server: 'http://127.0.0.1:9'}}], users: [{name: u, user: {}}]}"
    )
os.environ["KUBECONFIG"] = config.name  # read when `kubernetes` is imported

from airflow.sdk.exceptions import AirflowException, AirflowFailException
from kubernetes.client import models as k8s

spec = importlib.util.spec_from_file_location("scalingnote_daily", sys.argv[1])
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
module.PIPELINE = "/config/pipeline.toml"
dag = module.scalingnote_daily()

of_group = {"anything_to_do", "encode_shares", "adapt_shares", "build_shares"}
of_group |= {"encode", "calibrate", "adapt", "build", "publish"}
steps = {"plan", "gc"} | {f"{group}.{name}" for group in ("day", "night") for name in of_group}
assert set(dag.task_ids) == steps, dag.task_ids
for group in ("day", "night"):
    encode, build = dag.task_dict[f"{group}.encode"], dag.task_dict[f"{group}.build"]
    assert encode.is_mapped and build.is_mapped
    assert encode.pool == "scalingnote_gpu" and build.pool == "scalingnote_cpu"
gc = dag.task_dict["gc"]
assert gc.upstream_task_ids == {"night.publish"} and gc.is_teardown and not gc.on_failure_fail_dagrun, "it fails no run"
assert dag.task_dict["night.anything_to_do"].upstream_task_ids == {"plan", "day.publish"}


def operator(task_id, share=None):
    """The operator that runs: of a mapped one, the instance of `share`."""
    planned = dag.task_dict[task_id]
    if not planned.is_mapped:
        return planned
    return module.Step(**{**planned.partial_kwargs, "share": share, "task_id": f"{task_id}_0"})


def pod_of(task_id, share=None):
    """The pod that a step would start, its templates rendered for a plan."""
    step = operator(task_id, share)
    plan = {"plan_key": "runs/1/plan.json", "backfill": {"plan_key": "runs/1-next/plan.json"}}
    ti = SimpleNamespace(xcom_pull=lambda task_ids: {"plan": plan}[task_ids])
    step.render_template_fields({"ti": ti})
    step.arguments = module.with_share(step.arguments, step.share)
    return step.build_pod_request_obj()


for task_id, share, arguments, gpu in [
    ("plan", None, "plan /config/pipeline.toml --brief", False),
    ("day.encode", "1/4", "task /config/pipeline.toml --plan runs/1/plan.json --stage encode --share 1/4", True),
    ("day.calibrate", None, "task /config/pipeline.toml --plan runs/1/plan.json --stage calibrate", False),
    ("day.adapt", "0/1", "task /config/pipeline.toml --plan runs/1/plan.json --stage adapt --share 0/1", True),
    ("day.build", "0/2", "task /config/pipeline.toml --plan runs/1/plan.json --stage build --share 0/2", False),
    ("day.publish", None, "publish /config/pipeline.toml --plan runs/1/plan.json", True),
    ("night.encode", "0/3", "task /config/pipeline.toml --plan runs/1-next/plan.json --stage encode --share 0/3", True),
    ("night.calibrate", None, "task /config/pipeline.toml --plan runs/1-next/plan.json --stage calibrate", False),
    ("night.build", "1/2", "task /config/pipeline.toml --plan runs/1-next/plan.json --stage build --share 1/2", False),
    ("night.publish", None, "publish /config/pipeline.toml --plan runs/1-next/plan.json", True),
    ("gc", None, "snapshot gc /config/pipeline.toml", False),
]:
    pod = pod_of(task_id, share)
    assert operator(task_id, share).startup_timeout_seconds >= 1800, "a node may have to be made first"
    container = pod.spec.containers[0]
    assert " ".join(container.args) == arguments, (task_id, container.args)
    if task_id == "plan":
        assert container.command[:2] == ["/bin/sh", "-c"] and "/airflow/xcom/return.json" in container.command[2]
        assert container.command[3:] == ["scalingnote-cpu"], container.command
        sidecar = next(c for c in pod.spec.containers if c.name == "airflow-xcom-sidecar")
        assert sidecar.security_context, "the result's sidecar is as confined as the step"
    else:
        assert container.command == ["scalingnote" if gpu else "scalingnote-cpu"], (task_id, container.command)
        assert len(pod.spec.containers) == 1
    assert container.name == "task" and container.image.startswith("registry.example.org/scalingnote:")
    assert pod.spec.restart_policy == "Never" and pod.spec.security_context.run_as_non_root
    as_dict = k8s.V1Container.to_dict(container)
    security = as_dict["security_context"]
    assert security["read_only_root_filesystem"] and not security["allow_privilege_escalation"], security
    resources = as_dict["resources"]
    for amounts in (resources["requests"], resources["limits"]):
        assert ("nvidia.com/gpu" in amounts) == gpu, (task_id, resources)
        assert "memory" in amounts
    mounts = {mount["mount_path"] for mount in as_dict["volume_mounts"]}
    assert {"/config", "/cache", "/tmp"} <= mounts, mounts
    print(f"pod of {task_id}: {arguments}")


def ends_with(code):
    """How Airflow takes a pod whose container ended with `code`."""
    step = operator("day.calibrate")
    step.is_istio_enabled = lambda _: False
    step.process_pod_deletion = lambda *_, **__: True
    step.patch_already_checked = lambda *_, **__: None
    terminated = k8s.V1ContainerStateTerminated(exit_code=code)
    status = k8s.V1ContainerStatus(
        name="task", image="i", image_id="i", ready=False, restart_count=0, state=k8s.V1ContainerState(terminated=terminated)
    )
    remote = k8s.V1Pod(
        metadata=k8s.V1ObjectMeta(name="p", namespace="n", annotations={}),
        spec=k8s.V1PodSpec(containers=[k8s.V1Container(name="task")]),
        status=k8s.V1PodStatus(phase="Succeeded" if code == 0 else "Failed", container_statuses=[status]),
    )
    try:
        step.cleanup(remote, remote)
    except AirflowFailException:
        return "fail"
    except AirflowException:
        return "retry"
    return "done"


expected = {0: "done", 1: "fail", 2: "fail", 3: "fail", 75: "retry", 130: "retry", 137: "retry", 143: "retry"}
found = {code: ends_with(code) for code in expected}
assert found == expected, found
print("exit codes of pods:", ", ".join(f"{code} {what}" for code, what in found.items()))
os.unlink(config.name)
