"""deploy/: the Kubernetes manifests against the schemas of its API, and what they set against the contract."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from startup.settings import settings

DEPLOY = Path(__file__).parents[2] / "deploy"
MANIFESTS = sorted((DEPLOY / "kubernetes").glob("*.yaml"))
HEALTH = ["startup-entrypoint", "startup", "health"]
Object = dict[str, Any]


def objects(file: Path) -> list[Object]:
    return list(yaml.safe_load_all(file.read_text()))


def validate(one: Object) -> None:
    kubernetes_validate.validate(one, kubernetes_validate.latest_version(), strict=True)


#: The pod of each Deployment and Job, named by its file and kind.
PODS = [
    pytest.param(one["spec"]["template"]["spec"], id=f"{file.name}, {one['kind']}")
    for file in MANIFESTS
    for one in objects(file)
    if "template" in one["spec"]
]


def environment(container: Object) -> dict[str, str]:
    """What the container's ``env`` gives it, with a word for what only a cluster knows."""
    return {entry["name"]: entry.get("value", "from-the-cluster") for entry in container["env"]}


@pytest.mark.parametrize("file", MANIFESTS, ids=lambda file: file.name)
def test_each_object_is_valid_for_kubernetes(file: Path) -> None:
    found = objects(file)
    assert "Deployment" in [one["kind"] for one in found]
    for one in found:
        validate(one)


def test_a_misspelt_field_is_noticed_by_the_schemas() -> None:
    broken = copy.deepcopy(objects(DEPLOY / "kubernetes" / "deployment.yaml")[0])
    container = broken["spec"]["template"]["spec"]["containers"][0]
    container["startUpProbe"] = container.pop("startupProbe")
    with pytest.raises(kubernetes_validate.ValidationError):
        validate(broken)


@pytest.mark.parametrize("pod", PODS)
def test_each_pod_meets_the_restricted_pod_security_standard(pod: Object) -> None:
    assert pod["securityContext"] == {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}
    for container in pod["containers"]:
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }


@pytest.mark.parametrize("pod", PODS)
def test_each_pod_has_the_address_from_a_secret_that_is_mounted(pod: Object) -> None:
    (container,) = pod["containers"]
    path = Path(environment(container)["DATABASE_URL_FILE"])
    mounted = {Path(mount["mountPath"]): mount["name"] for mount in container["volumeMounts"]}
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    assert "secret" in volumes[mounted[path.parent]]
    assert set(mounted.values()) == set(volumes)


@pytest.mark.parametrize("pod", PODS)
def test_each_pod_sets_what_the_contract_knows(pod: Object, tmp_path: Path) -> None:
    (container,) = pod["containers"]
    secret = tmp_path / "url"
    secret.write_text("postgresql://shop:secret@db.example.com/shop")
    loaded = settings.load(environment(container) | {"DATABASE_URL_FILE": str(secret)})
    assert (loaded.faults, loaded.warnings) == ([], [])


def test_each_replica_is_ready_when_health_says_so_and_may_take_a_day_to_start() -> None:
    deployments = [one for file in MANIFESTS for one in objects(file) if one["kind"] == "Deployment"]
    assert len(deployments) == 2
    for one in deployments:
        (container,) = one["spec"]["template"]["spec"]["containers"]
        startup, readiness = container["startupProbe"], container["readinessProbe"]
        assert startup["exec"]["command"] == readiness["exec"]["command"] == HEALTH
        assert startup["periodSeconds"] * startup["failureThreshold"] == 24 * 3600
        assert "livenessProbe" not in container
        assert one["spec"]["strategy"]["rollingUpdate"]["maxUnavailable"] == 0


def test_the_followers_wait_for_what_the_job_runs() -> None:
    found = {one["kind"]: one["spec"] for one in objects(DEPLOY / "kubernetes" / "job-and-followers.yaml")}
    (job,) = found["Job"]["template"]["spec"]["containers"]
    (follower,) = found["Deployment"]["template"]["spec"]["containers"]
    assert job["args"] == ["startup", "init"]
    assert environment(follower)["STARTUP_ROLE"] == "follower"
    assert follower["image"] == job["image"]
    for name in ("STARTUP_TASKS", "STARTUP_RELEASE", "DATABASE_URL_FILE"):
        assert environment(follower)[name] == environment(job)[name]


def test_the_followers_are_the_deployment_but_for_their_role() -> None:
    plain, followers = (
        next(one for one in objects(DEPLOY / "kubernetes" / name) if one["kind"] == "Deployment")
        for name in ("deployment.yaml", "job-and-followers.yaml")
    )
    container = followers["spec"]["template"]["spec"]["containers"][0]
    container["env"] = [
        entry for entry in container["env"] if entry["name"] not in ("STARTUP_ROLE", "STARTUP_FOLLOW_TIMEOUT")
    ]
    assert followers == plain


def test_the_swarm_stack_sets_what_the_contract_knows(tmp_path: Path) -> None:
    app = yaml.safe_load((DEPLOY / "swarm.yaml").read_text())["services"]["app"]
    secret = tmp_path / "url"
    secret.write_text("postgresql://shop:secret@db.example.com/shop")
    loaded = settings.load(app["environment"] | {"DATABASE_URL_FILE": str(secret), "STARTUP_TASKS": ""})
    assert (loaded.faults, loaded.warnings) == ([], [])
    assert app["healthcheck"]["test"] == ["CMD", *HEALTH]
    update = app["deploy"]["update_config"]
    assert (app["deploy"]["replicas"], update["order"], update["failure_action"]) == (5, "start-first", "rollback")
