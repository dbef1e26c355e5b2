"""/health, /metrics and /props: what they say follows from what was asked of the server."""

from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families

from tests.serving import GREEDY, NAME, TOKENIZER, Served, served
from tplaunch.coordinator.serving.channel import WorkerError


def metrics(server: Served) -> dict[tuple[str, ...], float]:
    """Returns the values by name and the labels besides the model's."""
    response = server.get("/metrics")
    assert response.headers["content-type"].startswith("text/plain")
    found = {}
    for family in text_string_to_metric_families(response.text):
        for sample in family.samples:
            assert sample.name.startswith("tplaunch:") and sample.labels.pop("model_name") == NAME
            key = (sample.name.removeprefix("tplaunch:"), *sample.labels.values())
            found[key] = sample.value
    return found


def test_metrics_count_what_was_computed() -> None:
    with served() as server:
        before = metrics(server)
        assert before["num_requests_running",] == before["generation_tokens_total",] == 0
        with server.one_by_one():
            for _ in range(2):
                body = server.post("/v1/completions", prompt=[5] * 20, max_tokens=4, n=2, **GREEDY).json()
                assert len(body["choices"]) == 2
            server.post("/v1/completions", prompt=[5], max_tokens=0)
            server.post("/v1/completions", prompt=[6], max_tokens=50, **GREEDY)
        after = metrics(server)
    assert after["generation_tokens_total",] == 66
    assert after["request_success_total", "length"] == 5
    assert after["time_to_first_token_seconds_count",] == after["e2e_request_latency_seconds_count",] == 3
    assert after["inter_token_latency_seconds_count",] == 2 * 2 * 3 + 49
    assert after["prefix_cache_hits_total",] > 0
    assert after["prefix_cache_queries_total",] >= after["prefix_cache_hits_total",]
    assert after["num_requests_running",] == after["num_requests_waiting",] == 0
    assert 0 <= after["kv_cache_usage_perc",] <= 1 and after["healthy",] == 1
    assert after["steps_total",] > 0 and after["num_preemptions_total",] == 0
    ranks = {key[2] for key in after if key[0] == "rank_seconds_total"}
    assert ranks == {"0", "1"}


def test_health_turns_red_when_a_rank_dies() -> None:
    with served() as server:
        assert server.get("/health").json() == {"status": "ok"}
        assert server.run is not None

        def die() -> None:
            raise WorkerError(1, "rank 1 (fake) ended: exit code 3")

        server.run.on_look = die
        assert server.opened.driver._thread is not None
        server.opened.driver._thread.join(30)
        response = server.get("/health")
        assert response.status_code == 503 and "rank 1" in response.json()["reason"]
        asked = server.post("/v1/completions", prompt=[5])
        assert asked.status_code == 503 and "rank 1" in asked.json()["error"]["message"]
        assert metrics(server)["healthy",] == 0


def test_props_tell_of_the_model(server: Served) -> None:
    found = server.get("/props").json()
    assert found["model_alias"] == NAME and found["total_slots"] == 8
    assert found["default_generation_settings"]["n_ctx"] == 64
    assert found["default_generation_settings"]["params"]["temperature"] == 0.8
    assert found["eos_token"] == TOKENIZER.token_text(TOKENIZER.eos_token_id or 0)


def test_the_document_describes_paths_and_bodies(server: Served) -> None:
    document = server.get("/openapi.json").json()
    paths = document["paths"]
    assert {"/v1/chat/completions", "/v1/completions", "/v1/models", "/health"} <= paths.keys()
    body = paths["/v1/chat/completions"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert body["required"] == ["messages"] and "tools" in body["properties"]
    assert "$defs" not in str(document)
