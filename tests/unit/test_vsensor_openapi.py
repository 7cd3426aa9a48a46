"""The OpenAPI document against a real vSensor: schemathesis makes requests from it, and holds replies against it."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from typing import Any

import hypothesis
import pytest
import schemathesis
from schemathesis.specs.openapi import checks
from test_vsensor_kit import NOW_S, Clock, Running
from test_vsensor_lookout import say_everything
from test_vsensor_operator import TOKEN

from ossensor.vsensor import openapi

EXAMPLES = int(os.environ.get("OSSENSOR_API_EXAMPLES", "10"))  # of each operation; 200 with `make fuzz`
SEED = int(os.environ.get("OSSENSOR_SEED", random.randrange(2**32)))


class Racing(Clock):
    """A minute for each look at it: what was tried with a wrong token is forgotten at once."""

    def __call__(self) -> float:
        self.now_s += 60
        return self.now_s


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    clock = Clock(NOW_S - 3600)
    with Running(tmp_path_factory.mktemp("api") / "store", clock=clock, operator_token=TOKEN) as server:
        clock.now_s = NOW_S
        say_everything(server)
        clock.__class__ = Racing
        yield server


def schema() -> Any:
    return schemathesis.openapi.from_dict(openapi.document())


# Not the stream, which never ends: test_vsensor_lookout.py reads it.
SCHEMA = schema().exclude(path="/v1/events")
# What the schema lets through may still be no order: that an end comes after its beginning, no schema says.
NOT_TRUE_HERE = [checks.positive_data_acceptance]


@SCHEMA.parametrize()
@hypothesis.settings(
    max_examples=EXAMPLES, deadline=None, database=None, suppress_health_check=list(hypothesis.HealthCheck)
)
@hypothesis.seed(SEED)
def test_every_operation_answers_as_the_document_says(case: Any, server: Running) -> None:
    case.call_and_validate(
        base_url=f"https://{server.authority}",
        headers={"Authorization": TOKEN.header},
        verify=str(server.pair.certificate),
        timeout=20,
        excluded_checks=NOT_TRUE_HERE,
    )
