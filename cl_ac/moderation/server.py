"""A moderator that answers HTTP requests: texts are judged in batches, and nothing of them is kept or logged."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from typing import Any

from cl_ac.errors import ConfigurationError, UserError
from cl_ac.moderation.moderator import Verdict

HOST = "127.0.0.1"
# Of a request.
MOST_BYTES = 2**20


@dataclass(frozen=True)
class Serving:
    """How requests are answered.

    Args:
        batch: texts that are judged together at most.
        queue: requests that wait at most; more are told to come again.
        wait: milliseconds that a batch waits for more texts.
    """

    batch: int = 32
    queue: int = 256
    wait: float = 2.0

    def __post_init__(self) -> None:
        for name in ("batch", "queue"):
            if getattr(self, name) < 1:
                raise ConfigurationError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if not 0 <= self.wait < float("inf"):
            raise ConfigurationError(f"wait is {self.wait:g}; it must be at least 0, and finite")


class Refused(Exception):
    """A request that is not answered: a status and one sentence."""

    def __init__(self, status: int, sentence: str):
        super().__init__(sentence)
        self.status, self.sentence = status, sentence


@dataclass(frozen=True)
class Waiting:
    """A request that waits."""

    texts: Sequence[str]
    answer: "asyncio.Future[list[Verdict]]"


class Batches:
    """Requests wait in a bounded queue, and are judged together.

    Args:
        judge: what judges texts.
        serving: the bounds.
    """

    def __init__(self, judge: Callable[[Sequence[str]], list[Verdict]], serving: Serving):
        self.judge, self.serving = judge, serving
        self.waiting: asyncio.Queue[Waiting] = asyncio.Queue(serving.queue)
        self.next: Waiting | None = None

    async def ask(self, texts: Sequence[str]) -> list[Verdict]:
        """Verdicts on the texts of one request.

        Raises:
            Refused: if too many requests wait, or the texts cannot be judged.
        """
        answer = asyncio.get_running_loop().create_future()
        try:
            self.waiting.put_nowait(Waiting(texts, answer))
        except asyncio.QueueFull:
            raise Refused(503, f"{self.serving.queue} requests wait already; come again") from None
        return await answer

    async def work(self) -> None:
        """Judges what waits, for ever."""
        while True:
            together = await self._gather()
            if await self._judge(together) or len(together) == 1:
                continue
            # A text that cannot be judged is its own request's failure, not that of others that came with it.
            for each in together:
                await self._judge([each])

    async def _judge(self, together: Sequence[Waiting]) -> bool:
        """Answers requests; whether that went well, or there was a single one, which is told what went wrong."""
        try:
            verdicts = iter(await asyncio.to_thread(self.judge, [text for each in together for text in each.texts]))
            found = [[next(verdicts) for _ in each.texts] for each in together]
        # Whatever goes wrong with one batch, the next one is answered.
        except Exception as error:
            if len(together) > 1:
                return False
            told = isinstance(error, UserError)
            sentence = str(error) if told else f"failed with {type(error).__name__}"
            if not together[0].answer.done():
                together[0].answer.set_exception(Refused(400 if told else 500, sentence))
            return False
        for each, its in zip(together, found, strict=True):
            if not each.answer.done():
                each.answer.set_result(its)
        return True

    async def _gather(self) -> list[Waiting]:
        """The requests of the next batch: at least one, what waits already, and what comes within the time to wait; one
        that would make it too large begins the next."""
        together = [self.next if self.next is not None else await self.waiting.get()]
        self.next = None
        count = len(together[0].texts)
        loop = asyncio.get_running_loop()
        until = loop.time() + self.serving.wait / 1000
        while count < self.serving.batch:
            try:
                following = self.waiting.get_nowait()
            except asyncio.QueueEmpty:
                try:
                    following = await asyncio.wait_for(self.waiting.get(), max(until - loop.time(), 0.0))
                except TimeoutError:
                    break
            count += len(following.texts)
            if count > self.serving.batch:
                self.next = following
                break
            together.append(following)
        return together


def application(judge: Callable[[Sequence[str]], list[Verdict]], serving: Serving = Serving()) -> Any:
    """The web application: `POST /score` with `{"texts": […]}`, and `GET /health`; everything it says is JSON.

    Raises:
        ConfigurationError: if the library for servers is missing.
    """
    starlette = _library()

    async def score(request: Any) -> Any:
        texts = await _texts(request, serving)
        verdicts = await batches.ask(texts) if texts else []
        return starlette.responses.JSONResponse({"results": [asdict(each) for each in verdicts]})

    async def health(request: Any) -> Any:
        return starlette.responses.JSONResponse({"status": "ready", "waiting": batches.waiting.qsize()})

    async def refused(request: Any, error: Any) -> Any:
        status = error.status if isinstance(error, Refused) else getattr(error, "status_code", 500)
        sentence = error.sentence if isinstance(error, Refused) else getattr(error, "detail", type(error).__name__)
        headers = {"Retry-After": "1"} if status == 503 else None
        return starlette.responses.JSONResponse({"error": sentence}, status, headers)

    @asynccontextmanager
    async def working(app: Any) -> AsyncIterator[None]:
        worker = asyncio.create_task(batches.work())
        yield
        worker.cancel()

    batches = Batches(judge, serving)
    routes = [
        starlette.routing.Route("/score", score, methods=["POST"]),
        starlette.routing.Route("/health", health, methods=["GET"]),
    ]
    kinds: dict[Any, Any] = dict.fromkeys((Refused, starlette.exceptions.HTTPException), refused)
    return starlette.applications.Starlette(routes=routes, exception_handlers=kinds, lifespan=working)


async def _texts(request: Any, serving: Serving) -> list[str]:
    """The texts of a request.

    Raises:
        Refused: with the one sentence that says what is wrong.
    """
    import json

    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > MOST_BYTES:
            raise Refused(413, f"a request has at most {MOST_BYTES} bytes")
    try:
        content = json.loads(bytes(body))
    # Brackets in thousands of brackets are a RecursionError.
    except (ValueError, RecursionError):
        raise Refused(400, 'the request is no JSON; send {"texts": ["…"]}') from None
    texts = content.get("texts") if isinstance(content, dict) else None
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise Refused(400, 'the request has no list of texts; send {"texts": ["…"]}')
    if len(texts) > serving.batch:
        raise Refused(413, f"a request has at most {serving.batch} texts, and this one has {len(texts)}")
    empty = [place for place, text in enumerate(texts, 1) if not text.strip()]
    if empty:
        raise Refused(400, f"text {empty[0]} is empty")
    # JSON can name halves of characters, which are none.
    broken = [place for place, text in enumerate(texts, 1) if any("\ud800" <= each <= "\udfff" for each in text)]
    if broken:
        raise Refused(400, f"text {broken[0]} is no valid Unicode")
    return texts


def serve(judge: Callable[[Sequence[str]], list[Verdict]], port: int, serving: Serving = Serving()) -> None:
    """Answers on the loopback address until it is interrupted. Requests are not logged.

    Raises:
        ConfigurationError: if the library for servers is missing, or the port is taken.
    """
    import socket

    app = application(judge, serving)
    import uvicorn

    with socket.socket() as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind((HOST, port))
        except (OSError, OverflowError) as error:
            raise ConfigurationError(f"port {port} cannot be listened on ({error}); choose another") from error
        print(f"listening on http://{HOST}:{listening.getsockname()[1]}", flush=True)
        uvicorn.Server(uvicorn.Config(app, log_level="warning", access_log=False)).run(sockets=[listening])


def _library() -> Any:
    """The library `starlette`; `uvicorn` runs what is made with it."""
    try:
        import starlette.applications
        import starlette.exceptions
        import starlette.responses
        import starlette.routing
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise ConfigurationError("serving needs starlette and uvicorn; install cl_ac[serve]") from error
    return starlette
