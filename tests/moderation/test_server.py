"""The application that answers requests, with a client in the same process."""

import asyncio
import threading
from collections.abc import Sequence

import pytest

from cl_ac.errors import ConfigurationError
from cl_ac.moderation.moderator import Verdict
from cl_ac.moderation.server import Serving, application

httpx = pytest.importorskip("httpx")
pytest.importorskip("starlette")


class Judge:
    """Judges by length, and remembers how many texts it was given at once."""

    def __init__(self) -> None:
        self.sizes: list[int] = []
        self.free = threading.Event()
        self.free.set()

    def __call__(self, texts: Sequence[str]) -> list[Verdict]:
        self.free.wait(10)
        self.sizes.append(len(texts))
        if "fail" in texts:
            raise RuntimeError("secret text")
        return [Verdict(len(text) / 100, "safe", None, 1) for text in texts]


def asked(judge: Judge, serving: Serving, ask):
    """What the coroutine `ask` gives, which is handed a client."""

    async def run():
        app = application(judge, serving)
        async with app.router.lifespan_context(app):
            transport = httpx.ASGITransport(app)
            async with httpx.AsyncClient(transport=transport, base_url="http://local") as client:
                return await ask(client)

    return asyncio.run(run())


def test_requests_are_judged_together_and_answered_apart():
    judge = Judge()

    async def ask(client):
        texts = [["a" * count, "b"] for count in range(1, 6)]
        return await asyncio.gather(*(client.post("/score", json={"texts": each}) for each in texts))

    answers = asked(judge, Serving(wait=50), ask)
    assert [each.json()["results"][0]["score"] for each in answers] == [0.01, 0.02, 0.03, 0.04, 0.05]
    assert sum(judge.sizes) == 10
    assert len(judge.sizes) < 5


@pytest.mark.parametrize(
    ("method", "path", "content", "status", "sentence"),
    [
        ("POST", "/score", b"no json", 400, "the request is no JSON"),
        ("POST", "/score", b'{"text": "a"}', 400, "has no list of texts"),
        ("POST", "/score", b'{"texts": ["a", " "]}', 400, "text 2 is empty"),
        ("POST", "/score", b'{"texts": ["a", "b", "c", "d", "e"]}', 413, "at most 4 texts, and this one has 5"),
        ("POST", "/score", b'{"texts": ["' + b"a" * 2**20 + b'"]}', 413, "at most 1048576 bytes"),
        ("POST", "/score", b'{"texts": ["a", "\\ud800"]}', 400, "text 2 is no valid Unicode"),
        ("POST", "/score", b"[" * 200_000, 400, "the request is no JSON"),
        ("POST", "/score", b'{"texts": ["fail"]}', 500, "failed with RuntimeError"),
        ("GET", "/score", b"", 405, "Method Not Allowed"),
        ("GET", "/other", b"", 404, "Not Found"),
    ],
)
def test_errors_are_json_and_tell_nothing_of_texts(method, path, content, status, sentence):
    answer = asked(Judge(), Serving(batch=4), lambda client: client.request(method, path, content=content))
    assert answer.status_code == status
    assert sentence in answer.json()["error"]
    assert "secret" not in answer.text


def test_what_does_not_fit_the_queue_is_told_to_come_again():
    judge = Judge()
    judge.free.clear()

    async def ask(client):
        asking = []
        for _ in range(6):
            asking.append(asyncio.create_task(client.post("/score", json={"texts": ["a"]})))
            await asyncio.sleep(0.1 if len(asking) == 1 else 0)
        done, _ = await asyncio.wait(asking, timeout=0.5)
        health = await client.get("/health")
        judge.free.set()
        statuses = [each.status_code for each in await asyncio.gather(*asking)]
        return [each.result() for each in done], health.json(), statuses

    refused, health, statuses = asked(judge, Serving(batch=1, queue=2, wait=0), ask)
    assert {each.status_code for each in refused} == {503}
    assert {each.headers["Retry-After"] for each in refused} == {"1"}
    assert health == {"status": "ready", "waiting": 2}
    assert sorted(statuses) == [200, 200, 200, 503, 503, 503]


def test_a_text_that_fails_fails_its_own_request_only():
    async def ask(client):
        texts = [["a"], ["fail"], ["b"]]
        return await asyncio.gather(*(client.post("/score", json={"texts": each}) for each in texts))

    assert [each.status_code for each in asked(Judge(), Serving(wait=200), ask)] == [200, 500, 200]


@pytest.mark.parametrize("wait", [0, 100])
def test_no_more_texts_are_judged_together_than_asked_for(wait):
    judge = Judge()

    async def ask(client):
        judge.free.clear()
        asking = [asyncio.create_task(client.post("/score", json={"texts": ["a"] * 3})) for _ in range(5)]
        await asyncio.sleep(0.3)
        judge.free.set()
        return await asyncio.gather(*asking)

    assert {each.status_code for each in asked(judge, Serving(batch=7, wait=wait), ask)} == {200}
    assert max(judge.sizes) == 6
    assert sum(judge.sizes) == 15


def test_bounds_are_checked():
    with pytest.raises(ConfigurationError, match="wait is inf; it must be at least 0, and finite"):
        Serving(wait=float("inf"))
    with pytest.raises(ConfigurationError, match="queue is 0; it must be at least 1"):
        Serving(queue=0)
