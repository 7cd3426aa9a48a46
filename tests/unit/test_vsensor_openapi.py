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
from test_vsensor_kit import PATIENCE_S, Running
from test_vsensor_lookout import say_everything
from test_vsensor_operator import BLOCK, TOKEN, Operator

from ossensor.transport.orders import Report
from ossensor.vsensor import openapi

EXAMPLES = int(os.environ.get("OSSENSOR_API_EXAMPLES", "10"))  # of each operation; 200 with `make fuzz`
LONG = "OSSENSOR_API_EXAMPLES" in os.environ  # from another seed each time; here it is always the same one
SEED = int(os.environ.get("OSSENSOR_SEED", random.randrange(2**32) if LONG else 1))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    print(f"seed {SEED}, {EXAMPLES} examples")
    with Running(tmp_path_factory.mktemp("api") / "store", operator_token=TOKEN) as server:
        yield server


# Not the stream, which never ends: test_vsensor_lookout.py reads it.
SCHEMA = schemathesis.openapi.from_dict(openapi.document()).exclude(path="/v1/events")
# What the schema lets through may still be no order: that an end comes after its beginning, no schema says.
NOT_TRUE_HERE = [checks.positive_data_acceptance]


def ask(case: Any, server: Running) -> int:
    """The status of a reply that is as the document says."""
    response = case.call_and_validate(
        base_url=f"https://{server.authority}",
        headers={"Authorization": TOKEN.header},
        verify=str(server.pair.certificate),
        timeout=PATIENCE_S,
        excluded_checks=NOT_TRUE_HERE,
    )
    return int(response.status_code)


def test_what_is_there_is_answered_as_the_document_says(server: Running) -> None:
    say_everything(server)
    operator = Operator(server)
    operator.order(BLOCK)
    book = operator.ask("GET")[1]
    report = Report("enforce", book["book"], book["version"], {"a": {"matched": 1}}, {"a": "why"})
    server.wire.send(server.signer.report(report))
    answers = [
        SCHEMA["/v1/sensors"]["GET"].Case(),
        SCHEMA["/v1/sensors/{name}"]["GET"].Case(path_parameters={"name": "sensor-1"}),
        SCHEMA["/v1/antigena/actions"]["GET"].Case(),
        SCHEMA["/v1/antigena/actions/{id}/extend"]["POST"].Case(
            path_parameters={"id": "a"}, body={"duration_s": 1}, media_type="application/json"
        ),
        SCHEMA["/v1/antigena/actions/{id}"]["DELETE"].Case(path_parameters={"id": "a"}),
    ]

    assert [ask(case, server) for case in answers] == [200] * 5


@SCHEMA.parametrize()
@hypothesis.settings(
    max_examples=EXAMPLES, deadline=None, database=None, suppress_health_check=list(hypothesis.HealthCheck)
)
@hypothesis.seed(SEED)
def test_every_operation_answers_as_the_document_says(case: Any, server: Running) -> None:
    server.clock.now_s += 60  # what was tried with a wrong token is forgotten by then
    ask(case, server)
