"""`ossensor ecs add-sidecar`: definitions of every shape come out valid, with the sensor, and otherwise unchanged."""

from __future__ import annotations

import copy
import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from definitions import API, CONSOLE, CONTAINERS, DESCRIBED, RESOURCE, TEMPLATE
from model import ECS, REGISTER, faults

from ossensor.cli import main
from ossensor.ecs import document as documents
from ossensor.ecs import sidecar

KEY_ARN = "arn:aws:secretsmanager:eu-west-1:123456789012:secret:ossensor-key-AbCdEf"
ARGUMENTS = ("--image", "sensor:1", "--vsensor", "vsensor.example", "--key-secret", KEY_ARN)
SHAPES: dict[str, Any] = {**API, "described": DESCRIBED, "console": CONSOLE}


class Ended:
    """What a run of the command left behind."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.faults = code, out, err.splitlines()

    @property
    def document(self) -> Any:
        assert (self.code, self.faults) == (0, [f for f in self.faults if f.startswith("ossensor: note:")])
        return json.loads(self.out)

    @property
    def refusals(self) -> list[str]:
        assert (self.code, self.out) == (78, "")
        return [fault.removeprefix("ossensor: ") for fault in self.faults]


@pytest.fixture
def add(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    def run(given: Any, *more: str, arguments: tuple[str, ...] = ARGUMENTS) -> Ended:
        raw = given if isinstance(given, bytes) else json.dumps(given).encode()
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(raw)))
        code = main(["ecs", "add-sidecar", *arguments, *more])
        return Ended(code, *capsys.readouterr())

    return run


def sensor_of(task: dict[str, Any], name: str = "ossensor") -> dict[str, Any]:
    (container,) = [c for c in task["containerDefinitions"] if c["name"] == name]
    return container


def pairs(container: dict[str, Any], member: str = "environment", value: str = "value") -> dict[str, Any]:
    return {item["name"]: item[value] for item in container[member]}


# -- what comes out ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", SHAPES)
def test_a_definition_with_the_sensor_is_what_the_api_takes(shape: str, add: Any) -> None:
    assert faults(add(SHAPES[shape]).document) == []


@pytest.mark.parametrize("shape", SHAPES)
def test_whatever_is_not_the_sensors_stays_as_it_was(shape: str, add: Any) -> None:
    before = copy.deepcopy(SHAPES[shape])
    before = {**before.get("taskDefinition", before), **({"tags": before["tags"]} if "tags" in before else {})}
    expected = {name: value for name, value in before.items() if name in REGISTER.members}
    expected["containerDefinitions"] = [c for c in before["containerDefinitions"] if c["name"] != "ossensor"]

    after = add(SHAPES[shape]).document
    after["containerDefinitions"] = [c for c in after["containerDefinitions"] if c["name"] != "ossensor"]

    assert after == expected


@pytest.mark.parametrize("shape", [*SHAPES, "resource", "template", "containers"])
def test_adding_twice_is_adding_once(shape: str, add: Any) -> None:
    once = add({**SHAPES, "resource": RESOURCE, "template": TEMPLATE, "containers": CONTAINERS}[shape]).document

    assert add(once).document == once


def test_the_sensor_can_end_without_the_application_and_nothing_waits_for_it(add: Any) -> None:
    task = add(API["containers in order"]).document
    container = sensor_of(task)
    depended_on = [d["containerName"] for c in task["containerDefinitions"] for d in c.get("dependsOn", [])]

    assert container["essential"] is False
    assert container["restartPolicy"] == {"enabled": True, "ignoredExitCodes": [0, 77, 78], "restartAttemptPeriod": 60}
    assert container["healthCheck"]["command"] == ["CMD", "ossensor", "health"]
    assert ("dependsOn" in container, depended_on) == (False, ["migrate"])
    assert container["memory"] == 256
    assert "cpu" not in container


def test_the_sensor_keeps_net_raw_alone_and_writes_nothing(add: Any) -> None:
    container = sensor_of(add(API["least"]).document)

    # Docker's default set (moby, oci/caps/defaults.go), less NET_RAW.
    default = "CHOWN DAC_OVERRIDE FSETID FOWNER MKNOD NET_RAW SETGID SETUID SETFCAP SETPCAP NET_BIND_SERVICE"
    assert {*container["linuxParameters"]["capabilities"]["drop"], "NET_RAW"} == {
        *default.split(),
        *("SYS_CHROOT", "KILL", "AUDIT_WRITE"),
    }
    assert container["readonlyRootFilesystem"] is True


def test_the_key_is_a_secret_and_the_rest_are_variables(add: Any) -> None:
    container = sensor_of(add(API["least"], "--env", "BPF=tcp port 80", "--env", "VSENSOR_PORT=8443").document)

    assert pairs(container, "secrets", "valueFrom") == {"VSENSOR_HMAC_KEY": KEY_ARN}
    assert pairs(container) == {
        "OSSENSOR_NETWORK_DEVICE": "default",
        "OSSENSOR_MEMORY_MB": "128",
        "VSENSOR_HOSTNAME": "vsensor.example",
        "BPF": "tcp port 80",
        "VSENSOR_PORT": "8443",
    }


def test_the_log_goes_where_another_containers_goes_or_where_it_is_told_to(add: Any) -> None:
    shared = add(API["log to be shared"])
    told = add(API["least"], "--log-group", "g", "--log-region", "r")
    nowhere = add(API["least"])

    assert sensor_of(shared.document)["logConfiguration"]["options"] == {
        "awslogs-group": "/ecs/web",
        "awslogs-region": "eu-west-1",
        "awslogs-stream-prefix": "ossensor",
    }
    assert sensor_of(told.document)["logConfiguration"]["options"] == {
        "awslogs-group": "g",
        "awslogs-region": "r",
        "awslogs-stream-prefix": "ossensor",
    }
    assert [len(run.faults) for run in (shared, told, nowhere)] == [0, 0, 1]
    assert "the sensor's log goes nowhere" in nowhere.faults[0]


def test_a_longer_drain_has_a_longer_stop(add: Any) -> None:
    stops = [
        sensor_of(add(API["least"], "--env", f"OSSENSOR_DRAIN_SECONDS={s}").document)["stopTimeout"]
        for s in ("5", "25", "26", "115")
    ]

    assert stops == [30, 30, 31, 120]


def test_a_sensor_that_is_there_is_brought_up_to_date_and_keeps_what_its_owner_gave_it(add: Any) -> None:
    container = sensor_of(add(API["a sensor of an earlier day"]).document)

    assert pairs(container) == {
        "BPF": "tcp",
        "VSENSOR_HOSTNAME": "vsensor.example",
        "OSSENSOR_MEMORY_MB": "128",
        "OSSENSOR_NETWORK_DEVICE": "default",
    }
    assert (container["image"], container["essential"], container["memory"]) == ("sensor:1", False, 256)
    assert container["dockerLabels"] == {"owner": "security"}
    assert container["linuxParameters"]["initProcessEnabled"] is False
    assert "in the clear" not in json.dumps(container)


def test_what_another_image_was_started_by_is_kept_and_remarked_upon(add: Any) -> None:
    task = add(API["log to be shared"]).document
    assert add(task).faults == []
    of_another = {"entryPoint": ["/sensor"], "command": ["--config", "x"], "user": "1000", "workingDirectory": ""}
    sensor_of(task).update(of_another)

    run = add(task)

    assert sensor_of(run.document).items() >= of_another.items()
    assert [fault.partition("note: ")[2].split(" that ")[0] for fault in run.faults] == [
        f"the sensor keeps the {name}" for name in ("entryPoint", "command", "user")
    ]


def test_what_was_a_secret_stays_one_or_becomes_a_variable_and_is_never_both(add: Any) -> None:
    task = add(API["least"]).document
    names = ("VSENSOR_HOSTNAME", "OSSENSOR_NETWORK_DEVICE", "BPF")
    sensor_of(task)["environment"] = []
    sensor_of(task)["secrets"] += [{"name": name, "valueFrom": "arn:of-it"} for name in names]

    container = sensor_of(add(task, "--env", "BPF=tcp").document)

    assert pairs(container) == {"OSSENSOR_MEMORY_MB": "128", "VSENSOR_HOSTNAME": "vsensor.example", "BPF": "tcp"}
    assert pairs(container, "secrets", "valueFrom") == {
        "VSENSOR_HMAC_KEY": KEY_ARN,
        "OSSENSOR_NETWORK_DEVICE": "arn:of-it",
    }


def test_a_variable_that_is_there_twice_is_there_once(add: Any) -> None:
    task = add(API["least"]).document
    once = copy.deepcopy(task)
    sensor_of(task)["environment"] += sensor_of(task)["environment"]

    assert add(task).document == once


def test_what_only_ecs_sets_is_all_that_a_described_definition_loses() -> None:
    described = set(ECS.shape_for("TaskDefinition").members)

    assert set(documents.SET_BY_ECS) == described - set(REGISTER.members)


# -- CloudFormation and Terraform -------------------------------------------------------------------------------------


def test_a_template_gets_the_sensor_in_its_own_spelling_and_keeps_what_it_computes(add: Any) -> None:
    key = {"Ref": "SensorKey"}
    after = add(TEMPLATE, arguments=(*ARGUMENTS[:-1], json.dumps(key))).document
    web, sensor = after["Resources"]["Web"]["Properties"]["ContainerDefinitions"]
    after["Resources"]["Web"]["Properties"]["ContainerDefinitions"] = [web]

    assert after == TEMPLATE
    assert sensor["Secrets"] == [{"Name": "VSENSOR_HMAC_KEY", "ValueFrom": key}]
    assert sensor["LinuxParameters"] == {"Capabilities": {"Drop": list(sidecar.DROPPED)}}
    assert sensor["LogConfiguration"]["Options"]["awslogs-group"] == {"Ref": "Logs"}
    assert [name for name in sensor if not name[0].isupper()] == []


def test_the_properties_alone_come_out_as_those_of_the_template(add: Any) -> None:
    properties = TEMPLATE["Resources"]["Web"]["Properties"]

    assert add(properties).document == add(TEMPLATE).document["Resources"]["Web"]["Properties"]


@pytest.mark.slow
def test_a_template_with_the_sensor_is_clean_to_cfn_lint(add: Any, tmp_path: Path) -> None:
    arguments = (*ARGUMENTS[:-1], '{"Ref": "SensorKey"}')
    file = tmp_path / "template.json"
    file.write_text(json.dumps(add(TEMPLATE, arguments=arguments).document))

    lint = subprocess.run([Path(sys.executable).with_name("cfn-lint"), file], capture_output=True, text=True)  # noqa: PLW1510  below

    assert (lint.returncode, lint.stdout, lint.stderr) == (0, "", "")


@pytest.mark.parametrize(
    "item",
    [
        {"Fn::If": ["Debug", {"Name": "OSSENSOR_DEBUG", "Value": "5"}, {"Ref": "AWS::NoValue"}]},
        {"Name": {"Ref": "Which"}, "Value": "5"},
    ],
)
def test_an_item_of_a_list_that_is_computed_or_named_by_what_is_stays_in_it(item: Any, add: Any) -> None:
    resource = add(RESOURCE).document
    resource["Properties"]["ContainerDefinitions"][1]["Environment"].insert(0, item)

    assert add(resource).document == resource


def test_of_several_definitions_the_named_ones_get_the_sensor(add: Any) -> None:
    template = copy.deepcopy(TEMPLATE)
    template["Resources"]["Other"] = RESOURCE

    after = add(template, "--resource", "Other").document["Resources"]

    assert [len(after[name]["Properties"]["ContainerDefinitions"]) for name in ("Web", "Other")] == [1, 2]
    assert add(template).refusals == [
        "say which AWS::ECS::TaskDefinition is meant with --resource; the template has: Other, Web"
    ]
    assert add(template, "--resource", "Mine").refusals == [
        "--resource Mine: no AWS::ECS::TaskDefinition of the template; it has: Other, Web"
    ]


def test_a_list_of_containers_says_that_its_task_was_not_looked_at(add: Any) -> None:
    run = add(CONTAINERS, "--log-group", "g", "--log-region", "r")

    assert [c["name"] for c in run.document] == ["web", "ossensor"]
    assert [fault.partition(":")[2][:45] for fault in run.faults] == [
        " note: a list of containers says nothing of it"[:45]
    ]


# -- what is refused --------------------------------------------------------------------------------------------------

LEAST = API["least"]
WEB = LEAST["containerDefinitions"][0]


def with_container(**members: Any) -> dict[str, Any]:
    return {**LEAST, "containerDefinitions": [{**WEB, **members}]}


@pytest.mark.parametrize(
    "given,reason",
    [
        ({**LEAST, "networkMode": "bridge"}, "networkMode is bridge: Fargate runs awsvpc only"),
        ({k: v for k, v in LEAST.items() if k != "networkMode"}, "networkMode is missing"),
        ({**LEAST, "requiresCompatibilities": ["EC2"]}, "requiresCompatibilities is EC2: not meant for Fargate"),
        (
            {**LEAST, "runtimePlatform": {"operatingSystemFamily": "WINDOWS_SERVER_2022_CORE"}},
            "operatingSystemFamily is WINDOWS_SERVER_2022_CORE",
        ),
        ({k: v for k, v in LEAST.items() if k != "executionRoleArn"}, "executionRoleArn is missing"),
        ({k: v for k, v in LEAST.items() if k != "cpu"}, "cpu is missing"),
        ({**LEAST, "cpu": "300"}, "cpu is 300: Fargate has 256, 512"),
        ({**LEAST, "cpu": "a lot"}, "cpu is 'a lot': not a size"),
        ({**LEAST, "cpu": "0.25"}, "cpu is '0.25': not a size"),
        ({**LEAST, "memory": "1536"}, "memory is 1536: with 256 of CPU, Fargate has 512, 1024, 2048 MiB"),
        ({**LEAST, "ipcMode": "task"}, "ipcMode: not on Fargate"),
        ({**LEAST, "pidMode": "host"}, "pidMode is host"),
        ({**LEAST, "placementConstraints": [{"type": "memberOf"}]}, "placementConstraints: not on Fargate"),
        ({**LEAST, "volumes": [{"name": "v", "host": {"sourcePath": "/var"}}]}, "volume 'v': sourcePath is a folder"),
        ({**LEAST, "volumes": [{"name": "v", "dockerVolumeConfiguration": {"scope": "task"}}]}, "volume 'v': docker"),
        (with_container(privileged=True), "container 'web': privileged: not on Fargate"),
        (with_container(links=["db"]), "container 'web': links: not on Fargate"),
        (
            with_container(linuxParameters={"capabilities": {"add": ["NET_ADMIN", "SYS_PTRACE"]}}),
            "container 'web': capabilities NET_ADMIN: on Fargate only SYS_PTRACE can be added",
        ),
        (with_container(linuxParameters={"devices": [{"hostPath": "/dev/x"}]}), "container 'web': devices: not on"),
        (with_container(linuxParameters={"sharedMemorySize": 64}), "container 'web': sharedMemorySize: not on"),
        (with_container(hostname="web"), "container 'web': hostname: not on Fargate"),
        (with_container(portMappings=[{"containerPort": 80, "hostPort": 8080}]), "container 'web': hostPort 8080 is"),
        (with_container(logConfiguration={"logDriver": "syslog"}), "container 'web': log driver syslog"),
        (with_container(resourceRequirements=[{"type": "GPU", "value": "1"}]), "container 'web': a GPU: not on"),
        (
            with_container(memory=512),
            "memory is 512 MiB; its containers reserve 512 and the sensor needs 256: give the",
        ),
        (with_container(name="ossensor"), "container 'ossensor' is there and is no sensor: choose another --name"),
        (
            with_container(environment=[{"name": "VSENSOR_HOSTNAME", "value": "v"}]),
            "container 'web' is a sensor already; two would send everything twice: --name web updates it",
        ),
        (
            {**LEAST, "containerDefinitions": [{**WEB, "name": f"w{n}"} for n in range(10)]},
            "10 containers are there, and a task has 10 at most",
        ),
        ({**LEAST, "containerDefinitions": []}, "containerDefinitions: is not there, or no list of containers"),
        ({**LEAST, "containerDefinitions": ["web"]}, "containerDefinitions[0]: not an object"),
        ({"family": "web"}, "containerDefinitions: is not there"),
        ("web", "not a task definition"),
        (b"Resources:\n  Web:\n", "stdin is no JSON: Expecting value: line 1 column 1 (char 0); a template in YAML"),
        (b"{", "stdin is no JSON"),
        (b"\xff", "stdin is no JSON"),
    ],
)
def test_what_cannot_work_is_refused_with_its_reason(given: Any, reason: str, add: Any) -> None:
    (refusal,) = add(given).refusals

    assert refusal.startswith(reason)


@pytest.mark.parametrize(
    "more,reason",
    [
        (["--env", "NETWORK_DEVICE_EXCLUDELIST=*eth"], "NETWORK_DEVICE_EXCLUDELIST"),
        (["--env", "BPF=tcp prt 80"], "BPF"),
        (["--env", "OSSENSOR_DEBUG=9"], "OSSENSOR_DEBUG"),
        (["--env", "OSSENSOR_DRAIN_SECONDS=116"], "OSSENSOR_DRAIN_SECONDS: Fargate waits 120 s at most"),
        (["--env", "OSSENSOR_MEMORY_MB=129"], "OSSENSOR_MEMORY_MB is 129: with --memory 256 it can be 128 at most"),
        (["--env", "VSENSOR_HMAC_KEY=0123"], "--env VSENSOR_HMAC_KEY: a key does not stand in a task definition"),
        (["--env", "a key, by mistake"], "--env: not NAME=VALUE"),
        (["--memory", "191"], "--memory 191: the sensor needs 192 MiB at least"),
        (["--log-group", "g"], "--log-group and --log-region: give both or neither"),
        (["--resource", "Web"], "--resource: the document is no CloudFormation template"),
        (["--vsensor", "https://vsensor.example"], "VSENSOR_HOSTNAME"),
        (["--env", "OSSENSOR_DRAIN_SECONDS=" + "9" * 5000], "OSSENSOR_DRAIN_SECONDS"),
        (["--key-secret", "0123" * 16], "--key-secret: not the ARN of a secret"),
        (["--name", "the sensor"], "--name 'the sensor': letters, digits, - and _"),
        (["--image", ""], "--image: is empty"),
    ],
)
def test_what_the_sensor_itself_would_refuse_is_refused_before_it_is_deployed(
    more: list[str], reason: str, add: Any
) -> None:
    (refusal,) = add(LEAST, *more).refusals

    assert refusal.startswith(reason)
    assert "0123" not in refusal
    assert "by mistake" not in refusal


def test_all_faults_are_told_at_once(add: Any) -> None:
    given = {**with_container(privileged=True, links=["db"]), "networkMode": "host", "cpu": "300", "memory": "128"}

    refusals = add(given, "--env", "OSSENSOR_DEBUG=9", "--env", "BPF=(").refusals

    assert [re.split(r"[: ]", refusal)[0] for refusal in refusals] == [
        *("networkMode", "cpu", "container", "container", "memory", "OSSENSOR_DEBUG", "BPF"),
    ]


def test_a_computed_environment_is_refused_and_not_overwritten(add: Any) -> None:
    resource = add(RESOURCE).document
    computed = {"Fn::If": ["A", [], []]}
    resource["Properties"]["ContainerDefinitions"][1] |= {"Environment": computed}
    resource["Properties"]["ContainerDefinitions"][1]["Secrets"].append({"Name": "VSENSOR_HOSTNAME", "ValueFrom": "x"})

    (refusal,) = add(resource).refusals

    assert refusal.startswith("container 'ossensor': Environment is no list, or computed")


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_what_comes_out_is_json_whatever_the_locale(encoding: str) -> None:
    given = copy.deepcopy(API["log to be shared"])
    given["containerDefinitions"][0].setdefault("dockerLabels", {})["owner"] = "Jürgen 日本"
    argv = [sys.executable, "-m", "ossensor", "ecs", "add-sidecar", *ARGUMENTS]
    environ = {**os.environ, "PYTHONIOENCODING": encoding}
    done = subprocess.run(argv, input=json.dumps(given).encode(), capture_output=True, check=True, env=environ)

    out = json.loads(done.stdout)
    assert out["containerDefinitions"][0]["dockerLabels"]["owner"] == "Jürgen 日本"
    assert ("Jürgen 日本".encode() in done.stdout) == (encoding == "utf-8")
