"""Task definitions as people have them: one of each shape, and the odd ones. Values name nothing that exists."""

from __future__ import annotations

from typing import Any, Final

ROLE: Final = "arn:aws:iam::123456789012:role/ecsTaskExecutionRole"
_LOG: Final = {
    "logDriver": "awslogs",
    "options": {"awslogs-group": "/ecs/web", "awslogs-region": "eu-west-1", "awslogs-stream-prefix": "web"},
}
_WEB: Final = {"name": "web", "image": "web:1", "portMappings": [{"containerPort": 80, "protocol": "tcp"}]}


def _task(*containers: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {
        "family": "web",
        "networkMode": "awsvpc",
        "requiresCompatibilities": ["FARGATE"],
        "cpu": "256",
        "memory": "512",
        "executionRoleArn": ROLE,
        "containerDefinitions": list(containers) or [_WEB],
        **more,
    }


# What `register-task-definition --cli-input-json` takes.
API: Final[dict[str, dict[str, Any]]] = {
    "least": _task(),
    "no compatibilities said": {k: v for k, v in _task().items() if k != "requiresCompatibilities"},
    "log to be shared": _task({**_WEB, "logConfiguration": _LOG}),
    "sizes with units": _task(cpu=".5 vCPU", memory="1GB"),
    "arm": _task(runtimePlatform={"cpuArchitecture": "ARM64", "operatingSystemFamily": "LINUX"}),
    "containers in order": _task(
        {**_WEB, "dependsOn": [{"containerName": "migrate", "condition": "SUCCESS"}], "memoryReservation": 128},
        {"name": "migrate", "image": "web:1", "command": ["migrate"], "essential": False, "memory": 128},
    ),
    "volumes and a debugger": _task(
        {
            **_WEB,
            "mountPoints": [{"sourceVolume": "data", "containerPath": "/data"}],
            "linuxParameters": {"capabilities": {"add": ["SYS_PTRACE"]}, "initProcessEnabled": True},
        },
        volumes=[{"name": "data", "efsVolumeConfiguration": {"fileSystemId": "fs-1", "transitEncryption": "ENABLED"}}],
        pidMode="task",
        ephemeralStorage={"sizeInGiB": 50},
    ),
    "firelens": _task(
        {**_WEB, "logConfiguration": {"logDriver": "awsfirelens", "options": {"Name": "cloudwatch"}}},
        {"name": "router", "image": "router:1", "firelensConfiguration": {"type": "fluentbit"}},
        cpu="1024",
        memory="2048",
    ),
    "mesh": _task(
        _WEB,
        {"name": "envoy", "image": "envoy:1", "user": "1337"},
        proxyConfiguration={
            "type": "APPMESH",
            "containerName": "envoy",
            "properties": [{"name": "ProxyIngressPort", "value": "15000"}],
        },
    ),
    "nine containers": _task(*({**_WEB, "name": f"web{n}", "portMappings": []} for n in range(9))),
    "a sensor of an earlier day": _task(
        _WEB,
        {
            "name": "ossensor",
            "image": "ossensor:0",
            "essential": True,
            "memory": 192,
            "environment": [
                {"name": "BPF", "value": "tcp"},
                {"name": "VSENSOR_HOSTNAME", "value": "old.example"},
                {"name": "VSENSOR_HMAC_KEY", "value": "in the clear, for all to read"},
                {"name": "OSSENSOR_MEMORY_MB", "value": "64"},
            ],
            "dockerLabels": {"owner": "security"},
            "linuxParameters": {"initProcessEnabled": False},
        },
    ),
}

# What `describe-task-definition --include TAGS` prints.
DESCRIBED: Final[dict[str, Any]] = {
    "taskDefinition": {
        **_task({**_WEB, "cpu": 0, "essential": True, "environment": [], "mountPoints": [], "volumesFrom": []}),
        "taskDefinitionArn": "arn:aws:ecs:eu-west-1:123456789012:task-definition/web:7",
        "revision": 7,
        "status": "ACTIVE",
        "requiresAttributes": [{"name": "ecs.capability.execution-role-awslogs"}],
        "compatibilities": ["EC2", "FARGATE"],
        "registeredAt": "2026-11-01T10:00:00+00:00",
        "registeredBy": "arn:aws:iam::123456789012:user/somebody",
        "placementConstraints": [],
        "volumes": [],
    },
    "tags": [{"key": "team", "value": "web"}],
}

# The console's JSON view has the same members without the envelope.
CONSOLE: Final[dict[str, Any]] = {**DESCRIBED["taskDefinition"], "tags": DESCRIBED["tags"]}

_PROPERTIES: Final[dict[str, Any]] = {
    "Family": "web",
    "NetworkMode": "awsvpc",
    "RequiresCompatibilities": ["FARGATE"],
    "Cpu": {"Ref": "TaskCpu"},
    "Memory": "1024",
    "ExecutionRoleArn": {"Fn::GetAtt": ["ExecutionRole", "Arn"]},
    "ContainerDefinitions": [
        {
            "Name": "web",
            "Image": {"Fn::Sub": "${Repository}:1"},
            "LogConfiguration": {
                "LogDriver": "awslogs",
                "Options": {
                    "awslogs-group": {"Ref": "Logs"},
                    "awslogs-region": {"Ref": "AWS::Region"},
                    "awslogs-stream-prefix": "web",
                },
            },
        }
    ],
}

RESOURCE: Final[dict[str, Any]] = {"Type": "AWS::ECS::TaskDefinition", "Properties": _PROPERTIES}

TEMPLATE: Final[dict[str, Any]] = {
    "AWSTemplateFormatVersion": "2010-09-09",
    "Parameters": {
        "TaskCpu": {"Type": "String", "Default": "256"},
        "Repository": {"Type": "String"},
        "SensorKey": {"Type": "String"},
    },
    "Resources": {
        "Logs": {"Type": "AWS::Logs::LogGroup"},
        "ExecutionRole": {
            "Type": "AWS::IAM::Role",
            "Properties": {
                "AssumeRolePolicyDocument": {
                    "Version": "2012-10-17",
                    "Statement": [
                        {
                            "Effect": "Allow",
                            "Action": "sts:AssumeRole",
                            "Principal": {"Service": "ecs-tasks.amazonaws.com"},
                        }
                    ],
                }
            },
        },
        "Web": RESOURCE,
    },
}

# Terraform's container_definitions, which has no task around it.
CONTAINERS: Final[list[dict[str, Any]]] = [_WEB]
