"""Values that would make a broken or unsafe release are refused before anything is created."""

from __future__ import annotations

import pytest
from chart import CHART, Render

KEDA = '{"group":"g","topics":["t"],"lagThreshold":1,"authenticationRef":"a"}'

REFUSED = {
    "a misspelt value": ("kafkaa.bootstrap=x:1", "additional properties 'kafkaa' not allowed"),
    "a misspelt value of a group": ("workers.orders.replica=3", "additional properties 'replica' not allowed"),
    "a bootstrap without a port": ("kafka.bootstrap=broker", "/kafka/bootstrap"),
    "an unknown protocol": ("kafka.security.protocol=TLS", "/kafka/security/protocol"),
    "SASL without credentials": ("kafka.security.credentialsSecret=", "/kafka/security/credentialsSecret"),
    "OAUTHBEARER without a token endpoint": ("kafka.security.mechanism=OAUTHBEARER", "/kafka/security/tokenURL"),
    "a client certificate without its Secret": ("kafka.security.mutualTLS=true", "/kafka/security/tlsSecret"),
    "a registry certificate without its Secret": ("registry.mutualTLS=true", "/registry/tlsSecret"),
    "a registry URL with a password in it": ("registry.url=http://user:pw@registry", "/registry/url"),
    "an application that is no module and name": ("workers.orders.app=orders", "/workers/orders/app"),
    "a group without an application": ("workers.empty.replicas=1", "missing property 'app'"),
    "a group called as a part of the chart is": ("workers.api.app=a:b", "invalid propertyName 'api'"),
    "a group name that is no DNS label": ("workers.Orders.app=a:b", "invalid propertyName 'Orders'"),
    "a group name too long for its pods' labels": (f"workers.{'o' * 22}.app=a:b", "invalid propertyName"),
    "replicas that are negative": ("workers.orders.replicas=-1", "/workers/orders/replicas"),
    "replicas that are text": ("workers.orders.replicas=three", "/workers/orders/replicas"),
    "a drain of no time": ("workers.orders.drainSeconds=0", "/workers/orders/drainSeconds"),
    "a drain that Kafka does not wait for": ("workers.orders.drainSeconds=300", "/workers/orders/drainSeconds"),
    "a group pattern that is empty": ("lag.groups[0]=", "/lag/groups/0"),
    "a spool without a volume": (
        "workers.orders.settings.HEADWATER_PRODUCER_BACK_PRESSURE=spool",
        "needs a volume, or the events go with the pod: set persistence",
    ),
    "a spool for every pod": (
        "settings.HEADWATER_PRODUCER_BACK_PRESSURE=spool",
        "set it in workers.<group>.settings, with persistence",
    ),
    "a password among the settings": (
        "settings.HEADWATER_REGISTRY_PASSWORD=x",
        "'HEADWATER_REGISTRY_PASSWORD'",
    ),
    "a Redis URL among the settings": (
        "settings.HEADWATER_REDIS_URL=redis://x",
        "'HEADWATER_REDIS_URL'",
    ),
    "a setting that the chart sets itself": (
        "workerDefaults.settings.HEADWATER_WORKER_ID=x",
        "'HEADWATER_WORKER_ID'",
    ),
    "a setting of somebody else": ("settings.FAUST_LOGLEVEL=x", "'FAUST_LOGLEVEL'"),
    "the API without keys": ("api.enabled=true", "/api/keysSecret"),
    "the outbox relay without a database": ("outbox.enabled=true", "/outbox/urlSecret"),
    "no outbox relay that is enabled": ("outbox.replicas=0", "/outbox/replicas"),
    "a Redis certificate without its Secret": ("redis.mutualTLS=true", "/redis/tlsSecret"),
    "a Secret name that is none": ("redis.urlSecret=Not_A_Name", "/redis/urlSecret"),
    "scraping in two ways": ("metrics.scrape=both", "/metrics/scrape"),
    "a digest that is no digest": ("image.digest=latest", "/image/digest"),
}

REFUSED_JSON = {
    "replicas beside an autoscaler": (
        'workers.orders={"app":"a:b","replicas":2,"autoscaling":{"partitions":3,"cpu":{"targetPercent":70}}}',
        "/workers/orders",
    ),
    "two autoscalers": (
        f'workers.orders={{"app":"a:b","autoscaling":{{"partitions":3,"cpu":{{"targetPercent":70}},"keda":{KEDA}}}}}',
        "/workers/orders/autoscaling",
    ),
    "an autoscaler without a sensor": (
        'workers.orders={"app":"a:b","autoscaling":{"partitions":3}}',
        "/workers/orders/autoscaling",
    ),
    "an autoscaler without a ceiling": (
        'workers.orders={"app":"a:b","autoscaling":{"cpu":{"targetPercent":70}}}',
        "missing property 'partitions'",
    ),
    "scaling to zero": (
        'workers.orders={"app":"a:b","autoscaling":{"minReplicas":0,"partitions":3,"cpu":{"targetPercent":70}}}',
        "/workers/orders/autoscaling/minReplicas",
    ),
    "a Headwater setting passed as application variable": (
        'workerDefaults.env=[{"name":"HEADWATER_WORKER_DRAIN","value":"1s"}]',
        "/workerDefaults/env/0/name",
    ),
    "a variable without a value": ('workerDefaults.env=[{"name":"A"}]', "/workerDefaults/env/0"),
}


@pytest.mark.parametrize(("setting", "complaint"), REFUSED.values(), ids=REFUSED)
def test_refuses(setting: str, complaint: str, render: Render) -> None:
    rendered = render(CHART / "ci" / "minimal-values.yaml", "--set", setting)

    assert rendered.returncode != 0
    assert complaint in rendered.stderr


@pytest.mark.parametrize(("setting", "complaint"), REFUSED_JSON.values(), ids=REFUSED_JSON)
def test_refuses_json(setting: str, complaint: str, render: Render) -> None:
    rendered = render(CHART / "ci" / "minimal-values.yaml", "--set-json", setting)

    assert rendered.returncode != 0
    assert complaint in rendered.stderr


@pytest.mark.parametrize("name", ["kafka", "registry"])
def test_a_missing_address_is_named(name: str, render: Render) -> None:
    rendered = render(CHART / "values.yaml", "--set-json", f"{name}=null")

    assert rendered.returncode != 0
    assert f"'{name}'" in rendered.stderr or f"/{name}" in rendered.stderr


def test_the_values_that_the_refusals_start_from_are_accepted(render: Render) -> None:
    rendered = render(CHART / "ci" / "minimal-values.yaml")

    assert rendered.returncode == 0, rendered.stderr
